import http.client
import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from local import credentials, ports, supervisor
from local.errors import LocalError
from local.paths import LOGS
from local.servers import Module, object_storage
from tests.local.servers.conftest import Running

BUCKET = "artifacts"
OWN, OTHER = "tenant_a/", "tenant_b/"
Up = Callable[[Module], None]


@pytest.fixture(scope="module", autouse=True)
def _server(running: Running) -> Iterator[None]:
    with running(object_storage):
        yield


def client(key: str, secret: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=object_storage.url(),
        region_name=object_storage.REGION,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(retries={"mode": "standard"}),
    )


def actions(prefix: str) -> list[str]:
    return [f"{action}:{BUCKET}/{prefix}*" for action in ("Read", "Write", "List")]


@pytest.fixture(scope="module")
def owner() -> Any:
    exports = object_storage.environment()
    return client(exports["AWS_ACCESS_KEY_ID"], exports["AWS_SECRET_ACCESS_KEY"])


@pytest.fixture(scope="module", autouse=True)
def _bucket(_server: None, owner: Any) -> None:
    owner.create_bucket(Bucket=BUCKET)
    owner.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    # The second begins with the tenant's name, but not with its prefix.
    for key in (f"{OTHER}x", "tenant_aa/x"):
        owner.put_object(Bucket=BUCKET, Key=key, Body=b"another's")


@pytest.fixture
def tenant() -> Any:
    object_storage.put_identity("tenant-a", "EXOa", "secret-a", actions(OWN))
    return client("EXOa", "secret-a")


def refused(call: Callable[..., Any], **arguments: Any) -> bool:
    """Whether the server answers as it does to somebody who may not."""
    with pytest.raises(ClientError) as told:
        call(Bucket=BUCKET, **arguments)
    return told.value.response["Error"]["Code"] in ("AccessDenied", "403")


def test_below_its_prefix_a_tenant_does_what_it_likes(tenant: Any) -> None:
    for body in (b"1", b"2"):
        tenant.put_object(Bucket=BUCKET, Key=f"{OWN}workspace/f", Body=body)
    assert tenant.get_object(Bucket=BUCKET, Key=f"{OWN}workspace/f")["Body"].read() == b"2"
    tenant.copy_object(
        Bucket=BUCKET, Key=f"{OWN}c", CopySource={"Bucket": BUCKET, "Key": f"{OWN}workspace/f"}
    )
    listed = tenant.list_objects_v2(Bucket=BUCKET, Prefix=OWN)
    assert [item["Key"] for item in listed["Contents"]] == [f"{OWN}c", f"{OWN}workspace/f"]
    versions = tenant.list_object_versions(Bucket=BUCKET, Prefix=f"{OWN}workspace/")["Versions"]
    assert len(versions) == 2
    old = next(version for version in versions if not version["IsLatest"])
    got = tenant.get_object(Bucket=BUCKET, Key=old["Key"], VersionId=old["VersionId"])
    assert got["Body"].read() == b"1"


def test_large_objects_go_up_in_parts(tenant: Any) -> None:
    target = {"Bucket": BUCKET, "Key": f"{OWN}large"}
    upload = tenant.create_multipart_upload(**target)["UploadId"]
    parts = [
        {
            "PartNumber": number,
            "ETag": tenant.upload_part(
                **target, UploadId=upload, PartNumber=number, Body=bytes([number]) * 5 * 2**20
            )["ETag"],
        }
        for number in (1, 2)
    ]
    with pytest.raises(ClientError, match="AccessDenied"):
        tenant.upload_part_copy(
            **target, UploadId=upload, PartNumber=3, CopySource={"Bucket": BUCKET, "Key": f"{OTHER}x"}
        )
    tenant.complete_multipart_upload(**target, UploadId=upload, MultipartUpload={"Parts": parts})
    assert tenant.head_object(**target)["ContentLength"] == 10 * 2**20


