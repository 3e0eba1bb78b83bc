"""A workspace on its way between a machine's volume and `workspace/` in the prefix (docs/decisions/0072).

A tenant that moves to a machine finds its files there: the machine takes in what lies in the prefix. A tenant
that moves away from one finds them in the prefix: when the platform says so, the machine hands them over.
"""

import contextlib
import fcntl
import json
import math
import os
import shutil
import stat
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from services.agent_runtime import upload
from services.agent_runtime.files import BLOCK, FolderFiles, RefusedPathError
from services.agent_runtime.identity import NotReadyError
from services.agent_runtime.prefix_files import Held, Place, PrefixFiles
from services.agent_runtime.vault import Vault

Item = TypeVar("Item")
Result = TypeVar("Result")

MANIFEST = "handover.json"
"""The object in the prefix that says how far a handover is, and what it could not hand over."""
_AT_ONCE = 8
"""Files on their way at once."""
_AGAIN = 5.0
_TOLD_EVERY = 10.0
"""Seconds between two manifests of a handover at work."""
_MOST_TOLD = 20
"""Files that a manifest names as being in the way."""
_LONGEST_TOLD = 300
_LARGEST = 10_000 * upload.PART
"""Bytes of one object."""
_RESERVED = 64 * 2**20
"""Bytes of the volume that are left free."""


def take_in(volume: FolderFiles, vault: Vault, count: Counter[str] | None = None) -> None:
    """Bring what lies in the prefix to the volume; of two files of one name, the newer stays.

    What cannot lie on a volume under its name stays in the prefix. An interrupted one is simply repeated.

    Raises NotReadyError, and OSError if there is no room; each file is then in one of the two places.
    """
    count = Counter() if count is None else count
    with _alone(volume.folder), PrefixFiles(vault, volume.folder).place() as place:
        coming = list(place.objects())
        _require_room(volume, coming)
        # From here on, what it says of the volume is no longer true.
        place.client.delete_object(Bucket=place.bucket, Key=place.prefix + MANIFEST)
        count["all"] = len(coming)

        for _ in _each(partial(_take, volume, place), coming):
            count["here"] += 1
        volume.note("here")


def hand_over(volume: FolderFiles, vault: Vault) -> None:
    """Put all that is on the volume into the prefix, and a manifest beside it; the volume stays as it is.

    Nothing is put there if a file cannot be: the manifest says which. An interrupted one is simply repeated.
    Raises NotReadyError, OSError.
    """
    if volume.noted() != "leaving":
        take_in(volume, vault)
    with _alone(volume.folder), PrefixFiles(vault, volume.folder).place() as place:
        tell = _Manifest(place).tell
        found = list(_walk(volume.folder))
        obstacles = [f"{name!a}: {why}" for name, entry in found for why in _obstacles(place, name, entry)]
        if obstacles:
            tell(
                "refused",
                files=len(obstacles),
                named=[each[:_LONGEST_TOLD] for each in obstacles[:_MOST_TOLD]],
            )
            return
        volume.note("leaving")
        there = {held.path: held for held in place.objects()}
        done = {"files": 0, "bytes": 0}
        for size in _each(partial(_put, place, there), found):
            if size is not None:
                done = {"files": done["files"] + 1, "bytes": done["bytes"] + size}
            tell("at work", **done)
        tell("done", **done)


def leave(volume: FolderFiles, vault: Vault) -> None:
    """Hand over, however often it fails; nobody is served meanwhile."""
    while True:
        try:
            hand_over(volume, vault)
            return
        except (NotReadyError, OSError) as error:
            sys.stderr.write(f"The workspace is not handed over yet: {error}\n")
        time.sleep(_AGAIN)


