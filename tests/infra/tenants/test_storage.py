"""A tenant's prefix on a real S3 server with versions: made, and emptied to the last trace."""

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from infra.cluster.object_storage import s3_client
from infra.tenants.objects import Folder
from infra.tenants.prefix import PrefixProvider
from local.exoscale.policy import storage_statements
from local.servers import object_storage
from tests.local.exoscale.conftest import confined

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


@pytest.fixture
def tenant(props: dict[str, Any]) -> Iterator[Any]:
    """An S3 client with a key for the prefix, as a tenant has it."""
    statements = storage_statements(confined(**place(props)))
    object_storage.put_identity("tenant-acme", "EXOacme", "acme-secret", statements)
    yield boto3.client(
        "s3",
        endpoint_url=props["endpoint"],
        region_name=props["region"],
        aws_access_key_id="EXOacme",
        aws_secret_access_key="acme-secret",
        config=Config(s3={"addressing_style": "path"}, retries={"mode": "standard"}),
    )
    object_storage.delete_identity("tenant-acme")


def put(tenant: Any, target: dict[str, str]) -> None:
    tenant.put_object(**target, Body=b"one")


def hide(tenant: Any, target: dict[str, str]) -> None:
    """Leave two versions below a delete marker."""
    for body in (b"one", b"two"):
        tenant.put_object(**target, Body=body)
    tenant.delete_object(**target)


def begin(tenant: Any, target: dict[str, str]) -> None:
    """Leave an upload unfinished."""
    upload = tenant.create_multipart_upload(**target)["UploadId"]
    tenant.upload_part(**target, UploadId=upload, PartNumber=1, Body=b"one")


DEEDS = (put, hide, begin)
Deed = Callable[[Any, dict[str, str]], None]
KEYS = {
    "a control character": "a\x01b",
    "one at each end": "\x1f/x/\x7f",
    "keys that look alike in a listing": "a\x02b",
    "no character of XML": "\ufffe\uffff\ufffd",
    "white space": " \t\r\n \u2028\u0085",
    "what XML and URLs escape": "a&<>\"'b+%2F%zz?x=1#y",
    "a name that no folder of a disk takes": "n" * 256,
    "1,024 bytes": "n" * (1024 - len("tenant_acme/")),
    "folders": "a//b/",
    "other scripts": "\u00e9e\u0301\u20ac\U0001f600\u202e",
    "the server's own names": "a.versions/.uploads/v_1",
}


@pytest.mark.parametrize("deed", DEEDS)
def test_no_key_that_a_tenant_writes_keeps_its_prefix_from_being_deleted(
    props: dict[str, Any], tenant: Any, deed: Deed
) -> None:
    owner = s3_client(props["endpoint"], props["region"])
    for key in KEYS.values():
        # The server here refuses a line feed to whoever has a policy.
        writer = owner if "\n" in key else tenant
        deed(writer, {"Bucket": props["bucket"], "Key": f"tenant_acme/{key}"})
    folder = Folder(client=owner, **place(props))
    assert folder.versions() or folder.uploads()

    PrefixProvider().delete("", props)

    assert folder.versions() == folder.uploads() == []


def place(props: dict[str, Any]) -> dict[str, Any]:
    return {"bucket": props["bucket"], "prefix": props["prefix"]}


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    written=st.lists(
        st.tuples(
            st.text(
                st.one_of(
                    st.sampled_from("\x01\x1f\x7f/.+%&<> \n\r\ufffe\ufffd\U0010ffff"),
                    st.characters(codec="utf-8", exclude_characters="\0"),
                ),
                min_size=1,
                max_size=40,
            ),
            st.sampled_from(DEEDS),
        ),
        min_size=1,
        max_size=5,
    )
)
@example(written=[("../x", put), ("..", begin), ("./x", hide)])
def test_whatever_a_tenant_wrote_its_prefix_can_be_deleted(
    props: dict[str, Any], tenant: Any, written: list[tuple[str, Deed]]
) -> None:
    for key, deed in written:
        # What the server does not take is not there.
        with contextlib.suppress(ClientError):
            deed(tenant, {"Bucket": props["bucket"], "Key": f"tenant_acme/{key}"})

    PrefixProvider().delete("", props)

    assert PrefixProvider().read("id", props).id == ""


def test_a_server_that_lists_uploads_in_url_encoding_is_understood(
    props: dict[str, Any], tenant: Any
) -> None:
    """As S3's reference has it; the server here sends the keys as they are."""
    client = s3_client(props["endpoint"], props["region"])

    def encode(response_dict: dict[str, Any], **_: Any) -> None:
        body = response_dict["body"].decode()
        key = re.compile("(?<=<Key>)[^<]*(?=</Key>)")
        response_dict["body"] = key.sub(lambda found: quote(found[0]), body).encode()

    client.meta.events.register("before-parse.s3.ListMultipartUploads", encode)
    begin(tenant, {"Bucket": props["bucket"], "Key": "tenant_acme/a+%41 \u00fc"})
    folder = Folder(client=client, **place(props))
    assert [held.key for held in folder.uploads()] == ["tenant_acme/a%2B%2541%20%C3%BC"]

    folder.empty()

    assert folder.uploads() == []


def test_what_cannot_be_deleted_is_named_and_keeps_nothing_else(
    props: dict[str, Any], tenant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("kept", "other"):
        put(tenant, {"Bucket": props["bucket"], "Key": f"tenant_acme/{key}"})
    client = s3_client(props["endpoint"], props["region"])
    delete = client.delete_object

    def refuse(**arguments: Any) -> Any:
        if arguments["Key"].endswith("kept"):
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "held by law"}}, "DeleteObject")
        return delete(**arguments)

    monkeypatch.setattr(client, "delete_object", refuse)

    with pytest.raises(RuntimeError, match=r"is not empty yet: 'tenant_acme/kept': .*held by law"):
        Folder(client=client, **place(props)).empty()

    assert keys(props) == ["tenant_acme/kept"]


def test_a_prefix_of_which_nothing_is_seen_is_still_there(props: dict[str, Any], tenant: Any) -> None:
    """A tenant may delete all that it sees; what it deleted is kept as versions, and so is the prefix."""
    hide(tenant, {"Bucket": props["bucket"], "Key": "tenant_acme/x"})
    assert "Contents" not in tenant.list_objects_v2(Bucket=props["bucket"], Prefix="tenant_acme/")

    assert PrefixProvider().read("id", props).id == "id"

    PrefixProvider().delete("", props)
    begin(tenant, {"Bucket": props["bucket"], "Key": "tenant_acme/x"})

    assert PrefixProvider().read("id", props).id == "id"


def test_deleting_it_leaves_every_other_tenant_alone(props: dict[str, Any]) -> None:
    client, bucket = s3_client(props["endpoint"], props["region"]), props["bucket"]
    others = ["tenant_acme2/uploads/x", "tenant_acm/uploads/x", "tenant_acme"]
    for key in [*others, "tenant_acme/uploads/x"]:
        client.put_object(Bucket=bucket, Key=key, Body=b"")

    PrefixProvider().delete("", props)

    assert keys(props) == sorted(others)


def test_deleting_it_takes_more_than_one_page(props: dict[str, Any]) -> None:
    client, bucket = s3_client(props["endpoint"], props["region"]), props["bucket"]
    with ThreadPoolExecutor(10) as workers:
        for number in range(1005):
            key = f"tenant_acme/uploads/{number}"
            workers.submit(client.put_object, Bucket=bucket, Key=key, Body=b"")
    assert len(keys(props)) == 1005

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
