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
from local.exoscale.policy import Statement, storage_statements
from local.paths import LOGS
from local.servers import Module, object_storage
from tests.local.exoscale.conftest import confined, rules
from tests.local.servers.conftest import Running

BUCKET, LOGS_BUCKET = "artifacts", "logs"
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


def statements(prefix: str) -> list[Statement]:
    """Everything below the prefix, as a tenant's role has it."""
    return storage_statements(confined(BUCKET, prefix))


@pytest.fixture(scope="module")
def owner() -> Any:
    exports = object_storage.environment()
    return client(exports["AWS_ACCESS_KEY_ID"], exports["AWS_SECRET_ACCESS_KEY"])


@pytest.fixture(scope="module", autouse=True)
def _bucket(_server: None, owner: Any) -> None:
    for bucket in (BUCKET, LOGS_BUCKET):
        owner.create_bucket(Bucket=bucket)
        owner.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    # The second begins with the tenant's name, but not with its prefix.
    for key in (f"{OTHER}x", "tenant_aa/x"):
        owner.put_object(Bucket=BUCKET, Key=key, Body=b"another's")


@pytest.fixture
def tenant() -> Any:
    object_storage.put_identity("tenant-a", "EXOa", "secret-a", statements(OWN))
    return client("EXOa", "secret-a")


def refused(call: Callable[..., Any], **arguments: Any) -> bool:
    """Whether the server answers as it does to somebody who may not."""
    with pytest.raises(ClientError) as told:
        call(Bucket=BUCKET, **arguments)
    return told.value.response["Error"]["Code"] in ("AccessDenied", "403")


LISTING = {"list-objects", "list-object-versions", "list-multipart-uploads"}
READING = {"get-object", "head-object"}
PUTTING = {
    "put-object",
    "create-multipart-upload",
    "upload-part",
    "complete-multipart-upload",
    "abort-multipart-upload",
}
DELETING = {"delete-object", "abort-multipart-upload"}
EVERY_OPERATION = LISTING | READING | PUTTING | DELETING | {"list-parts"}


def may(key: Any, bucket: str, prefix: str, owner: Any) -> set[str]:
    """What the server lets this key do below the prefix, each tried in every form that it has."""
    target = {"Bucket": bucket, "Key": f"{prefix}x"}
    whole = {"Bucket": bucket, "Prefix": prefix}
    old = {**target, "VersionId": owner.put_object(**target, Body=b"1")["VersionId"]}
    owner.put_object(**target, Body=b"2")
    uploads = [{**target, "UploadId": owner.create_multipart_upload(**target)["UploadId"]} for _ in range(2)]
    upload, spare = uploads
    part = {"PartNumber": 1, "ETag": owner.upload_part(**upload, PartNumber=1, Body=b"3")["ETag"]}
    source = {"Bucket": bucket, "Key": f"{prefix}x"}
    hold = {"Mode": "GOVERNANCE", "RetainUntilDate": "2040-01-01"}
    attempts: list[tuple[str, Callable[[], Any]]] = [
        ("list-objects", lambda: key.list_objects_v2(**whole)),
        ("list-objects", lambda: key.list_objects(**whole)),
        ("list-objects", lambda: key.list_objects_v2(**whole, Delimiter="/")),
        ("list-object-versions", lambda: key.list_object_versions(**whole)),
        ("list-multipart-uploads", lambda: key.list_multipart_uploads(**whole)),
        ("get-object", lambda: key.get_object(**target)),
        ("get-object", lambda: key.get_object(**old)),
        ("head-object", lambda: key.head_object(**target)),
        ("head-object", lambda: key.head_object(**old)),
        ("put-object", lambda: key.put_object(**target, Body=b"4")),
        ("create-multipart-upload", lambda: key.create_multipart_upload(**target)),
        ("upload-part", lambda: key.upload_part(**upload, PartNumber=2, Body=b"5")),
        ("list-parts", lambda: key.list_parts(**upload)),
        ("complete-multipart-upload", lambda: complete(key, upload, part)),
        ("abort-multipart-upload", lambda: key.abort_multipart_upload(**spare)),
        ("copy-object", lambda: key.copy_object(**target, CopySource=source, MetadataDirective="REPLACE")),
        ("get-object-attributes", lambda: key.get_object_attributes(**target, ObjectAttributes=["ETag"])),
        ("get-object-tagging", lambda: key.get_object_tagging(**target)),
        ("put-object-tagging", lambda: key.put_object_tagging(**target, Tagging={"TagSet": []})),
        ("delete-object-tagging", lambda: key.delete_object_tagging(**target)),
        ("get-object-acl", lambda: key.get_object_acl(**target)),
        ("put-object-acl", lambda: key.put_object_acl(**target, ACL="public-read")),
        ("get-object-retention", lambda: key.get_object_retention(**target)),
        ("put-object-retention", lambda: key.put_object_retention(**target, Retention=hold)),
        ("put-object-legal-hold", lambda: key.put_object_legal_hold(**target, LegalHold={"Status": "ON"})),
        ("delete-object", lambda: key.delete_object(**old)),
        ("delete-object", lambda: key.delete_object(**target)),
        ("delete-object", lambda: delete_many(key, target)),
    ]
    passed: dict[str, set[bool]] = {}
    for operation, attempt in attempts:
        passed.setdefault(operation, set()).add(passes(attempt))
    assert all(len(answers) == 1 for answers in passed.values()), passed
    return {operation for operation, answers in passed.items() if answers == {True}}


