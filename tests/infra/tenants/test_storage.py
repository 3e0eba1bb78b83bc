"""A tenant's prefix on a real S3 server with versions: made, and emptied to the last trace."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from infra.cluster.object_storage import s3_client
from infra.tenants.prefix import PrefixProvider

_numbers = itertools.count()


@pytest.fixture
def props(s3_server: str) -> Iterator[dict[str, Any]]:
    """The properties of a prefix in a bucket of its own that keeps versions."""
    bucket = f"artifacts-{next(_numbers)}"
    client = s3_client(s3_server, "ch-gva-2")
    client.create_bucket(Bucket=bucket)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    yield {"bucket": bucket, "prefix": "tenant_acme/", "endpoint": s3_server, "region": "ch-gva-2"}


def keys(props: dict[str, Any]) -> list[str]:
    """Every version and marker in the whole bucket."""
    client = s3_client(props["endpoint"], props["region"])
    pages = client.get_paginator("list_object_versions").paginate(Bucket=props["bucket"])
    return sorted(
        item["Key"] for page in pages for item in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
    )


def test_it_makes_the_three_folders_once(props: dict[str, Any]) -> None:
    provider = PrefixProvider()

    assert provider.create(props).id == f"{props['bucket']}/tenant_acme/"
    provider.create(props)
    provider.update("", props, props)

    assert keys(props) == ["tenant_acme/artifacts/", "tenant_acme/uploads/", "tenant_acme/workspace/"]


def test_deleting_it_leaves_no_version_no_marker_and_no_upload(props: dict[str, Any]) -> None:
    PrefixProvider().create(props)
    client, bucket = s3_client(props["endpoint"], props["region"]), props["bucket"]
    for body in (b"one", b"two"):
        client.put_object(Bucket=bucket, Key="tenant_acme/uploads/file", Body=body)
    client.delete_object(Bucket=bucket, Key="tenant_acme/uploads/file")
    client.put_object(Bucket=bucket, Key="tenant_acme/uploads/a b/ü&<>.txt", Body=b"")
    client.create_multipart_upload(Bucket=bucket, Key="tenant_acme/uploads/unfinished")

    PrefixProvider().delete("", props)

    assert keys(props) == []
    assert not client.list_multipart_uploads(Bucket=bucket, Prefix="tenant_acme/").get("Uploads")


def test_deleting_it_leaves_every_other_tenant_alone(props: dict[str, Any]) -> None:
    client, bucket = s3_client(props["endpoint"], props["region"]), props["bucket"]
    others = ["tenant_acme2/uploads/x", "tenant_acm/uploads/x", "tenant_acme"]
    for key in [*others, "tenant_acme/uploads/x"]:
        client.put_object(Bucket=bucket, Key=key, Body=b"")

    PrefixProvider().delete("", props)

    assert keys(props) == sorted(others)


def test_deleting_it_takes_more_than_one_page(props: dict[str, Any]) -> None:
    client, bucket = s3_client(props["endpoint"], props["region"]), props["bucket"]
    for number in range(1005):
        client.put_object(Bucket=bucket, Key=f"tenant_acme/uploads/{number}", Body=b"")

    PrefixProvider().delete("", props)
    PrefixProvider().delete("", props)

    assert keys(props) == []


@pytest.mark.parametrize("prefix", ["", "/", "tenant_acme"])
def test_a_prefix_that_is_no_folder_deletes_nothing(props: dict[str, Any], prefix: str) -> None:
    s3_client(props["endpoint"], props["region"]).put_object(Bucket=props["bucket"], Key="kept", Body=b"")

    with pytest.raises(RuntimeError, match="nothing is deleted"):
        PrefixProvider().delete("", {**props, "prefix": prefix})

    assert keys(props) == ["kept"]


def test_a_bucket_that_is_gone_holds_nothing(props: dict[str, Any]) -> None:
    gone = {**props, "bucket": "never-was-there"}

    PrefixProvider().delete("", gone)

    assert PrefixProvider().read("id", gone).id == ""


def test_read_sees_whether_there_is_anything(props: dict[str, Any]) -> None:
    provider = PrefixProvider()
    assert provider.read("id", props).id == ""
    provider.create(props)
    assert (provider.read("id", props).id, provider.read("id", props).outs) == ("id", props)


def test_only_another_place_is_a_replacement(props: dict[str, Any]) -> None:
    provider = PrefixProvider()

    assert not provider.diff("", props, props).changes
    moved = provider.diff("", props, {**props, "endpoint": "https://elsewhere.example"})
    assert (moved.changes, moved.replaces) == (True, [])
    assert provider.diff("", props, {**props, "bucket": "other"}).replaces == ["bucket"]


def test_a_refusal_is_told_in_one_line_without_the_secret(
    props: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXOSCALE_API_SECRET", "wrong-secret")

    with pytest.raises(RuntimeError, match="could not be made") as told:
        PrefixProvider().create(props)

    assert "\n" not in str(told.value)
    assert "wrong-secret" not in str(told.value)