@pytest.mark.parametrize("prefix", [OTHER, "tenant_aa/", ""])
def test_elsewhere_it_is_refused(tenant: Any, prefix: str) -> None:
    tenant.put_object(Bucket=BUCKET, Key=f"{OWN}mine", Body=b"")
    foreign, mine = {"Bucket": BUCKET, "Key": f"{prefix}x"}, {"Bucket": BUCKET, "Key": f"{OWN}mine"}
    assert refused(tenant.get_object, Key=foreign["Key"])
    assert refused(tenant.head_object, Key=foreign["Key"])
    assert refused(tenant.put_object, Key=foreign["Key"], Body=b"")
    assert refused(tenant.delete_object, Key=foreign["Key"])
    assert refused(tenant.copy_object, Key=mine["Key"], CopySource=foreign)
    assert refused(tenant.copy_object, Key=foreign["Key"], CopySource=mine)
    assert refused(tenant.create_multipart_upload, Key=foreign["Key"])
    assert refused(tenant.list_objects_v2, Prefix=prefix)
    assert refused(tenant.list_objects, Prefix=prefix)
    assert refused(tenant.list_objects_v2, Prefix=prefix, Delimiter="/")
    assert refused(tenant.list_object_versions, Prefix=prefix)
    both = [{"Key": foreign["Key"]}, {"Key": mine["Key"]}]
    answer = tenant.delete_objects(Bucket=BUCKET, Delete={"Objects": both})
    assert [(error["Key"], error["Code"]) for error in answer["Errors"]] == [(foreign["Key"], "AccessDenied")]


def test_no_detour_leads_elsewhere(tenant: Any, owner: Any) -> None:
    for key in (f"{OWN}../{OTHER}x", f"{OWN}/../../{BUCKET}/{OTHER}x"):
        with pytest.raises(ClientError):
            tenant.get_object(Bucket=BUCKET, Key=key)
        with pytest.raises(ClientError):
            tenant.put_object(Bucket=BUCKET, Key=key, Body=b"mine now")
    assert owner.get_object(Bucket=BUCKET, Key=f"{OTHER}x")["Body"].read() == b"another's"
    assert len(owner.list_object_versions(Bucket=BUCKET, Prefix=OTHER)["Versions"]) == 1


def test_buckets_are_not_its_business(tenant: Any) -> None:
    assert tenant.list_buckets()["Buckets"] == []
    assert refused(tenant.head_bucket)
    assert refused(tenant.delete_bucket)
    assert refused(tenant.get_bucket_policy)
    assert refused(tenant.put_bucket_policy, Policy="{}")
    assert refused(tenant.put_bucket_acl, ACL="public-read")
    assert refused(tenant.put_bucket_versioning, VersioningConfiguration={"Status": "Suspended"})
    assert refused(tenant.put_object_acl, Key=f"{OWN}f", ACL="public-read")
    with pytest.raises(ClientError, match="AccessDenied"):
        tenant.create_bucket(Bucket="tenants-own")


def test_strangers_are_refused() -> None:
    anybody = boto3.client(
        "s3", endpoint_url=object_storage.url(), region_name="x", config=Config(signature_version=UNSIGNED)
    )
    assert refused(anybody.list_objects_v2)
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        client("EXOnobody", "secret").list_buckets()
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        client("EXOa", "not-the-secret").list_buckets()


def test_the_parts_behind_s3_are_closed() -> None:
    filer = http.client.HTTPConnection("127.0.0.1", ports.port("object-storage-filer"), timeout=5)
    for method, path in (("GET", "/etc/iam/identities/"), ("GET", "/buckets/"), ("PUT", "/buckets/x")):
        filer.request(method, path)
        response = filer.getresponse()
        response.read()
        assert response.status == http.HTTPStatus.UNAUTHORIZED