@contextlib.contextmanager
def _alone(volume: Path) -> Iterator[None]:
    """Have the tenant's own programs, which may use its workspace as we do, wait meanwhile."""
    root = os.open(volume, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(root, fcntl.LOCK_EX)
        yield
    finally:
        os.close(root)


def _each(do: Callable[[Item], Result], items: list[Item]) -> Iterator[Result]:
    """Do it to each item, some at once; what one raises is raised when those that were begun have ended."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            yield from pool.map(do, items)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _require_room(volume: FolderFiles, coming: list[Held]) -> None:
    """Raise NotReadyError unless the volume has room for what is coming."""

    def is_there(held: Held) -> bool:
        """As after a handover that was given up: a file of the same size takes no more."""
        file = volume.folder / held.path
        return file.is_file() and file.stat().st_size == held.size

    size = sum(held.size for held in coming if not is_there(held))
    free = max(0, shutil.disk_usage(volume.folder).free - _RESERVED)
    if size > free:
        raise NotReadyError(
            f"{size} bytes are to come from object storage, and the volume has room for {free}; have "
            "sizes.workspaceGib raised in the roster."
        )


def _take(volume: FolderFiles, place: Place, held: Held) -> None:
    """Move an object to the volume; what cannot lie there stays."""
    if _taken(volume, place, held):
        place.client.delete_object(Bucket=place.bucket, Key=place.root + held.path)


def _taken(volume: FolderFiles, place: Place, held: Held) -> bool:
    """Bring an object to the volume, unless a newer file is there; False if it cannot lie there."""
    try:
        # A key that only somebody with the tenant's own key can have written.
        if place.path(held.path) != held.path.removesuffix("/"):
            raise RefusedPathError("its name would be another file's.")
        if held.path.endswith("/"):
            (volume.folder / held.path).mkdir(parents=True, exist_ok=True)
            return True
        found = place.get(held.path)
        if found is None:
            return True
        modified, mode = _kept(found)
        target = volume.folder / held.path
        with contextlib.closing(found["Body"]) as body:
            if target.is_file() and target.stat().st_mtime >= modified:
                return True
            volume.write(held.path, body.iter_chunks(BLOCK))
        target.chmod(mode)
        os.utime(target, (modified, modified))
    except (RefusedPathError, FileExistsError, NotADirectoryError) as error:
        sys.stderr.write(f"{held.path!a} stays in the prefix: {error}\n")
        return False
    return True


def _kept(found: Any) -> tuple[float, int]:
    """The time and the mode that a file had when it was handed over."""
    said, written = found["Metadata"], found["LastModified"].timestamp()
    try:
        modified = float(said["mtime"])
        return modified if math.isfinite(modified) and 0 <= modified <= written else written, (
            int(said["mode"], 8) & 0o777 | stat.S_IRUSR | stat.S_IWUSR
        )
    except (LookupError, ValueError):
        return written, 0o644


def _walk(folder: Path) -> "Iterator[tuple[str, os.DirEntry[str]]]":
    """All files below a folder, and its empty folders, whose names end in a slash."""

    def inside(path: str, name: str) -> "Iterator[tuple[str, os.DirEntry[str]]]":
        for entry in os.scandir(path):
            here = name + entry.name
            if here == "lost+found":
                continue
            if not entry.is_dir(follow_symlinks=False):
                yield here, entry
            elif not os.access(entry.path, os.R_OK | os.X_OK) or not any(os.scandir(entry.path)):
                yield f"{here}/", entry
            else:
                yield from inside(entry.path, f"{here}/")

    yield from inside(str(folder), "")


def _obstacles(place: Place, name: str, entry: "os.DirEntry[str]") -> Iterator[str]:
    """Why a file cannot lie in the prefix."""
    try:
        place.path(name)
    except RefusedPathError as error:
        yield str(error).removesuffix(".")
        return
    kind = entry.stat(follow_symlinks=False).st_mode
    if stat.S_ISLNK(kind):
        yield "is a symbolic link"
    elif not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
        yield "is no file"
    elif not os.access(entry.path, os.R_OK | (os.X_OK if stat.S_ISDIR(kind) else 0)):
        yield "cannot be read by the user agent"
    elif entry.stat().st_size > _LARGEST:
        yield f"has more than {_LARGEST} bytes"


def _put(place: Place, before: dict[str, Held], found: "tuple[str, os.DirEntry[str]]") -> int | None:
    """Write a file or an empty folder as an object, unless an earlier attempt did; a file's size."""
    name, entry = found
    there = before.get(name)
    if name.endswith("/"):
        place.client.put_object(Bucket=place.bucket, Key=place.root + name, Body=b"")
        return None
    known = entry.stat(follow_symlinks=False)
    # The times of objects are in whole seconds.
    if there and there.size == known.st_size and there.modified > known.st_ctime + 1:
        return known.st_size
    said = {"mtime": repr(known.st_mtime), "mode": f"{stat.S_IMODE(known.st_mode) & 0o777:o}"}
    with Path(entry.path).open("rb") as file:
        blocks = iter(lambda: file.read(BLOCK), b"")
        upload.put(place.client, place.bucket, place.root, place.root + name, blocks, metadata=said)
    return known.st_size


class _Manifest:
    """Says how far a handover is."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._state = ""
        self._at = 0.0

    def tell(self, state: str, **said: Any) -> None:
        """Write it, every few seconds while the state is the same."""
        if state == self._state and time.monotonic() - self._at < _TOLD_EVERY:
            return
        self._state, self._at = state, time.monotonic()
        body = {"state": state, **said, "at": datetime.now(UTC).isoformat(timespec="seconds")}
        self._place.client.put_object(
            Bucket=self._place.bucket,
            Key=self._place.prefix + MANIFEST,
            Body=json.dumps(body).encode(),
            ContentType="application/json",
        )