def passes(attempt: Callable[[], Any]) -> bool:
    """Whether it is done; another failure than a refusal is one of the test."""
    try:
        attempt()
    except ClientError as error:
        assert error.response["Error"]["Code"] in ("AccessDenied", "403"), error
        return False
    return True


def complete(key: Any, upload: dict[str, str], part: dict[str, Any]) -> None:
    key.complete_multipart_upload(**upload, MultipartUpload={"Parts": [part]})


def delete_many(key: Any, target: dict[str, str]) -> None:
    """Delete by a list; a refusal stands in the answer."""
    answer = key.delete_objects(Bucket=target["Bucket"], Delete={"Objects": [{"Key": target["Key"]}]})
    for error in answer.get("Errors", []):
        raise ClientError({"Error": error}, "DeleteObjects")


def objects(operations: set[str], bucket: str, *prefixes: str) -> str:
    below = " || ".join(f"parameters.key.startsWith('{prefix}')" for prefix in prefixes)
    return f"operation in {sorted(operations)} && parameters.bucket == '{bucket}' && ({below})"


def listings(operations: set[str], bucket: str, *prefixes: str) -> str:
    return objects(operations, bucket, *prefixes).replace("parameters.key", "parameters.prefix")


def holder(name: str, *expressions: str) -> Any:
    """The client of a key whose role has these rules."""
    object_storage.put_identity(name, f"EXO{name}", f"secret-{name}", storage_statements(rules(*expressions)))
    return client(f"EXO{name}", f"secret-{name}")


@pytest.mark.parametrize("operation", sorted(EVERY_OPERATION))
def test_an_operation_is_allowed_by_its_own_name_alone(operation: str, owner: Any) -> None:
    rule = listings if operation in LISTING else objects
    key = holder("single", rule({operation}, LOGS_BUCKET, OWN))
    assert may(key, LOGS_BUCKET, OWN, owner) == {operation}
    for elsewhere in ("tenant_aa/", OWN.upper()):
        assert may(key, LOGS_BUCKET, elsewhere, owner) == set()


def test_part_of_a_prefix_is_given_for_putting_and_another_for_parts(owner: Any) -> None:
    key = holder(
        "parts", objects({"put-object"}, LOGS_BUCKET, "a/"), objects({"upload-part"}, LOGS_BUCKET, "b/")
    )
    assert may(key, LOGS_BUCKET, "a/", owner) == {"put-object"}
    assert may(key, LOGS_BUCKET, "b/", owner) == {"upload-part"}


def collector() -> Any:
    return holder("collector", objects(PUTTING, LOGS_BUCKET, "tenant_", "platform/"))


def test_a_log_collector_only_puts(owner: Any) -> None:
    key = collector()
    for prefix in ("tenant_a/", "tenant_b/x/", "platform/"):
        assert may(key, LOGS_BUCKET, prefix, owner) == PUTTING
    for elsewhere in ("platform2/", "Platform/", "tenants/", "TENANT_a/", ""):
        assert may(key, LOGS_BUCKET, elsewhere, owner) == set()
    assert may(key, BUCKET, "tenant_collected/", owner) == set()


def test_what_a_log_collector_overwrites_is_kept_as_a_version(owner: Any) -> None:
    target = {"Bucket": LOGS_BUCKET, "Key": "platform/log"}
    first = owner.put_object(**target, Body=b"first")["VersionId"]
    collector().put_object(**target, Body=b"second")
    assert owner.get_object(**target, VersionId=first)["Body"].read() == b"first"


def test_a_tenant_reads_its_logs_and_changes_none(owner: Any) -> None:
    key = holder(
        "tenant",
        listings(LISTING, BUCKET, "tenant_t/"),
        objects(EVERY_OPERATION - LISTING, BUCKET, "tenant_t/"),
        listings(LISTING, LOGS_BUCKET, "tenant_t/"),
        objects(READING, LOGS_BUCKET, "tenant_t/"),
    )
    assert may(key, BUCKET, "tenant_t/", owner) == EVERY_OPERATION | {"copy-object"}
    assert may(key, LOGS_BUCKET, "tenant_t/", owner) == LISTING | READING
    for bucket in (BUCKET, LOGS_BUCKET):
        for elsewhere in ("tenant_tt/", "platform/", "tenant_", ""):
            assert may(key, bucket, elsewhere, owner) == set()
    mine = {"Bucket": BUCKET, "Key": "tenant_t/mine"}
    key.put_object(**mine, Body=b"")
    with pytest.raises(ClientError, match="AccessDenied"):
        key.copy_object(Bucket=LOGS_BUCKET, Key="tenant_t/forged", CopySource=mine)


