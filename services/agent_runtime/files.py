"""The files of a workspace, and nothing outside it."""

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path


class RefusedPathError(Exception):
    """A path that is not there, or leads out of the workspace."""


class Files:
    """One tenant's files."""

    def __init__(self, folder: Path) -> None:
        """Keep them in `folder`."""
        self.folder = folder

    def existing(self, name: str) -> Path:
        """The path of what is there."""
        path = self._inside(name)
        if not path.exists():
            raise RefusedPathError(f"{name}: there is no such file in the workspace.")
        return path

    def listed(self, name: str = "") -> list[str]:
        """The names of what is in a folder; a folder's ends in a slash."""
        return sorted(
            entry.name + ("/" if entry.is_dir() else "")
            for entry in os.scandir(self.existing(name))
            if entry.name != "lost+found"
        )

    def read(self, name: str) -> bytes:
        """What is in a file."""
        path = self.existing(name)
        if path.is_dir():
            raise RefusedPathError(f"{name}: is a folder.")
        return path.read_bytes()

    def write(self, name: str, blocks: Iterable[bytes]) -> None:
        """Write a file and the folders it is in: all of it, or nothing."""
        path = self._inside(name)
        if path == self.folder.resolve() or path.is_dir():
            raise RefusedPathError(f"{name or '/'}: is a folder.")
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file:
                for block in blocks:
                    file.write(block)
                file.flush()
                # What was answered for is still there when the machine has gone down hard.
                os.fsync(file.fileno())
            Path(draft).chmod(0o644)
            Path(draft).replace(path)
        finally:
            Path(draft).unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        """Delete a file, or a folder with all in it."""
        path = self.existing(name)
        if path == self.folder.resolve():
            raise RefusedPathError("The workspace itself stays.")
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    def _inside(self, name: str) -> Path:
        root = self.folder.resolve()
        if "\0" in name:
            raise RefusedPathError("A path has no NUL in it.")
        path = (root / name.lstrip("/")).resolve()
        if not path.is_relative_to(root):
            raise RefusedPathError(f"{name}: leads out of the workspace.")
        return path
