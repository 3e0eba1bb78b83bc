"""A tenant's folders in the artifacts bucket.

`PrefixProvider` runs in Pulumi's host for dynamic resources; what is serialised of it is its name. It signs
with `EXOSCALE_API_KEY` and `EXOSCALE_API_SECRET` from its environment.
"""

from typing import Any

import pulumi
from botocore.exceptions import BotoCoreError, ClientError
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, ResourceProvider, UpdateResult

from infra.cluster.object_storage import error_code, s3_client
from infra.tenants.differences import differences
from infra.tenants.objects import Folder

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
        """As declared if anything is below the prefix, old versions too; an empty id if nothing is."""
        folder = _folder(props)
        try:
            held = folder.versions(limit=1) or folder.uploads(limit=1)
        except (ClientError, BotoCoreError) as error:
            if error_code(error) == "NoSuchBucket":
                return ReadResult("", {})
            raise _explained(error, props, "read") from None
        return ReadResult(id_, props) if held else ReadResult("", {})

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
        prefix = props["prefix"]
        # An empty prefix, or one without its slash, would reach into the whole bucket or another tenant.
        if len(prefix) < 2 or not prefix.endswith("/"):
            raise RuntimeError(f"prefix {prefix!r} is no folder, so nothing is deleted")
        try:
            _folder(props).empty()
        except (ClientError, BotoCoreError) as error:
            if error_code(error) != "NoSuchBucket":
                raise _explained(error, props, "emptied") from None


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


def _make_folders(props: dict[str, Any]) -> None:
    client = s3_client(props["endpoint"], props["region"])
    try:
        for folder in FOLDERS:
            key = f"{props['prefix']}{folder}/"
            found = client.list_objects_v2(Bucket=props["bucket"], Prefix=key, MaxKeys=1)
            if not found.get("KeyCount"):
                client.put_object(Bucket=props["bucket"], Key=key, Body=b"")
    except (ClientError, BotoCoreError) as error:
        raise _explained(error, props, "made") from None


def _folder(props: dict[str, Any]) -> Folder:
    client = s3_client(props["endpoint"], props["region"])
    return Folder(client=client, bucket=props["bucket"], prefix=props["prefix"])


def _explained(error: Exception, props: dict[str, Any], doing: str) -> RuntimeError:
    """The server's answer as one line."""
    return RuntimeError(f"{props['bucket']}/{props['prefix']} could not be {doing}: {error}")
