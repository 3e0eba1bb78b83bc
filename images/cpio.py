"""Archives for the kernel's initial file system, in the format `newc`."""

from collections.abc import Iterable
from dataclasses import dataclass

_MAGIC = "070701"
_FOLDER = 0o040755
_FILE = 0o100644
_EXECUTABLE = 0o100755
_DEVICE = 0o020600


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file, a folder, or a character device; all are root's."""

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def folder(path: str) -> Entry:
    """An empty folder."""
    return Entry(path=path, mode=_FOLDER)


def file(path: str, content: bytes, *, executable: bool = False) -> Entry:
    """A file."""
    return Entry(path=path, mode=_EXECUTABLE if executable else _FILE, content=content)


def character_device(path: str, major: int, minor: int) -> Entry:
    """A character device, such as the console that the first process writes to."""
    return Entry(path=path, mode=_DEVICE, device=(major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """The archive: the same entries make the same bytes. A folder has to come before what is in it."""
    written = bytearray()
    for number, entry in enumerate((*entries, Entry(path="TRAILER!!!", mode=0)), start=1):
        name = entry.path.encode() + b"\0"
        fields = (
            number,
            entry.mode,
            0,  # User.
            0,  # Group.
            1,  # Links.
            0,  # Time.
            len(entry.content),
            0,  # Device it is on.
            0,
            *entry.device,
            len(name),
            0,  # Checksum, which this format has none of.
        )
        written += (_MAGIC + "".join(f"{value:08x}" for value in fields)).encode() + name
        written += bytes(-len(written) % 4) + entry.content
        written += bytes(-len(written) % 4)
    return bytes(written)
