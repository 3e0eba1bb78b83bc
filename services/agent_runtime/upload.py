"""Writes an object of any size as a whole or not at all, with room for one part of it.

Parts become an object when they are completed. Parts that never are would be kept, and paid for, unseen.
"""

import contextlib
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import IO, TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from services.agent_runtime.identity import NotReadyError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

PART = 8 * 2**20
"""Bytes sent at once; S3 takes 10,000 parts, each but the last of 5 MiB at least."""
_AT_ONCE = 16
"""Objects written below one root at once: each takes a part's room on a disk that tenants may share."""
_PATIENCE = 30.0
"""Seconds until a write that finds no room is refused."""
_ABANDONED = timedelta(days=1)

_writing: Counter[str] = Counter()
_changed = threading.Condition()


def put(
    client: "S3Client",
    bucket: str,
    root: str,
    key: str,
    blocks: Iterable[bytes],
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write `blocks` as the object `key`, whose tenant's keys all begin with `root`.

    Whatever `blocks` or the client raises ends it, and what was there before stays.
    """
    coming = iter(blocks)
    with _room(root), tempfile.TemporaryFile() as part:
        if _fill(part, coming) < PART:
            client.put_object(Bucket=bucket, Key=key, Body=part, Metadata=dict(metadata))
            return
        _end_abandoned(client, bucket, root)
        upload = client.create_multipart_upload(Bucket=bucket, Key=key, Metadata=dict(metadata))["UploadId"]
        try:
            _send(client, bucket, key, upload, part, coming)
        except BaseException:
            _end(client, bucket, key, upload)
            raise


def _send(
    client: "S3Client", bucket: str, key: str, upload: str, part: IO[bytes], coming: Iterator[bytes]
) -> None:
    sent: list[CompletedPartTypeDef] = []
    filled = True
    while filled:
        number = len(sent) + 1
        answer = client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=part)
        sent.append({"PartNumber": number, "ETag": answer["ETag"]})
        filled = _fill(part, coming) > 0
    client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": sent})


def _fill(part: IO[bytes], coming: Iterator[bytes]) -> int:
    """Put the next blocks in the place of the last ones, until it is a part; its size."""
    part.seek(0)
    part.truncate()
    while part.tell() < PART and (block := next(coming, None)) is not None:
        part.write(block)
    size = part.tell()
    part.seek(0)
    return size


def _end(client: "S3Client", bucket: str, key: str, upload: str) -> None:
    try:
        client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
    except (BotoCoreError, ClientError) as error:
        sys.stderr.write(f"An upload stays unfinished until it is a day old: {error}\n")


def _end_abandoned(client: "S3Client", bucket: str, root: str) -> None:
    """End what a runtime began that was killed before it could end it."""
    before = datetime.now(UTC) - _ABANDONED
    try:
        uploads = client.list_multipart_uploads(Bucket=bucket, Prefix=root).get("Uploads", [])
    except (BotoCoreError, ClientError) as error:
        sys.stderr.write(f"Unfinished uploads are not looked for: {error}\n")
        return
    for found in uploads:
        if found["Initiated"] < before:
            _end(client, bucket, found["Key"], found["UploadId"])


@contextlib.contextmanager
def _room(root: str) -> Iterator[None]:
    """Wait for a place among what is written below `root`; NotReadyError if none comes free."""
    with _changed:
        if not _changed.wait_for(lambda: _writing[root] < _AT_ONCE, _PATIENCE):
            raise NotReadyError(
                f"{_AT_ONCE} files of this workspace are being written, so this one is not; try again when "
                "one of them is done."
            )
        _writing[root] += 1
    try:
        yield
    finally:
        with _changed:
            _writing[root] -= 1
            if not _writing[root]:
                del _writing[root]
            _changed.notify_all()