def test_an_identity_is_replaced_whole(tenant: Any) -> None:
    object_storage.put_identity("tenant-a", "EXOa2", "secret-a2", actions(OTHER))
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        tenant.list_objects_v2(Bucket=BUCKET, Prefix=OWN)
    renewed = client("EXOa2", "secret-a2")
    assert renewed.list_objects_v2(Bucket=BUCKET, Prefix=OTHER)["KeyCount"] == 1
    assert refused(renewed.list_objects_v2, Prefix=OWN)


def test_a_deleted_identity_is_refused_at_once(tenant: Any) -> None:
    tenant.list_objects_v2(Bucket=BUCKET, Prefix=OWN)
    object_storage.delete_identity("tenant-a")
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        tenant.list_objects_v2(Bucket=BUCKET, Prefix=OWN)
    object_storage.delete_identity("tenant-a")


def test_a_word_that_the_server_would_misread_is_refused() -> None:
    for words in (
        ("two words", "k", "s", ["Read:b"]),
        ("n", "k", "s\ns3.user.delete -name owner", ["Read:b"]),
        ("n", "k", "s", ["Read:b -apply -delete"]),
        ("n", "k", "", ["Read:b"]),
        ("n", "k", "s", ["Read:b,Admin"]),
    ):
        with pytest.raises(LocalError, match="so it was not made"):
            object_storage.put_identity(*words)


def test_the_first_write_into_a_bucket_makes_one_volume(owner: Any) -> None:
    """A write waits for the volumes that it needs; and many buckets of seven would fill the disk."""
    owner.create_bucket(Bucket="fresh")
    owner.put_object(Bucket="fresh", Key="x", Body=b"x")

    with urllib.request.urlopen(f"http://127.0.0.1:{ports.port('object-storage-volume')}/status") as answer:
        volumes = json.load(answer)["Volumes"]

    assert [volume["Collection"] for volume in volumes].count("fresh") == 1


def test_all_versions_can_be_deleted(tenant: Any, owner: Any) -> None:
    tenant.put_object(Bucket=BUCKET, Key=f"{OWN}gone", Body=b"")
    tenant.delete_object(Bucket=BUCKET, Key=f"{OWN}gone")
    listed = tenant.list_object_versions(Bucket=BUCKET, Prefix=OWN)
    everything = [*listed.get("Versions", []), *listed.get("DeleteMarkers", [])]
    assert any(version["Key"] == f"{OWN}gone" for version in listed["DeleteMarkers"])
    named = [{"Key": version["Key"], "VersionId": version["VersionId"]} for version in everything]
    assert "Errors" not in tenant.delete_objects(Bucket=BUCKET, Delete={"Objects": named})
    left = owner.list_object_versions(Bucket=BUCKET, Prefix=OWN)
    assert "Versions" not in left
    assert "DeleteMarkers" not in left


def test_objects_and_identities_outlive_a_kill(tenant: Any, kill: Up, up: Up) -> None:
    tenant.put_object(Bucket=BUCKET, Key=f"{OWN}late", Body=b"just written")
    kill(object_storage)
    up(object_storage)
    assert tenant.get_object(Bucket=BUCKET, Key=f"{OWN}late")["Body"].read() == b"just written"
    assert refused(tenant.get_object, Key=f"{OTHER}x")
    tenant.put_object(Bucket=BUCKET, Key=f"{OWN}later", Body=b"still works")


def test_secrets_show_nowhere(tenant: Any) -> None:
    pid = supervisor.status(object_storage.services()[0]).pid
    shown = Path(f"/proc/{pid}/cmdline").read_text() + (LOGS / "object-storage.log").read_text()
    for secret in ("secret-a", credentials.secret("exoscale-api-secret")):
        assert secret not in shown


def test_with_the_server_down_it_is_told(up: Up) -> None:
    supervisor.stop("object-storage")
    try:
        with pytest.raises(LocalError, match=r"object-storage: s3.user.show failed .*make status"):
            object_storage.delete_identity("tenant-a")
    finally:
        up(object_storage)
