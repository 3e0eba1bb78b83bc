"""A workspace's files: what can be done with them wherever they lie, and how a machine's folder does it."""

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from services.agent_runtime.identity import NotReadyError

BLOCK = 2**16
"""Bytes that are held at once of a file on its way."""
LONGEST_NAME = 255
"""Bytes of one name in a path: more no file system takes, nor the object storage that stands on one."""
LONGEST_ADDRESS = 24 * 60 * 60
"""Seconds for which an address of a file is good."""
DRAFT = ".agent-platform-draft-"
"""The beginning of the names of files that are not whole yet."""
_NOTE = "user.agent-platform.workspace"
"""The extended attribute of a volume's root that holds its note."""
_LARGEST_TEXT = 2**20
"""Bytes of a file that is read as a whole, for an agent."""


class RefusedPathError(Exception):
    """A path that cannot be, or at which what is asked for cannot be done."""


class AbsentError(RefusedPathError):
    """A path at which there is nothing."""

    def __init__(self, name: str) -> None:
        """Name it."""
        super().__init__(f"{name}: there is no such file in the workspace.")


class Content(Protocol):
    """A file's bytes, as they come."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` of them, none at the end."""
        ...

    def close(self) -> None:
        """Read no more."""
        ...


@dataclass(frozen=True)
class File:
    """A file that was found; whoever finds it closes its content."""

    size: int
    content: Content


@dataclass(frozen=True)
class Folder:
    """A folder that was found."""

    names: list[str]
    """Of what is in it, sorted; a folder's ends in a slash."""
    more: bool = False
    """True if it holds more than these."""


class Files(ABC):
    """One tenant's files.

    A write is there as a whole or not at all. Besides the errors named below, each may raise NotReadyError
    if the workspace cannot be reached, and OSError if it takes no more.
    """

    folder: Path
    """The folder in which programs that work for the tenant are started."""

    @abstractmethod
    def ready(self) -> None:
        """Raise NotReadyError unless what is written now would last."""

    @abstractmethod
    def find(self, name: str) -> File | Folder:
        """Return what is at a path. Raises AbsentError, RefusedPathError."""

    @abstractmethod
    def write(self, name: str, blocks: Iterable[bytes]) -> None:
        """Write a file and the folders it is in. Raises RefusedPathError, and whatever `blocks` raises."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Delete a file, or a folder with all in it. Raises AbsentError, RefusedPathError."""

    def listed(self, name: str = "") -> Folder:
        """Return a folder. Raises AbsentError, RefusedPathError."""
        found = self.find(name)
        if isinstance(found, File):
            found.content.close()
            raise RefusedPathError(f"{name}: is a file, so nothing is in it to be listed.")
        return found

    def read(self, name: str) -> bytes:
        """Return the whole of a file. Raises AbsentError, RefusedPathError."""
        found = self.find(name)
        if isinstance(found, Folder):
            raise RefusedPathError(f"{name}: is a folder, so there is no text to read.")
        try:
            if found.size > _LARGEST_TEXT:
                raise RefusedPathError(
                    f"{name}: has {found.size} bytes; more than {_LARGEST_TEXT} are never read, so split it."
                )
            return b"".join(iter(lambda: found.content.read(BLOCK), b""))
        finally:
            found.content.close()


class FolderFiles(Files):
    """Files in a folder of this machine's."""

    def __init__(self, folder: Path) -> None:
        """Keep them in `folder`."""
        self.folder = folder

    def ready(self) -> None:
        """Raise NotReadyError unless the folder is there."""
        if not self.folder.is_dir():
            raise NotReadyError(f"{self.folder}: there is no workspace, so nothing would be kept.")

    def noted(self) -> tuple[str, str]:
        """Return the last note: `here` or `leaving`, and the machine that wrote it; empty without one."""
        try:
            where, _, machine = os.getxattr(self.folder, _NOTE).decode().partition(" ")
        except (OSError, UnicodeError):
            return "", ""
        return where, machine

    def note(self, where: Literal["here", "leaving"], machine: str) -> None:
        """Note that the workspace is on the volume, or on its way from there, and which machine says so."""
        os.setxattr(self.folder, _NOTE, f"{where} {machine}".encode())
        _sync(self.folder)

    def find(self, name: str) -> File | Folder:
        """Open a file, or list a folder."""
        path = self._existing(name)
        if path.is_dir():
            return Folder(
                sorted(
                    entry.name + ("/" if entry.is_dir() else "")
                    for entry in os.scandir(path)
                    if entry.name != "lost+found" and not entry.name.startswith(DRAFT)
                )
            )
        file = path.open("rb")
        return File(os.fstat(file.fileno()).st_size, file)

    def write(self, name: str, blocks: Iterable[bytes]) -> None:
        """Write a draft, and rename that when it is whole."""
        path = self._inside(name)
        if path == self.folder.resolve() or path.is_dir():
            raise RefusedPathError(f"{name or '/'}: is a folder, so no file is written there.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise RefusedPathError(f"{name}: what should be its folder is a file.") from None
        draft = self.draft(blocks)
        try:
            self.keep(draft, path)
        finally:
            draft.unlink(missing_ok=True)

    def draft(self, blocks: Iterable[bytes]) -> Path:
        """Write a file that has no name yet; whoever asked for it keeps it or removes it."""
        descriptor, name = tempfile.mkstemp(dir=self.folder, prefix=DRAFT)
        draft = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for block in blocks:
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            draft.chmod(0o644)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        return draft

    def keep(self, draft: Path, path: Path) -> None:
        """Give a file its name, in folders that are made for it.

        It is still there when the machine has gone down hard.
        """
        folders = [path.parent, *(each for each in path.parent.parents if each.is_relative_to(self.folder))]
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.replace(path)
        for folder in folders:
            _sync(folder)

    def delete(self, name: str) -> None:
        """Delete a file, or a folder with all in it."""
        path = self._existing(name)
        if path == self.folder.resolve():
            raise RefusedPathError("The workspace itself stays.")
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    def _existing(self, name: str) -> Path:
        path = self._inside(name)
        if not path.exists():
            raise AbsentError(name)
        return path

    def _inside(self, name: str) -> Path:
        root = self.folder.resolve()
        if "\0" in name:
            raise RefusedPathError("A path has no NUL in it.")
        if name.lstrip("/").startswith(DRAFT):
            raise RefusedPathError(f"No name begins with {DRAFT}, which files have that are not whole yet.")
        if any(len(os.fsencode(part)) > LONGEST_NAME for part in name.split("/")):
            raise RefusedPathError(f"A name in a path has at most {LONGEST_NAME} bytes.")
        path = (root / name.lstrip("/")).resolve()
        if not path.is_relative_to(root):
            raise RefusedPathError(f"{name}: leads out of the workspace.")
        return path


def _sync(folder: Path) -> None:
    """Have the names in a folder written down."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
