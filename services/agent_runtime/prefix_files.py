"""Files in a folder of a tenant's prefix in object storage, such as the workspace of one without a volume.

Object storage has no folders: one is there as long as the key of an object begins with it.
"""

import contextlib
import errno
import os
import posixpath
import threading
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.response import StreamingBody

from services.agent_runtime import upload
from services.agent_runtime.files import (
    DRAFT,
    LONGEST_ADDRESS,
    LONGEST_NAME,
    AbsentError,
    File,
    Files,
    Folder,
    RefusedPathError,
)
from services.agent_runtime.identity import NotReadyError
from services.agent_runtime.vault import Vault

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SECRET = "object-storage"  # noqa: S105 — its name
"""The secret with the key to the tenant's prefix."""
_FIELDS = ("endpoint", "region", "bucket", "prefix", "access_key", "secret_key")
_MOST_NAMES = 10_000
"""Names in a list: they are held in memory, which tenants may share."""
_LONGEST_KEY = 1024
"""Bytes of a key in S3."""
_ODD = "\\\ufffe\uffff"
"""A backslash is a slash to some servers; no XML, in which keys are listed, has the others in it."""
_CONTROLS = ("Cc", "Cs")
"""Unicode's categories of control characters and of halves of a character: no XML has these either."""
_VERSIONS = ".versions"
"""The end of a folder's name in which SeaweedFS keeps an object's older versions."""
_OF_VOLUMES = ("workspace/lost+found/", f"workspace/{DRAFT}")
"""No file of a workspace lies there, so that it can move to a machine."""
_ABSENT = ("404", "NoSuchKey")
_FULL = ("EntityTooLarge", "QuotaExceeded")

_core = botocore.session.Session()
for _file in ("config_file", "credentials_file"):
    # In a machine these lie in the tenant's workspace, which is its user's home.
    _core.set_config_variable(_file, os.devnull)
_session = boto3.session.Session(botocore_session=_core)
"""The maker of all clients, one at a time; it holds no key."""
_making = threading.Lock()


class PrefixFiles(Files):
    """Files in object storage, reached with the key that Vault gives when they are."""

    def __init__(self, vault: Vault, folder: Path, below: str = "workspace/") -> None:
        """Reach nothing yet; programs are started in `folder`, which holds none of the files."""
        self.folder = folder
        self._vault = vault
        self._below = below

    def ready(self) -> None:
        """Wait for nothing: while object storage is away, an agent can still answer, and say so."""

    def find(self, name: str) -> File | Folder:
        """Begin to get an object, or list what begins with a folder."""
        with contextlib.ExitStack() as stack:
            place = stack.enter_context(self.place())
            path = place.path(name)
            if found := path and place.get(path):
                return File(found["ContentLength"], _Content(found["Body"], stack.pop_all()))
            names = place.names(path)
        if path and not names:
            raise AbsentError(name)
        # A folder may have an object of its own, whose name in it is empty.
        return Folder(sorted(names - {""})[:_MOST_NAMES], more=len(names - {""}) > _MOST_NAMES)

    def write(self, name: str, blocks: Iterable[bytes]) -> None:
        """Put it as an object."""
        with self.place() as place:
            path = place.path(name)
            if f"{self._below}{path}/".startswith(_OF_VOLUMES):
                raise RefusedPathError(f"{path}: begins as what a volume has for itself.")
            place.check_free(path)
            upload.put(place.client, place.bucket, place.root, place.root + path, blocks)

    def delete(self, name: str) -> None:
        """Delete an object, or all in a folder one by one: the key may not delete many at once."""
        with self.place() as place:
            path = place.path(name)
            if not path:
                raise RefusedPathError("The workspace itself stays.")
            keys = iter([place.root + path]) if place.is_file(path) else place.keys_in(path)
            first = next(keys, None)
            if first is None:
                raise AbsentError(name)
            for key in (first, *keys):
                place.client.delete_object(Bucket=place.bucket, Key=key)

    def address(self, name: str, seconds: int) -> str:
        """An address from which whoever has it gets a file, until the seconds are over.

        Raises AbsentError, RefusedPathError.
        """
        if not 0 < seconds <= LONGEST_ADDRESS:
            raise RefusedPathError(f"An address is good for 1 to {LONGEST_ADDRESS} seconds, not {seconds}.")
        said = self._secret()
        with self._reached(said) as place:
            path = place.path(name)
            if not path or not place.is_file(path):
                raise AbsentError(name)
            wanted = {"Bucket": place.bucket, "Key": place.root + path}
        # From where they are, others may reach it under another name than this machine.
        with contextlib.closing(_client(said)) as client:
            return client.generate_presigned_url("get_object", Params=wanted, ExpiresIn=seconds)

    @contextlib.contextmanager
    def place(self) -> Iterator["Place"]:
        """Reach the tenant's folder, with a client that is closed afterwards."""
        with self._reached(self._secret()) as place:
            yield place

    def _secret(self) -> dict[str, Any]:
        said = self._vault.needed(SECRET)
        missing = [field for field in _FIELDS if not said.get(field)]
        if missing:
            raise NotReadyError(
                f"The secret {SECRET} lacks {', '.join(missing)}, so the workspace cannot be reached; the "
                "platform writes it, and writes it again at the next update."
            )
        return said

    @contextlib.contextmanager
    def _reached(self, said: dict[str, Any]) -> Iterator["Place"]:
        client = _client({**said, "endpoint": self._vault.object_storage or said["endpoint"]})
        try:
            with _told():
                yield Place(client, said["bucket"], said["prefix"], said["prefix"] + self._below)
        finally:
            client.close()


