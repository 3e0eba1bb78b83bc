"""SOS buckets, which the Exoscale provider has no resource for.

`BucketProvider` runs in Pulumi's own host for dynamic resources, a process that starts in the project's root
and imports this module by name: what is serialised into the state is that name and nothing else (so a move of
this class orphans what it made). Whatever such a module imports, every update waits for: no cloud SDK, and
packages with an empty `__init__`. It signs with `EXOSCALE_API_KEY` and `EXOSCALE_API_SECRET` from its
environment, so no credential enters the state.
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
import pulumi
from botocore.config import Config
from botocore.exceptions import ClientError
from pulumi.dynamic import (
    CheckFailure,
    CheckResult,
    CreateResult,
    DiffResult,
    ReadResult,
    Resource,
    ResourceProvider,
    UpdateResult,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from infra.settings import Settings

LISTING = ("list-objects", "list-object-versions", "list-multipart-uploads")
"""The operations of IAM policies that show what there is, and no contents."""
_ABSENT = {"404", "NoSuchBucket"}
_NOT_EMPTY = "it holds objects or old versions; delete those first if they are really to go"


def exoscale_key(consequence: str) -> tuple[str, str]:
    """The environment's Exoscale API key and its secret.

    Raises:
        RuntimeError: one is missing, with that `consequence`.
    """
    missing = [name for name in ("EXOSCALE_API_KEY", "EXOSCALE_API_SECRET") if not os.environ.get(name)]
    if missing:
        raise RuntimeError(f"{' and '.join(missing)}: not set, so {consequence}; export them")
    return os.environ["EXOSCALE_API_KEY"], os.environ["EXOSCALE_API_SECRET"]


def s3_client(endpoint: str, region: str) -> "S3Client":
    """An S3 client for SOS, with the credentials of the environment.

    Raises:
        RuntimeError: a credential is missing.
    """
    key, secret = exoscale_key("object storage cannot be entered")
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(
            s3={"addressing_style": "path"},
            # SOS knows no trailing checksums, which boto3 has sent by default since 1.36.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"mode": "standard", "max_attempts": 5},
        ),
    )


class BucketProvider(ResourceProvider):
    """Creates, adopts, reads and deletes a private, versioned bucket."""

    serialize_as_secret_always = False

    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Refuse a setting that SOS cannot take back, before anything is changed."""
        failures = [
            CheckFailure(key, f"{key} is missing")
            for key in ("name", "region", "endpoint")
            if not news.get(key)
        ]
        return CheckResult(news, failures)

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """A bucket keeps its name and zone for life; the address it is reached under may change."""
        replaces = [key for key in ("name", "region") if olds.get(key) != news.get(key)]
        changed = bool(replaces) or any(olds.get(key) != news.get(key) for key in ("endpoint", "versioned"))
        return DiffResult(changes=changed, replaces=replaces, stables=["name", "region"])

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Create the bucket, or adopt it if it is ours already: an interrupted run can be repeated."""
        client = s3_client(props["endpoint"], props["region"])
        try:
            client.create_bucket(
                Bucket=props["name"],
                CreateBucketConfiguration={"LocationConstraint": props["region"]},
            )
        except ClientError as error:
            # Some servers say `BucketAlreadyExists` of a bucket of one's own too: ask whether we own it.
            exists = error_code(error) in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")
            if not exists or not _owned(client, props["name"]):
                raise _explained(error, props["name"], "created") from error
        return CreateResult(props["name"], self._settled(client, props))

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """The bucket as it is; an empty id if it is gone."""
        client = s3_client(props["endpoint"], props["region"])
        try:
            client.head_bucket(Bucket=id_)
            status = client.get_bucket_versioning(Bucket=id_).get("Status")
        except ClientError as error:
            if error_code(error) in _ABSENT:
                return ReadResult("", {})
            raise _explained(error, id_, "read") from error
        return ReadResult(id_, {**props, "versioned": status == "Enabled"})

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Bring access and versioning back to what is declared."""
        return UpdateResult(self._settled(s3_client(news["endpoint"], news["region"]), news))

    def delete(self, id_: str, props: dict[str, Any]) -> None:
        """Delete the bucket if it is empty.

        Raises:
            RuntimeError: it holds objects or old versions; whoever wants them gone has to say so there.
        """
        client = s3_client(props["endpoint"], props["region"])
        try:
            # Asked here, since not every S3 server refuses to delete a bucket with something in it.
            held = client.list_object_versions(Bucket=id_, MaxKeys=1)
            if held.get("Versions") or held.get("DeleteMarkers"):
                raise RuntimeError(f"bucket {id_} could not be deleted: {_NOT_EMPTY}")
            client.delete_bucket(Bucket=id_)
        except ClientError as error:
            if error_code(error) not in _ABSENT:
                raise _explained(error, id_, "deleted") from error

    @staticmethod
    def _settled(client: "S3Client", props: dict[str, Any]) -> dict[str, Any]:
        """Make the bucket private and versioned, and return its outputs."""
        try:
            client.put_bucket_acl(Bucket=props["name"], ACL="private")
            client.put_bucket_versioning(Bucket=props["name"], VersioningConfiguration={"Status": "Enabled"})
        except ClientError as error:
            raise _explained(error, props["name"], "made private and versioned") from error
        return {**props, "versioned": True}


