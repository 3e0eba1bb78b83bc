"""Delete logs whose time is over, once: `python -m services.log_retention`.

A tenant's logs are kept for the days of its terms. Those of a tenant that was removed are deleted whole: its
receipt lies in the same bucket. Logs of a tenant that is merely not declared stay. The platform's own are
kept for `PLATFORM_DAYS`, a namespace's for what `NAMESPACE_DAYS` says of it (`{"vault": 365}`).

The bucket keeps versions, so each object is deleted by its version. Objects lie below the day on which they
were put: listing stops at the first that stays, so a night costs what it deletes. Exit status 1: something
could not be deleted; the next night goes on.
"""

import asyncio
import itertools
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from services import kube, logs, object_storage
from services.gateway import routes

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = logging.getLogger("log_retention")

_REQUIRED = (
    *("GATEWAY_NAMESPACE", "PLATFORM_DAYS", "NAMESPACE_DAYS", "AWS_SHARED_CREDENTIALS_FILE"),
    *("OBJECT_STORAGE_ENDPOINT", "OBJECT_STORAGE_REGION", "OBJECT_STORAGE_BUCKET"),
)
_TENANT = re.compile(r"tenant_(?P<id>[a-z0-9-]+)/")
_NAMESPACE = re.compile(r"platform/(?P<name>[a-z0-9-]+)/")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_RECEIPTS = "receipts/"
_MOST_DAYS = 3650
_AT_ONCE = 16
"""Objects that are deleted at a time: an IAM policy can confine single deletions alone."""
_AWAY = (BotoCoreError, ClientError)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """For how long logs are kept, in days."""

    tenants: Mapping[str, int | None]
    """By the id of each tenant that the program declares; None: for ever."""
    namespaces: Mapping[str, int]
    """By the namespace, where it is not as `platform`."""
    platform: int


class Logs:
    """The logs bucket."""

    def __init__(self, s3: "S3Client", bucket: str) -> None:
        """Enter the bucket with a key that may list and delete logs, and list receipts."""
        self._s3 = s3
        self._bucket = bucket

    def delete_old(self, kept: Kept, today: date) -> int:
        """Delete what is over, prefix by prefix; return how many prefixes were left undone."""
        undone = 0
        for prefix, since, tenant in self._limits(kept, today):
            about = {"tenant": tenant} if tenant else {}
            deleted, refused = self._delete(prefix, since)
            if refused:
                log.error("%s: not all old logs are deleted: %s", prefix, refused, extra=about)
                undone += 1
            if deleted:
                log.info("%s: %d objects deleted", prefix, deleted, extra=about)
        return undone

    def _limits(self, kept: Kept, today: date) -> Iterator[tuple[str, date | None, str | None]]:
        """Yield each prefix, the first day that stays of it (None: nothing stays), and whose it is."""
        for prefix in self._folders("tenant_"):
            if not (found := _TENANT.fullmatch(prefix)):
                continue
            tenant = found["id"]
            if tenant not in kept.tenants:
                if self._removed(tenant):
                    yield prefix, None, tenant
            elif days := kept.tenants[tenant]:
                yield prefix, today - timedelta(days=days), tenant
        for prefix in self._folders("platform/"):
            if found := _NAMESPACE.fullmatch(prefix):
                days = kept.namespaces.get(found["name"], kept.platform)
                yield prefix, today - timedelta(days=days), None

    def _folders(self, prefix: str) -> list[str]:
        # With versions: a folder of which only older ones are left is not in a list of objects.
        where: dict[str, Any] = {"Bucket": self._bucket, "Prefix": prefix, "Delimiter": "/"}
        versions = self._s3.get_paginator("list_object_versions").paginate(**where)
        uploads = self._s3.get_paginator("list_multipart_uploads").paginate(**where)
        found: Iterable[Any] = itertools.chain(versions, uploads)
        return sorted({common["Prefix"] for page in found for common in page.get("CommonPrefixes", [])})

    def _removed(self, tenant: str) -> bool:
        key = f"{_RECEIPTS}{tenant}.json"
        answer = self._s3.list_objects_v2(Bucket=self._bucket, Prefix=key, MaxKeys=1)
        return any(item["Key"] == key for item in answer.get("Contents", []))

    def _delete(self, prefix: str, since: date | None) -> tuple[int, str]:
        """Delete what is over; return how much that was, and why something of it stays, if so."""
        deleted, refused = 0, ""
        try:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                for versions in self._over(prefix, since):
                    answers = list(pool.map(self._delete_one, versions))
                    deleted += answers.count("")
                    refused = next(filter(None, answers), refused)
            self._end_uploads(prefix, since)
        except _AWAY as error:
            refused = str(error)
        return deleted, refused

    def _over(self, prefix: str, since: date | None) -> Iterator[list[Any]]:
        """Yield the versions that are over, page by page, up to the first day that stays."""
        pages = self._s3.get_paginator("list_object_versions").paginate(Bucket=self._bucket, Prefix=prefix)
        for page in pages:
            listed = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
            yield [item for item in listed if _is_over(item["Key"], prefix, since)]
            # What lies below no day stays, and says nothing of what comes after it.
            days = [day for item in listed if (day := _day(item["Key"], prefix))]
            if since and days and max(days) >= since:
                return

    def _delete_one(self, version: Mapping[str, Any]) -> str:
        """Delete a version; return why it could not be, if so."""
        try:
            self._s3.delete_object(Bucket=self._bucket, Key=version["Key"], VersionId=version["VersionId"])
        except _AWAY as error:
            return str(error)
        return ""

    def _end_uploads(self, prefix: str, since: date | None) -> None:
        pages = self._s3.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=prefix)
        for upload in (upload for page in pages for upload in page.get("Uploads", [])):
            if _is_over(upload["Key"], prefix, since):
                self._s3.abort_multipart_upload(
                    Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )


