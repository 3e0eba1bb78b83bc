"""A tenant's folders in the artifacts bucket.

`PrefixProvider` runs in Pulumi's host for dynamic resources; what is serialised of it is its name. It signs
with `EXOSCALE_API_KEY` and `EXOSCALE_API_SECRET` from its environment.
"""

import base64
import hashlib
from typing import TYPE_CHECKING, Any

import pulumi
from botocore.exceptions import BotoCoreError, ClientError
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, ResourceProvider, UpdateResult

from infra.cluster.object_storage import error_code, s3_client
from infra.tenants.differences import differences

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

FOLDERS = ("workspace", "uploads", "artifacts")


class PrefixProvider(ResourceProvider):
    """Makes the folders of a prefix, and empties it of every version of every object."""

    serialize_as_secret_always = False

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """A prefix stays where it is; the address it is reached under may change."""
        return differences(olds, news, stable=("bucket", "prefix"))

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Put an empty object for each folder, so that file browsers show it."""
        _make_folders(props)
        return CreateResult(f"{props['bucket']}/{props['prefix']}", props)

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """As declared if anything is below the prefix; an empty id if nothing is."""
        try:
            found = _client(props).list_objects_v2(Bucket=props["bucket"], Prefix=props["prefix"], MaxKeys=1)
        except ClientError as error:
            if error_code(error) == "NoSuchBucket":
                return ReadResult("", {})
            raise _explained(error, props, "read") from None
        return ReadResult(id_, props) if found.get("KeyCount") else ReadResult("", {})

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Make folders that are missing."""
        _make_folders(news)
        return UpdateResult(news)

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """Delete all below the prefix: objects, versions, delete markers, unfinished uploads.

        An interrupted run is simply repeated.

        Raises:
            RuntimeError: something is left, or the server refuses.
        """
        client, bucket, prefix = _client(props), props["bucket"], props["prefix"]
        # An empty prefix, or one without its slash, would reach into the whole bucket or another tenant.
        if len(prefix) < 2 or not prefix.endswith("/"):
            raise RuntimeError(f"prefix {prefix!r} is no folder, so nothing is deleted")
        try:
            for pages in client.get_paginator("list_multipart_uploads").paginate(
                Bucket=bucket, Prefix=prefix
            ):
                for upload in pages.get("Uploads", []):
                    client.abort_multipart_upload(
                        Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
            for _ in range(_PASSES):
                if not _delete_versions(client, bucket, prefix):
                    return
        except (ClientError, BotoCoreError) as error:
            if error_code(error) == "NoSuchBucket":
                return
            raise _explained(error, props, "emptied") from None
        raise RuntimeError(f"{bucket}/{prefix} is not empty yet: somebody is writing there; try again")


class Prefix(Resource, module="agent-platform", name="Prefix"):
    """A tenant's folders in a bucket."""

    bucket: pulumi.Output[str]
    """The bucket's name, known once the folders exist."""

    def __init__(
        self,
        resource_name: str,
        *,
        bucket: pulumi.Input[str],
        prefix: str,
        endpoint: str,
        region: str,
        opts: pulumi.ResourceOptions,
    ) -> None:
        """Declare the folders below `prefix`, which ends in a slash."""
        super().__init__(
            _PROVIDER,
            resource_name,
            {"bucket": bucket, "prefix": prefix, "endpoint": endpoint, "region": region},
            opts,
        )


_PROVIDER = PrefixProvider()
_PASSES = 3
"""The last must find nothing; one in between is for what was written meanwhile."""


def _make_folders(props: dict[str, Any]) -> None:
    client = _client(props)
    try:
        for folder in FOLDERS:
            key = f"{props['prefix']}{folder}/"
            found = client.list_objects_v2(Bucket=props["bucket"], Prefix=key, MaxKeys=1)
            if not found.get("KeyCount"):
                client.put_object(Bucket=props["bucket"], Key=key, Body=b"")
    except (ClientError, BotoCoreError) as error:
        raise _explained(error, props, "made") from None


def _delete_versions(client: "S3Client", bucket: str, prefix: str) -> int:
    """Delete every version and marker there is now, a page at a time; the number found."""
    found = 0
    for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
        versions: list[ObjectIdentifierTypeDef] = [
            {"Key": item["Key"], "VersionId": item["VersionId"]}
            for item in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        ]
        found += len(versions)
        if versions:
            answer = client.delete_objects(Bucket=bucket, Delete={"Objects": versions, "Quiet": True})
            for error in answer.get("Errors", []):
                raise RuntimeError(
                    f"{bucket}/{error.get('Key')} could not be deleted: {error.get('Message')}; try again"
                )
    return found


def _client(props: dict[str, Any]) -> "S3Client":
    client = s3_client(props["endpoint"], props["region"])
    # Deleting many at once needs a checksum, and MD5 is the one that every S3 server knows.
    client.meta.events.register("before-sign.s3.DeleteObjects", _add_md5)
    return client


def _add_md5(request: Any, **_: Any) -> None:
    digest = hashlib.md5(request.body, usedforsecurity=False).digest()
    request.headers["Content-MD5"] = base64.b64encode(digest).decode()


def _explained(error: Exception, props: dict[str, Any], doing: str) -> RuntimeError:
    """The server's answer as one line."""
    return RuntimeError(f"{props['bucket']}/{props['prefix']} could not be {doing}: {error}")