def error_code(error: Exception) -> str:
    """The S3 server's word for what went wrong; empty if it never answered."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def _owned(client: "S3Client", name: str) -> bool:
    try:
        return name in [bucket.get("Name") for bucket in client.list_buckets().get("Buckets", [])]
    except ClientError:
        return False


def _explained(error: ClientError, name: str, doing: str) -> RuntimeError:
    """The server's answer as one line: what could not be done, why, and what to do."""
    remedies = {
        "BucketAlreadyExists": "another account owns it; choose another name in agent-platform:objectStorage",
        "BucketNotEmpty": _NOT_EMPTY,
        "AccessDenied": "the Exoscale key may not do that; check its IAM role",
        "InvalidAccessKeyId": "the Exoscale key is unknown; check EXOSCALE_API_KEY",
        "SignatureDoesNotMatch": "the Exoscale secret is wrong; check EXOSCALE_API_SECRET",
    }
    code = error_code(error)
    return RuntimeError(f"bucket {name} could not be {doing}: {remedies.get(code) or error}")


class Bucket(Resource, module="agent-platform", name="Bucket"):
    """A private, versioned SOS bucket."""

    name: pulumi.Output[str]
    """The bucket's name, known once it exists."""

    def __init__(
        self,
        resource_name: str,
        *,
        name: str,
        region: str,
        endpoint: str,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Declare the bucket `name` in the zone `region`, reached under the S3 address `endpoint`."""
        super().__init__(
            BucketProvider(),
            resource_name,
            {"name": name, "region": region, "endpoint": endpoint, "versioned": True},
            opts,
        )


@dataclass(frozen=True, kw_only=True)
class ObjectStorage:
    """The platform's buckets, by name, and where they are reached."""

    endpoint: str
    region: str
    artifacts: pulumi.Output[str]
    backups: pulumi.Output[str]
    logs: pulumi.Output[str]


def object_storage(settings: "Settings", opts: pulumi.ResourceOptions, prefix: str) -> ObjectStorage:
    """Declare the three buckets. They are protected: what is in them outlives a mistake in this program."""
    endpoint, region = settings.object_storage_endpoint, settings.cluster.zone
    opts = pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(protect=True))

    def bucket(purpose: str, name: str) -> pulumi.Output[str]:
        return Bucket(f"{prefix}-{purpose}", name=name, region=region, endpoint=endpoint, opts=opts).name

    return ObjectStorage(
        endpoint=endpoint,
        region=region,
        artifacts=bucket("artifacts", settings.object_storage.artifacts_bucket),
        backups=bucket("backups", settings.object_storage.backups_bucket),
        logs=bucket("logs", settings.object_storage.logs_bucket),
    )
