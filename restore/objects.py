"""A tenant's objects, brought back from their older versions in the same bucket.

Nothing is overwritten: what was current at the time becomes the newest version of its key, and what came
later gets a delete marker. So a restore is undone by another one, to the moment before it.
"""

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from restore.errors import RestoreError
from restore.source import Change, Plan

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_READ = 2**20
_NOTHING = "nothing"


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of an object, or a delete marker."""

    key: str
    id: str
    at: datetime
    size: int
    etag: str
    """Empty: it is a delete marker."""

    def told(self) -> str:
        """Return it as a plan shows it."""
        return f"{self.size} bytes of {self.at:%Y-%m-%d %H:%M:%S}" if self.etag else _NOTHING


class Objects:
    """The objects below a prefix."""

    def __init__(self, client: "S3Client", bucket: str, prefix: str, at: datetime) -> None:
        """Bring back what was below `prefix`, which ends in a slash, at a time."""
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._at = at

    def plan(self) -> Plan:
        """Compare what is there with what was there."""
        versions = self._versions()
        oldest = min((one.at for found in versions.values() for one in found), default=None)
        if oldest is None:
            raise RestoreError(
                f"{self._bucket}/{self._prefix} holds nothing, not even older versions, so there is nothing "
                "to bring back."
            )
        if self._at < oldest:
            raise RestoreError(
                f"{self._bucket}/{self._prefix} has no version from before {oldest:%Y-%m-%dT%H:%M:%SZ}, so "
                f"nothing is known of {self._at:%Y-%m-%dT%H:%M:%SZ} and nothing was changed; choose a later "
                "time."
            )
        changes, same = [], 0
        for key, found in sorted(versions.items()):
            now, then = found[0], self._then(found)
            if _is_same(now, then):
                same += bool(now.etag)
            else:
                told = then.told() if then else _NOTHING
                changes.append(Change(what=key.removeprefix(self._prefix), now=now.told(), then=told))
        last = self._last(versions)
        return Plan(
            changes=changes,
            same=same,
            way_back="What is there now stays as older versions; to have it back, restore to "
            f"{last:%Y-%m-%dT%H:%M:%SZ}.",
        )

    def prepare(self, plan: Plan) -> str:
        """Return the way back: it is known beforehand, since versions stay."""
        return plan.way_back

    def apply(self, plan: Plan) -> None:
        """Make what was current the newest version again."""
        wanted = {f"{self._prefix}{change.what}" for change in plan.changes}
        versions = self._versions()
        # Times are whole seconds: what this writes is to be later than all that it replaces.
        while datetime.now(UTC) < self._last(versions) + timedelta(seconds=1):
            time.sleep(0.05)
        try:
            if self._client.get_bucket_versioning(Bucket=self._bucket).get("Status") != "Enabled":
                raise RestoreError(
                    f"{self._bucket} keeps no versions, so what is replaced would be lost, and nothing was "
                    "changed; `pulumi up --refresh` has it keep them again."
                )
            for key, found in versions.items():
                then = self._then(found)
                if key not in wanted or _is_same(found[0], then):
                    continue
                if then is None or not then.etag:
                    self._client.delete_object(Bucket=self._bucket, Key=key)
                else:
                    source: Any = {"Bucket": self._bucket, "Key": key, "VersionId": then.id}
                    self._client.copy(source, self._bucket, key)
        except (ClientError, BotoCoreError) as error:
            raise RestoreError(
                f"{self._bucket}/{self._prefix} is brought back in part: {error}. Run the same command again."
            ) from None

    def differences(self) -> list[str]:
        """Read both versions of whatever does not show that it is the same."""
        found = []
        for key, versions in sorted(self._versions().items()):
            now, then = versions[0], self._then(versions)
            if _is_same(now, then):
                continue
            if then is None or not (now.etag and then.etag) or self._digest(now) != self._digest(then):
                found.append(f"{key}: {now.told()} instead of {then.told() if then else _NOTHING}")
        return found

    def _then(self, found: list[Version]) -> Version | None:
        """Return what was current at the time; None: there was nothing yet.

        Times are whole seconds: what was written and deleted within one counts as there.
        """
        return next((one for one in found if one.at.replace(microsecond=0) <= self._at), None)

    def _last(self, versions: Mapping[str, list[Version]]) -> datetime:
        """Return the second in which something was last written or deleted."""
        return max(one.at.replace(microsecond=0) for found in versions.values() for one in found)

    def _versions(self) -> Mapping[str, list[Version]]:
        """Return all versions by key, the newest first."""
        found: dict[str, list[Version]] = defaultdict(list)
        try:
            for version in self._listed():
                found[version.key].append(version)
        except (ClientError, BotoCoreError) as error:
            raise RestoreError(
                f"{self._bucket}/{self._prefix} cannot be listed ({error}), so nothing was changed."
            ) from None
        return found

    def _listed(self) -> Iterator[Version]:
        pages = self._client.get_paginator("list_object_versions").paginate(
            Bucket=self._bucket, Prefix=self._prefix
        )
        for page in pages:
            # Versions and markers are listed apart, each the newest first.
            both = [
                *((one, one["ETag"], one["Size"]) for one in page.get("Versions", [])),
                *((one, "", 0) for one in page.get("DeleteMarkers", [])),
            ]
            both.sort(
                key=lambda each: (each[0]["IsLatest"], each[0]["LastModified"], bool(each[1])), reverse=True
            )
            for one, etag, size in both:
                yield Version(
                    key=one["Key"], id=one["VersionId"], at=one["LastModified"], size=size, etag=etag
                )

    def _digest(self, version: Version) -> str:
        body = self._client.get_object(Bucket=self._bucket, Key=version.key, VersionId=version.id)["Body"]
        digest = hashlib.sha256()
        for data in body.iter_chunks(_READ):
            digest.update(data)
        return digest.hexdigest()


def _is_same(now: Version, then: Version | None) -> bool:
    """Return whether both have the same contents, by what the listing shows."""
    if then is None or not then.etag:
        return not now.etag
    return (now.etag, now.size) == (then.etag, then.size)
