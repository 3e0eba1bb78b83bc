"""What the system is asked to do: programs run to their end, disks found and mounted."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BUSYBOX = "/bin/busybox"
_BLOCK = Path("/sys/class/block")
_EXT_MAGIC = (0x438, b"\x53\xef")
_PROBED = 64 * 1024


class FailedError(Exception):
    """A program ended with an error."""


def run(*command: str) -> None:
    """Run a program to its end; FailedError unless it ends well."""
    status = os.waitstatus_to_exitcode(os.waitpid(os.posix_spawnp(command[0], command, os.environ), 0)[1])
    if status:
        raise FailedError(f"{' '.join(command)}: exit {status}")


def start(*command: str) -> None:
    """Start a program that goes on by itself and says nothing."""
    silent = [(os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in range(3)]
    os.posix_spawn(command[0], command, os.environ, file_actions=silent)


def busybox(*command: str) -> None:
    """Run one of Busybox's programs, which start in no time."""
    run(_BUSYBOX, *command)


def disk(serial: str) -> Path | None:
    """The disk with a serial number."""
    for block in _disks():
        found = block / "serial"
        if found.exists() and found.read_text().strip() == serial:
            return Path("/dev") / block.name
    return None


def labelled(label: str) -> Path | None:
    """The disk whose ISO 9660 file system has a label."""
    for block in _disks():
        device = Path("/dev") / block.name
        with device.open("rb") as content:
            content.seek(0x8000)
            head = content.read(72)
        if head[1:6] == b"CD001" and head[40:72].decode("ascii", "replace").strip().lower() == label:
            return device
    return None


@contextmanager
def mounted(device: Path, folder: str) -> Iterator[Path]:
    """Mount an ISO 9660 file system for a moment."""
    Path(folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    busybox("mount", "-t", "iso9660", "-o", "ro,nosuid,nodev,noexec", str(device), folder)
    try:
        yield Path(folder)
    finally:
        busybox("umount", folder)


def is_ext4(device: Path) -> bool:
    """Whether a disk has a file system of the ext family; FailedError if it has something else on it."""
    with device.open("rb") as content:
        head = content.read(_PROBED)
    at, magic = _EXT_MAGIC
    if head[at : at + 2] == magic:
        return True
    if any(head):
        raise FailedError(f"{device} is neither blank nor ext4, so it is left as it is")
    return False


def _disks() -> list[Path]:
    return sorted(block for block in _BLOCK.iterdir() if not (block / "partition").exists())