def _is_over(key: str, prefix: str, since: date | None) -> bool:
    """Return whether an object lies below a day before `since`; one that lies below no day stays."""
    day = _day(key, prefix)
    return since is None or (day is not None and day < since)


def _day(key: str, prefix: str) -> date | None:
    """Return the day below which an object lies."""
    word = key.removeprefix(prefix).partition("/")[0]
    try:
        return date.fromisoformat(word) if _DAY.fullmatch(word) else None
    except ValueError:
        return None


def kept(config_maps: list[kube.Object], namespaces: Mapping[str, int], platform: int) -> Kept:
    """Return what the terms of all tenants say; a tenant whose terms cannot be read keeps everything."""
    tenants: dict[str, int | None] = {}
    for config_map in config_maps:
        tenant = config_map["metadata"]["labels"][routes.LABEL]
        try:
            days = json.loads(config_map["data"]["terms.json"])["logDays"]
            if type(days) is not int or not 1 <= days <= _MOST_DAYS:
                raise ValueError(f"logDays is {days!r}")
            tenants[tenant] = days
        except (LookupError, TypeError, ValueError) as error:
            about = {"tenant": tenant}
            log.error("%s: its terms cannot be read (%s), so its logs stay", tenant, error, extra=about)
            tenants[tenant] = None
    return Kept(tenants=tenants, namespaces=namespaces, platform=platform)


async def _declared(namespace: str) -> list[kube.Object]:
    """Return the ConfigMaps of all tenants."""
    api = kube.Api(kube.Access.find())
    try:
        query = {"labelSelector": routes.LABEL}
        answer = await api.request("GET", f"/api/v1/namespaces/{namespace}/configmaps", query=query)
    finally:
        await api.close()
    found: list[kube.Object] = answer["items"]
    return found


def main() -> int:
    """Read the environment and delete."""
    logs.to_stdout()
    if missing := [name for name in _REQUIRED if not os.environ.get(name)]:
        log.error(
            "the environment lacks %s, so nothing is deleted; its CronJob sets them", ", ".join(missing)
        )
        return 1
    try:
        declared = asyncio.run(_declared(os.environ["GATEWAY_NAMESPACE"]))
        wanted = kept(declared, json.loads(os.environ["NAMESPACE_DAYS"]), int(os.environ["PLATFORM_DAYS"]))
        archive = Logs(
            object_storage.client(
                os.environ["OBJECT_STORAGE_ENDPOINT"],
                os.environ["OBJECT_STORAGE_REGION"],
                attempts=5,
                connections=_AT_ONCE,
            ),
            os.environ["OBJECT_STORAGE_BUCKET"],
        )
        return int(archive.delete_old(wanted, datetime.now(UTC).date()) > 0)
    except (kube.ApiError, *kube.UNREACHABLE) as error:
        log.error("nothing is deleted: the Kubernetes API does not answer: %s", error or "timeout")
    except _AWAY as error:
        log.error("not all is deleted: object storage: %s", error)
    return 1


if __name__ == "__main__":
    sys.exit(main())
