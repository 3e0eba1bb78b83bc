"""Small private files, replaced in one step; the JSON ones may be edited by several processes at once."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from local.errors import LocalError


def private_folder(path: Path) -> Path:
    """Return `path`, with its parents; what is missing is made, readable by its owner only."""
    for folder in reversed([path, *path.parents]):
        if not folder.exists():  # `parents=True` would let others read those
            folder.mkdir(mode=0o700, exist_ok=True)
    return path


def read(path: Path) -> dict[str, Any]:
    """Return the object in `path`, empty where there is no file yet; LocalError for one that is damaged."""
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        raise LocalError(
            f"{path}: cannot be read ({error}). The embedded platform cannot go on without it; "
            "restore the file, or start afresh with `make down DATA=delete`."
        ) from error
    if not isinstance(values, dict):
        raise LocalError(
            f"{path}: holds no JSON object. The embedded platform cannot go on without it; "
            "restore the file, or start afresh with `make down DATA=delete`."
        )
    return values


def write(path: Path, values: dict[str, Any]) -> None:
    """Replace `path` in one step, readable by its owner only."""
    write_text(path, json.dumps(values, indent=2))


def write_text(path: Path, text: str) -> None:
    """Replace `path` in one step, readable by its owner only; a reader sees the old or the new content."""
    private_folder(path.parent)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def edit(path: Path) -> Iterator[dict[str, Any]]:
    """Lock `path`, hand out its content to be changed in place, and write it back if it was changed."""
    private_folder(path.parent)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        values = read(path)
        before = json.dumps(values)
        yield values
        if json.dumps(values) != before:
            write(path, values)
