"""Debian's packages, unpacked by mmdebstrap into a folder."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from local.errors import LocalError

SUITE = "bookworm"
EPOCH = 1735689600
"""The time of every file in an image, and of Debian's own notes: an image has no date."""
KERNEL = "linux-image-cloud-amd64"
"""Debian's kernel for guests: no driver of real hardware."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LEFT_OUT = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
)
_OF_ONE_MACHINE = (
    *("etc/hostname", "etc/resolv.conf", "etc/machine-id"),
    # Who owns what apt leaves depends on whether its own user could reach the folder of the build.
    *("var/cache/apt/archives", "var/lib/apt/lists", "var/cache/ldconfig", "var/log"),
)
"""What installing leaves behind that differs from time to time, or that every machine has of its own."""


def check() -> None:
    """LocalError if this machine cannot unpack Debian's packages."""
    missing = [
        tool for tool in ("mmdebstrap", "mkfs.erofs", "depmod") if shutil.which(tool, path=_PATH) is None
    ]
    if missing or os.geteuid() != 0:
        lacks = [*(["root's rights"] if os.geteuid() != 0 else []), *missing]
        raise LocalError(
            f"Images cannot be built here: {' and '.join(lacks)} missing. Without them machines are "
            "reported and not booted, and everything else works; on Debian, as root, "
            "`apt-get install mmdebstrap erofs-utils kmod` brings what is needed."
        )


def unpack(packages: Sequence[str], folder: Path, log: IO[bytes]) -> dict[str, str]:
    """Install `packages` and what they need into `folder`.

    Returns:
        Each package's version.
    """
    _mmdebstrap("--variant=essential", ["usr-is-merged", *packages], folder, log)
    versions = _versions(folder)
    for path in (folder / name for name in _OF_ONE_MACHINE):
        if path.is_dir():
            shutil.rmtree(path)
            path.mkdir()
        else:
            path.unlink(missing_ok=True)
    # A key that came with an image would be everybody's.
    for key in (folder / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    return versions


def unpack_kernel(folder: Path, log: IO[bytes]) -> None:
    """Unpack the kernel and its modules, and run none of its scripts."""
    _mmdebstrap("--variant=extract", [KERNEL], folder, log)


def _mmdebstrap(variant: str, packages: Sequence[str], folder: Path, log: IO[bytes]) -> None:
    subprocess.run(
        [
            *("mmdebstrap", variant, f"--include={','.join(packages)}", "--components=main"),
            *("--architectures=amd64", "--format=directory"),
            *(f"--dpkgopt={option}" for option in _LEFT_OUT),
            *(SUITE, folder),
        ],
        check=True,
        stdout=log,
        stderr=log,
        env={"PATH": _PATH, "SOURCE_DATE_EPOCH": str(EPOCH), "LC_ALL": "C.UTF-8", **_proxies()},
    )


def _proxies() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}


def _versions(folder: Path) -> dict[str, str]:
    listed = subprocess.run(
        ["dpkg-query", f"--admindir={folder}/var/lib/dpkg", "--show", "-f", "${Package} ${Version}\n"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return dict(line.split(" ", 1) for line in listed.splitlines())
