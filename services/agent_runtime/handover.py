"""A workspace on its way between a machine's volume and `workspace/` in the prefix (docs/decisions/0072).

A tenant that moves to a machine finds its files there: the machine takes in what lies in the prefix. A tenant
that moves away from one finds them in the prefix: when the platform says so, the machine hands them over.
"""

import contextlib
import errno
import fcntl
import filecmp
import hashlib
import itertools
import json
import math
import os
import shutil
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from services.agent_runtime import upload
from services.agent_runtime.files import BLOCK, DRAFT, FolderFiles, RefusedPathError
from services.agent_runtime.identity import NotReadyError
from services.agent_runtime.prefix_files import Held, Place, PrefixFiles
from services.agent_runtime.vault import Vault

Item = TypeVar("Item")

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
_BATCH = 1000
"""Files that are held in memory at once."""
_RESERVED = 64 * 2**20
"""Bytes of the volume that are left free."""
_ATTEMPTS = 3
"""To hand over a file that changes meanwhile."""
_OWN_FOLDER = "lost+found"
"""The file system's own, in the root of a volume."""
_ENDS_ALL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""Errors of the whole volume: the next file meets them, too."""


class Progress:
    """A count of the files and bytes that have reached the other side; several threads add to it."""

    def __init__(self) -> None:
        """Nothing is."""
        self._lock = threading.Lock()
        self.all = 0
        """Files that are to come, if that is known."""
        self.files = 0
        self.bytes = 0

    def add(self, *, files: int = 0, size: int = 0) -> None:
        """Count what has come."""
        with self._lock:
            self.files += files
            self.bytes += size


def take_in(volume: FolderFiles, vault: Vault, machine: str, progress: Progress | None = None) -> None:
    """Bring what lies in the prefix to the volume, and note there that this `machine` has it.

    Of two files of one name the newer has it, the other another name. An interrupted one is simply repeated.
    What no volume can hold stays in the prefix.

    Raises NotReadyError, and OSError if there is no room; each file is then in one of the two places.
    """
    progress = progress or Progress()
    _require_mounted(volume.folder)
    with _alone(volume.folder), PrefixFiles(vault, volume.folder).place() as place:
        if volume.noted() != ("here", machine):
            _remove_drafts(volume.folder)
        progress.all = _require_room(volume, place.objects())
        # From here on, what it says of the volume is no longer true.
        place.client.delete_object(Bucket=place.bucket, Key=place.prefix + MANIFEST)
        _each(partial(_take, volume, place, progress), place.objects())
        volume.note("here", machine)


def hand_over(volume: FolderFiles, vault: Vault, machine: str) -> None:
    """Put all that is on the volume into the prefix, and a manifest beside it; the volume stays as it is.

    Nothing is put there if a file cannot be: the manifest says which. An interrupted one is simply repeated.
    Raises NotReadyError, OSError.
    """
    progress = Progress()
    _require_mounted(volume.folder)
    with PrefixFiles(vault, volume.folder).place() as place, _Manifest(place, progress) as manifest:
        again = volume.noted() == ("leaving", machine)
        if not again:
            take_in(volume, vault, machine, progress)
        with _alone(volume.folder):
            _remove_drafts(volume.folder)
            files = partial(_walk, volume.folder, place)
            in_the_way = _Some()
            for obstacle in itertools.chain(_obstacles(place, files()), _left(volume.folder, place, again)):
                in_the_way.add(obstacle)
            if in_the_way.count:
                manifest.end("refused", files=in_the_way.count, named=in_the_way.first)
                return
            before = _Sum.of(files())
            volume.note("leaving", machine)
            _each(partial(_put, place, progress, again), files())
            if _Sum.of(files()) != before:
                raise NotReadyError("Files of the workspace were changed while they were handed over.")
            manifest.end("done", files=before.files, bytes=before.bytes)


def leave(volume: FolderFiles, vault: Vault, machine: str) -> None:
    """Hand over, however often it fails; nobody is served meanwhile."""
    while True:
        try:
            hand_over(volume, vault, machine)
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and tried again
            why = f"{type(error).__name__}: {error}"
        sys.stderr.write(f"The workspace is not handed over yet: {why}\n")
        with contextlib.suppress(Exception), PrefixFiles(vault, volume.folder).place() as place:
            _write_manifest(place, "at work", failure=why[:_LONGEST_TOLD])
        time.sleep(_AGAIN)


def _require_mounted(folder: Path) -> None:
    """A folder of the machine's own disk is gone when it is switched off."""
    if not os.path.ismount(folder):
        raise NotReadyError(f"{folder} is no volume, so nothing is moved there or from there.")


