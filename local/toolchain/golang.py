"""The Go tool chain: the machine's own where it is new enough, else one that is installed into the cache."""

import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from rich.console import Console

from local.errors import LocalError
from local.paths import CACHE

_LEAST = "1.26"
_REQUIREMENTS = Path(__file__).parent / "go-requirements.txt"
_INSTALLED = CACHE / "toolchain" / f"go-{hashlib.sha256(_REQUIREMENTS.read_bytes()).hexdigest()[:16]}"


def ensure(console: Console) -> None:
    """Install Go into the cache if the machine has none that is new enough."""
    if _own() or _bundled().is_file():
        return
    console.print(
        f"No Go {_LEAST} or newer on PATH: installing one into {_INSTALLED} (about 1 min).",
        soft_wrap=True,
    )
    draft = _INSTALLED.with_name("go.draft")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.rmtree(_INSTALLED, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*command, "--require-hashes", "--target", draft, "-r", _REQUIREMENTS], capture_output=True, text=True
    )
    if done.returncode:
        raise LocalError(
            f"Go could not be installed, so the tool chain cannot be built:\n{done.stderr.strip()[-1500:]}\n"
            f"Install Go {_LEAST} or newer yourself and put it on PATH, or mend that."
        )
    draft.replace(_INSTALLED)


def run(command: Sequence[str | Path], *, directory: Path, log: IO[bytes]) -> bytes:
    """Run a go command in a module; return what it prints. Raises CalledProcessError."""
    return subprocess.run(
        [_go(), *command], cwd=directory, env=_environment(), check=True, stdout=subprocess.PIPE, stderr=log
    ).stdout


def caches() -> list[Path]:
    """Return the folders where Go keeps modules and compiled packages."""
    environment = _environment()
    home = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = Path(environment.get("GOPATH", str(Path.home() / "go")).split(os.pathsep)[0])
    return [
        Path(environment.get("GOCACHE") or home / "go-build"),
        Path(environment.get("GOMODCACHE") or path / "pkg/mod"),
    ]


def _environment() -> Mapping[str, str]:
    # A user's GOFLAGS or workspace must not change what is built, nor may Go fetch another version of itself.
    return os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off", "GOTOOLCHAIN": "local"}


def _go() -> Path:
    return _own() or _bundled()


def _bundled() -> Path:
    return _INSTALLED / "go/bin/go"


@functools.cache
def _own() -> Path | None:
    """Return the `go` on PATH if it is new enough."""
    found = shutil.which("go")
    if found is None:
        return None
    told = subprocess.run(
        [found, "env", "GOVERSION"], env=_environment(), capture_output=True, text=True
    ).stdout
    return Path(found) if _numbers(told) >= _numbers(_LEAST) else None


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:2]]
