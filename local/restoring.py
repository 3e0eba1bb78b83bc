"""`make restore`: brings back what a tenant had, from the embedded platform's own backups."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO

from rich.console import Console

from local import backups, engine, servers
from local.errors import LocalError
from local.paths import ROOT
from local.servers import postgres


def time(text: str) -> datetime:
    """Read a time. Raises LocalError."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise LocalError(
            f"AT={text}: is no time, so nothing was changed; write it as 2026-11-28T10:00Z."
        ) from None
    if at.tzinfo is None:
        raise LocalError(f"AT={text}: names no time zone, so nothing was changed; end it in Z for UTC.")
    return at.astimezone(UTC)


@contextmanager
def recovered(what: str, at: datetime, console: Console) -> Iterator[str | None]:
    """Have what the restore takes from: for a database, a second server as of that time."""
    if what != "database":
        yield None
        return
    with backups.recovered(at, console) as place:
        yield place


def run(arguments: Sequence[str], place: str | None, yes: str | None, output: IO[str] | None = None) -> int:
    """Run `python -m restore`; return its exit status."""
    command = [sys.executable, "-m", "restore", *arguments, "--stack", engine.LOCAL_STACK]
    command += [f"--recovered={place}"] if place else []
    command += [f"--yes={yes}"] if yes is not None else []
    environment = {**os.environ, **servers.environment()}
    environment["PATH"] = f"{postgres.BIN}{os.pathsep}{environment.get('PATH', os.defpath)}"
    return subprocess.run(command, cwd=ROOT, env=environment, stdout=output, check=False).returncode