def _remove_drafts(folder: Path) -> None:
    """Remove what was not whole when the machine was switched off; nobody writes meanwhile."""
    for draft in folder.glob(f"{DRAFT}*"):
        draft.unlink()


@contextlib.contextmanager
def _alone(volume: Path) -> Iterator[None]:
    """Have the tenant's own programs, which may use its workspace as we do, wait meanwhile."""
    root = os.open(volume, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(root, fcntl.LOCK_EX)
        yield
    finally:
        os.close(root)


def _each(do: Callable[[Item], None], items: Iterable[Item]) -> None:
    """Do it to each item, some at once; what one raises is raised when those that were begun have ended."""
    coming = iter(items)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            while batch := list(itertools.islice(coming, _BATCH)):
                for _ in pool.map(do, batch):
                    pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _require_room(volume: FolderFiles, coming: Iterable[Held]) -> int:
    """Count what is coming; NotReadyError unless the volume has room for it."""
    files = size = 0
    for held in coming:
        files += 1
        if not _same_size(volume.folder / held.path, held.size):
            size += held.size
    free = max(0, shutil.disk_usage(volume.folder).free - _RESERVED)
    if size > free:
        raise NotReadyError(
            f"{size} bytes are to come from object storage, and the volume has room for {free}; have "
            "sizes.workspaceGib raised in the roster."
        )
    return files


def _same_size(path: Path, size: int) -> bool:
    """Return True if `path` is a regular file of that size."""
    with contextlib.suppress(OSError):
        found = path.lstat()
        return stat.S_ISREG(found.st_mode) and found.st_size == size
    return False


def _take(volume: FolderFiles, place: Place, progress: Progress, held: Held) -> None:
    """Move an object to the volume; what cannot lie there stays."""
    try:
        _taken(volume, place, progress, held)
        progress.add(files=1)
    except (RefusedPathError, OSError) as error:
        if isinstance(error, OSError) and error.errno in _ENDS_ALL:
            raise
        sys.stderr.write(f"{held.path!a} stays in the prefix: {error}\n")


def _taken(volume: FolderFiles, place: Place, progress: Progress, held: Held) -> None:
    # A key that only somebody with the tenant's own key can have written.
    if place.path(held.path) != held.path.removesuffix("/"):
        raise RefusedPathError("its name would be another file's.")
    if held.path.endswith("/"):
        if held.size:
            raise RefusedPathError("it is a folder with contents of its own.")
        _free(volume.folder, held.path, "").mkdir(parents=True, exist_ok=True)
        place.delete(held.path)
        return
    target = volume.folder / held.path
    if _same_size(target, held.size) and _as_it_was(target.lstat(), place.head(held.path)):
        place.delete(held.path)
        return
    found = place.get(held.path)
    if found is None:
        return
    modified, mode = _kept(found)
    with contextlib.closing(found["Body"]) as body:
        draft = volume.draft(_counted(body.iter_chunks(BLOCK), progress))
    try:
        draft.chmod(mode)
        os.utime(draft, (modified, modified))
        _settle(volume, held.path, draft)
    finally:
        draft.unlink(missing_ok=True)
    # An old pod may have written it again meanwhile: that comes next.
    if place.head(held.path).get("ETag") == found["ETag"]:
        place.delete(held.path)


def _as_it_was(known: os.stat_result, found: Mapping[str, Any]) -> bool:
    """Return True if the object was made of this file, and the file was not changed since."""
    return bool(found) and found["Metadata"].get("changed") == str(known.st_ctime_ns)


def _settle(volume: FolderFiles, name: str, draft: Path) -> None:
    """Give a file that came its name, or the name of an older one to what is there."""
    coming, target = draft.stat(), volume.folder / name
    place = _free(volume.folder, name, _stamp(coming))
    if place == target and target.exists():
        if filecmp.cmp(target, draft, shallow=False):
            return
        known = target.stat()
        if known.st_mtime < coming.st_mtime:
            volume.keep(target, _beside(target, _stamp(known)))
        else:
            place = _beside(target, _stamp(coming))
    volume.keep(draft, place)


def _stamp(known: os.stat_result) -> str:
    return datetime.fromtimestamp(known.st_mtime, UTC).strftime("%Y-%m-%dT%H%M%SZ")


def _free(root: Path, name: str, stamp: str) -> Path:
    """Return the path at which `name` can lie; a part of it that is taken by something else is renamed.

    Something else is a file or a link where a folder has to be, or a folder or a link where a file has to.
    """
    *folders, last = name.rstrip("/").split("/")
    path = root
    for number, part in enumerate((*folders, last)):
        path /= part
        is_folder = number < len(folders) or name.endswith("/")
        try:
            kind = path.lstat().st_mode
        except FileNotFoundError:
            return path.joinpath(*(*folders, last)[number + 1 :])
        if not (stat.S_ISDIR(kind) if is_folder else stat.S_ISREG(kind)):
            return _beside(path, stamp or "folder").joinpath(*(*folders, last)[number + 1 :])
    return path


def _beside(path: Path, stamp: str) -> Path:
    """A name that nothing has, for what has to give way to something at `path`."""
    names = (f"{path.name}.moved-{stamp}{f'-{number}' if number else ''}" for number in itertools.count())
    return next(each for each in map(path.with_name, names) if not os.path.lexists(each))


def _kept(found: Any) -> tuple[float, int]:
    """The time and the mode that a file had when it was handed over."""
    said, written = found["Metadata"], found["LastModified"].timestamp()
    try:
        modified, mode = float(said["mtime"]), int(said["mode"], 8) & 0o777 | stat.S_IRUSR
    except (LookupError, ValueError):
        return written, 0o644
    # The times of objects are in whole seconds.
    return modified if math.isfinite(modified) and abs(modified) <= written + 1 else written, mode


class _File(NamedTuple):
    """A file of the volume, or an empty folder, whose name ends in a slash; as it was when it was found."""

    name: str
    path: str
    kind: int
    size: int
    changed: int
    """In nanoseconds."""

    @property
    def is_folder(self) -> bool:
        return self.name.endswith("/")


def _walk(folder: Path, place: Place) -> Iterator[_File]:
    """All files below a folder, and its empty folders, or those that cannot be looked into."""
    names = [""]
    while names:
        inside = names.pop()
        for entry in os.scandir(folder / inside):
            name, found = inside + entry.name, entry.stat(follow_symlinks=False)
            if name.startswith(DRAFT):
                continue
            if not stat.S_ISDIR(found.st_mode):
                yield _File(name, entry.path, found.st_mode, found.st_size, found.st_ctime_ns)
                continue
            is_leaf = not _is_open(entry.path) or not any(os.scandir(entry.path))
            if is_leaf and name == _OWN_FOLDER:
                continue
            if is_leaf or _is_refused(place, name):
                yield _File(f"{name}/", entry.path, found.st_mode, 0, found.st_ctime_ns)
            else:
                names.append(f"{name}/")


def _is_open(path: str) -> bool:
    return os.access(path, os.R_OK | os.X_OK)


def _is_refused(place: Place, name: str) -> bool:
    try:
        place.path(name)
    except RefusedPathError:
        return True
    return False


def _obstacles(place: Place, found: Iterable[_File]) -> Iterator[str]:
    """The files that cannot lie in the prefix, and why."""
    for file in found:
        if why := _obstacle(place, file):
            yield f"{file.name!a}: {why}"[:_LONGEST_TOLD]


def _obstacle(place: Place, file: _File) -> str:
    try:
        place.path(file.name)
    except RefusedPathError as error:
        return str(error).removesuffix(".")
    if file.name.split("/")[0] == _OWN_FOLDER:
        return "is in the folder that the file system has for itself"
    if stat.S_ISLNK(file.kind):
        return "is a symbolic link"
    if not stat.S_ISREG(file.kind) and not file.is_folder:
        return "is no file"
    if not (_is_open(file.path) if file.is_folder else os.access(file.path, os.R_OK)):
        return "cannot be read by the user agent"
    return f"has more than {_LARGEST} bytes" if file.size > _LARGEST else ""


def _left(folder: Path, place: Place, again: bool) -> Iterator[str]:
    """The objects that could not be taken in: they would be found among the files after the move.

    One that an earlier attempt put there, and whose file is gone since, goes.
    """
    for held in place.objects():
        # What only shows a folder is none.
        if held.path.endswith("/") or os.path.lexists(folder / held.path):
            continue
        if again and "changed" in place.head(held.path).get("Metadata", {}):
            place.delete(held.path)
        else:
            yield f"{held.path!a}: lies in object storage, and could not be brought here"[:_LONGEST_TOLD]


def _put(place: Place, progress: Progress, again: bool, file: _File) -> None:
    """Write a file or an empty folder as an object, unless an earlier attempt did."""
    if file.is_folder:
        place.client.put_object(Bucket=place.bucket, Key=place.root + file.name, Body=b"")
        return
    for _ in range(_ATTEMPTS):
        with Path(file.path).open("rb") as content:
            known = os.fstat(content.fileno())
            found = place.head(file.name) if again else {}
            if _as_it_was(known, found) and found["ContentLength"] == known.st_size:
                progress.add(files=1, size=known.st_size)
                return
            said = {
                "mtime": repr(known.st_mtime),
                "mode": f"{stat.S_IMODE(known.st_mode) & 0o777:o}",
                "changed": str(known.st_ctime_ns),
            }
            upload.put(
                place.client,
                place.bucket,
                place.root,
                place.root + file.name,
                _counted(iter(partial(content.read, BLOCK), b""), progress),
                metadata=said,
            )
            if os.fstat(content.fileno()).st_ctime_ns == known.st_ctime_ns:
                progress.add(files=1)
                return
    raise NotReadyError(f"{file.name!a} changes all the time, so it is not handed over.")


def _counted(blocks: Iterable[bytes], progress: Progress) -> Iterator[bytes]:
    for block in blocks:
        progress.add(size=len(block))
        yield block


class _Some:
    """A count of texts that keeps the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def add(self, text: str) -> None:
        self.count += 1
        if len(self.first) < _MOST_TOLD:
            self.first.append(text)


class _Sum(NamedTuple):
    """All files of a volume, in so little that any number of them can be compared."""

    files: int
    bytes: int
    all: int

    @classmethod
    def of(cls, found: Iterable[_File]) -> "_Sum":
        files = size = together = 0
        for file in found:
            files, size = files + (not file.is_folder), size + file.size
            together ^= int.from_bytes(hashlib.sha256(repr(file).encode()).digest())
        return cls(files, size, together)


class _Manifest:
    """Says how far a handover is, every few seconds until it is left or ended."""

    def __init__(self, place: Place, progress: Progress) -> None:
        self._place = place
        self._progress = progress
        self._over = threading.Event()
        self._teller = threading.Thread(target=self._tell, daemon=True)

    def __enter__(self) -> "_Manifest":
        self._teller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def end(self, state: str, **said: Any) -> None:
        """Say how it ended, and nothing more."""
        self._stop()
        _write_manifest(self._place, state, **said)

    def _stop(self) -> None:
        self._over.set()
        self._teller.join()

    def _tell(self) -> None:
        while not self._over.wait(_TOLD_EVERY):
            with contextlib.suppress(Exception):  # the next one tells it
                progress = self._progress
                _write_manifest(self._place, "at work", files=progress.files, bytes=progress.bytes)


def _write_manifest(place: Place, state: str, **said: Any) -> None:
    body = {"state": state, **said, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    place.client.put_object(
        Bucket=place.bucket,
        Key=place.prefix + MANIFEST,
        Body=json.dumps(body).encode(),
        ContentType="application/json",
    )