@dataclass(frozen=True)
class Held:
    """An object in a folder."""

    path: str
    """Its key below the folder; one that ends in a slash only shows that there is a folder."""
    size: int


@dataclass(frozen=True)
class Place:
    """A tenant's folder in object storage."""

    client: "S3Client"
    bucket: str
    prefix: str
    """The beginning of all keys of the tenant's."""
    root: str
    """The beginning of all keys in the folder."""

    def path(self, name: str) -> str:
        """Return a path without `.`, `..` and empty parts; RefusedPathError if it makes no key that lasts."""
        path = posixpath.normpath(name.strip("/"))
        path = "" if path == "." else path
        parts = path.split("/")
        if parts[0] == "..":
            raise RefusedPathError(f"{name}: leads out of the workspace.")
        odd = [each for each in path if each in _ODD or unicodedata.category(each) in _CONTROLS]
        if odd:
            raise RefusedPathError(f"{path!a}: has {odd[0]!a} in it, which object storage would not keep.")
        if any(part.endswith(_VERSIONS) for part in parts):
            raise RefusedPathError(f"{path}: no name ends in {_VERSIONS}, under which old versions are kept.")
        if any(len(part.encode()) > LONGEST_NAME for part in parts):
            raise RefusedPathError(f"A name in a path has at most {LONGEST_NAME} bytes.")
        room = _LONGEST_KEY - len(self.root.encode())
        if len(path.encode()) > room:
            raise RefusedPathError(f"A path has at most {room} bytes.")
        return path

    def get(self, path: str) -> Any:
        """Begin to get a file; None if there is none."""
        try:
            return self.client.get_object(Bucket=self.bucket, Key=self.root + path)
        except ClientError as error:
            _check_absent(error)
            return None

    def head(self, path: str) -> Mapping[str, Any]:
        """Return what is said of a file besides its contents; empty if there is none."""
        try:
            return self.client.head_object(Bucket=self.bucket, Key=self.root + path)
        except ClientError as error:
            _check_absent(error)
            return {}

    def is_file(self, path: str) -> bool:
        """Tell whether a file is there."""
        return bool(self.head(path))

    def is_folder(self, path: str) -> bool:
        """Tell whether anything is in a folder."""
        begin = f"{self.root}{path}/"
        return bool(self.client.list_objects_v2(Bucket=self.bucket, Prefix=begin, MaxKeys=1)["KeyCount"])

    def delete(self, path: str) -> None:
        """Delete one object."""
        self.client.delete_object(Bucket=self.bucket, Key=self.root + path)

    def objects(self) -> Iterator[Held]:
        """Go through all that is in it."""
        pages = self.client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self.bucket, Prefix=self.root):
            for item in page.get("Contents", []):
                if path := item["Key"].removeprefix(self.root):
                    yield Held(path, item["Size"])

    def keys_in(self, path: str) -> Iterator[str]:
        """Go through the keys of all that is in a folder, and in the folders in it."""
        pages = self.client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self.bucket, Prefix=f"{self.root}{path}/"):
            for item in page.get("Contents", []):
                yield item["Key"]

    def names(self, path: str) -> set[str]:
        """Return the names in a folder, enough of them to know whether there are too many."""
        begin = f"{self.root}{path}/" if path else self.root
        names: set[str] = set()
        pages = self.client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self.bucket, Prefix=begin, Delimiter="/"):
            names.update(item["Key"].removeprefix(begin) for item in page.get("Contents", []))
            names.update(item["Prefix"].removeprefix(begin) for item in page.get("CommonPrefixes", []))
            if len(names) > _MOST_NAMES + 1:
                break
        return names

    def check_free(self, path: str) -> None:
        """Raise RefusedPathError if a folder is there, or a file where one of its folders would be.

        Object storage would keep both under one name.
        """
        if not path or self.is_folder(path):
            raise RefusedPathError(f"{path or '/'}: is a folder, so no file is written there.")
        for end, letter in enumerate(path):
            if letter == "/" and self.is_file(path[:end]):
                raise RefusedPathError(f"{path[:end]}: is a file, so no file is written into it.")


class _Content:
    """An object's bytes; its client is closed with it."""

    def __init__(self, body: StreamingBody, stack: contextlib.ExitStack) -> None:
        self._body = body
        self._stack = stack

    def read(self, size: int, /) -> bytes:
        with _told():
            return self._body.read(size)

    def close(self) -> None:
        self._body.close()
        self._stack.close()


def _client(said: dict[str, Any]) -> "S3Client":
    with _making:
        return _session.client(
            "s3",
            endpoint_url=said["endpoint"],
            region_name=said["region"],
            aws_access_key_id=said["access_key"],
            aws_secret_access_key=said["secret_key"],
            config=Config(
                s3={"addressing_style": "path"},
                # SOS knows no trailing checksums.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                connect_timeout=5,
                retries={"mode": "standard", "total_max_attempts": 3},
            ),
        )


def _check_absent(error: ClientError) -> None:
    if error.response["Error"]["Code"] not in _ABSENT:
        raise error


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Say what went wrong in object storage as one error of the runtime's."""
    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in _FULL:
            raise OSError(
                errno.EDQUOT, f"object storage takes no more ({code}); what was there is kept"
            ) from None
        raise NotReadyError(
            f"Object storage refuses {error.operation_name} ({code}), so the workspace cannot be used as "
            "asked; what is in it is kept."
        ) from None
    except BotoCoreError as error:
        raise NotReadyError(
            f"Object storage does not answer ({type(error).__name__}), so the workspace cannot be used for "
            "now; what is in it is kept."
        ) from None
