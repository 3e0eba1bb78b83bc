"""All that object storage holds below a prefix: versions, delete markers and unfinished uploads.

A key may have characters that XML cannot say. Listings are therefore asked for in URL encoding, and each
object is deleted by itself, with its key in the address: the body of `DeleteObjects` could not name it.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import unquote

from botocore.exceptions import ClientError

from infra.cluster.object_storage import error_code

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_PAGE = 1000
_ROUNDS = 4
"""One deletes, one tries other keys, one is for what was written meanwhile; the last must find nothing."""
_AT_ONCE = 10
"""Requests: as many as a client has connections."""
_GONE = {"NoSuchKey", "NoSuchVersion", "NoSuchUpload"}
_UNSAID = "\N{REPLACEMENT CHARACTER}"
"""Stands for each character that XML cannot say, where a server lists without URL encoding."""
_UNSAYABLE = ("\ufffe", "\uffff", *(chr(code) for code in range(1, 32) if chr(code) not in "\t\n\r"))


@dataclass(frozen=True, kw_only=True)
class Held:
    """A version, a delete marker or an unfinished upload."""

    key: str
    """As the server's listing shows it."""
    id: str
    """The version's, or the upload's."""
    unfinished: bool = False


@dataclass(frozen=True, kw_only=True)
class Folder:
    """The part of a bucket below a prefix."""

    client: "S3Client"
    bucket: str
    prefix: str

    def versions(self, *, limit: int = _PAGE) -> list[Held]:
        """The first versions and delete markers, a page at most."""
        # botocore asks for the URL encoding by itself, and undoes it.
        page = self.client.list_object_versions(Bucket=self.bucket, Prefix=self.prefix, MaxKeys=limit)
        items = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        return [Held(key=item["Key"], id=item["VersionId"]) for item in items]

    def uploads(self, *, limit: int = _PAGE) -> list[Held]:
        """The first unfinished uploads, a page at most."""
        page = self.client.list_multipart_uploads(
            Bucket=self.bucket, Prefix=self.prefix, MaxUploads=limit, EncodingType="url"
        )
        items = page.get("Uploads", [])
        return [Held(key=item["Key"], id=item["UploadId"], unfinished=True) for item in items]

    def empty(self) -> None:
        """Delete everything. What cannot be deleted does not keep the rest.

        Raises:
            ClientError, BotoCoreError: the server does not answer, or does not list what is there.
            RuntimeError: something is left.
        """
        rounds, before, refusals = 0, set[Held](), list[str]()
        with ThreadPoolExecutor(_AT_ONCE) as workers:
            while rounds < _ROUNDS:
                held = {*self.uploads(), *self.versions()}
                if not held:
                    return
                refusals = list(workers.map(partial(self._delete, known=before), held))
                # A full page that goes is progress, and no round: there may be any number of them.
                rounds += held == before or len(held) < _PAGE
                before = held
        reason = next(filter(None, refusals), "somebody is writing there")
        raise RuntimeError(f"{self.bucket}/{self.prefix} is not empty yet: {reason}; try again")

    def _delete(self, one: Held, known: set[Held]) -> str:
        """Delete one; the server's reason if it refuses. One that outlived this before is tried otherwise."""
        keys = [one.key]
        if one.unfinished:
            keys.append(unquote(one.key))  # botocore leaves these encoded, and not every server encodes them
        if one in known:
            keys += _lookalikes(self, one)
        return next(filter(None, [self._refusal(one, key) for key in keys]), "")

    def _refusal(self, one: Held, key: str) -> str:
        try:
            if one.unfinished:
                self.client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=one.id)
            else:
                self.client.delete_object(Bucket=self.bucket, Key=key, VersionId=one.id)
        except ClientError as error:
            return "" if error_code(error) in _GONE else f"{key!r}: {error}"
        return ""


def _lookalikes(folder: Folder, one: Held) -> list[str]:
    """The keys that a listing shows as it shows this one's, and below which something is."""
    start, *parts = one.key.split(_UNSAID)
    found = [start]
    for part in parts:
        longer = [begun + said + part for begun in found for said in (_UNSAID, *_UNSAYABLE)]
        found = [key for key in longer if _is_listed(replace(folder, prefix=key), one)]
    return found


def _is_listed(folder: Folder, like: Held) -> bool:
    return bool(folder.uploads(limit=1) if like.unfinished else folder.versions(limit=1))