def test_a_retention_job_lists_and_deletes_and_sees_no_contents(owner: Any) -> None:
    prefixes = ("tenant_", "platform/")
    key = holder(
        "retention",
        listings(LISTING, LOGS_BUCKET, *prefixes),
        objects(DELETING, LOGS_BUCKET, *prefixes),
    )
    for prefix in ("tenant_", "tenant_a/", "platform/"):
        assert may(key, LOGS_BUCKET, prefix, owner) == LISTING | DELETING
    for elsewhere in ("tenant", "plat", "other/", ""):
        assert may(key, LOGS_BUCKET, elsewhere, owner) == set()
    assert may(key, BUCKET, "tenant_retained/", owner) == set()


def test_a_part_is_copied_only_where_its_source_may_be_read_and_parts_may_be_put(owner: Any) -> None:
    target, source = {"Bucket": LOGS_BUCKET, "Key": "c/to"}, {"Bucket": LOGS_BUCKET, "Key": "c/from"}
    owner.put_object(**source, Body=b"")
    upload = owner.create_multipart_upload(**target)["UploadId"]
    allowed = {
        operations: passes(
            lambda operations=operations: holder(  # type: ignore[misc]
                "copying", objects(set(operations), LOGS_BUCKET, "c/")
            ).upload_part_copy(**target, UploadId=upload, PartNumber=1, CopySource=source)
        )
        for operations in (
            ("get-object", "upload-part"),
            ("get-object", "put-object"),
            ("put-object", "upload-part", "head-object"),
        )
    }
    assert list(allowed.values()) == [True, False, False]


def test_a_key_that_holds_a_line_feed_is_the_owners_alone(tenant: Any, owner: Any) -> None:
    """Exoscale's policy would allow it; the server's patterns end at a line."""
    target = {"Bucket": BUCKET, "Key": f"{OWN}two\nlines"}
    assert not passes(lambda: tenant.put_object(**target, Body=b""))
    kept = owner.put_object(**target, Body=b"")
    owner.delete_object(**target, VersionId=kept["VersionId"])


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
    object_storage.put_identity("tenant-a", "EXOa2", "secret-a2", statements(OTHER))
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        tenant.list_objects_v2(Bucket=BUCKET, Prefix=OWN)
    renewed = client("EXOa2", "secret-a2")
    assert renewed.list_objects_v2(Bucket=BUCKET, Prefix=OTHER)["KeyCount"] == 1
    assert refused(renewed.list_objects_v2, Prefix=OWN)


def test_a_replaced_policy_counts_at_once(owner: Any) -> None:
    for operation in ("get-object", "put-object") * 2:
        key = holder("changed", objects({operation}, LOGS_BUCKET, "changed/"))
        assert may(key, LOGS_BUCKET, "changed/", owner) == {operation}


def test_a_deleted_identity_is_refused_at_once(tenant: Any) -> None:
    tenant.list_objects_v2(Bucket=BUCKET, Prefix=OWN)
    object_storage.delete_identity("tenant-a")
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        tenant.list_objects_v2(Bucket=BUCKET, Prefix=OWN)
    object_storage.delete_identity("tenant-a")


def test_a_word_that_the_server_would_misread_is_refused() -> None:
    for words in (
        ("two words", "k", "s"),
        ("../n", "k", "s"),
        ("n", "k", "s\ns3.user.delete -name owner"),
        ("n", "k -actions=Admin", "s"),
        ("n", "k", ""),
    ):
        with pytest.raises(LocalError, match="so it was not made"):
            object_storage.put_identity(*words, statements(OWN))


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


def test_objects_and_identities_outlive_a_kill(tenant: Any, owner: Any, kill: Up, up: Up) -> None:
    narrow = collector()
    tenant.put_object(Bucket=BUCKET, Key=f"{OWN}late", Body=b"just written")
    kill(object_storage)
    up(object_storage)
    assert tenant.get_object(Bucket=BUCKET, Key=f"{OWN}late")["Body"].read() == b"just written"
    assert refused(tenant.get_object, Key=f"{OTHER}x")
    tenant.put_object(Bucket=BUCKET, Key=f"{OWN}later", Body=b"still works")
    assert may(narrow, LOGS_BUCKET, "platform/", owner) == PUTTING


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
