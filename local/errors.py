"""The one exception that reaches the user."""

import errno
from pathlib import Path

_REMEDIES = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room within your quota",
    errno.EROFS: "set AGENT_PLATFORM_DATA to a folder that can be written",
    errno.EACCES: "give it back to your user (`sudo make up` makes it root's)",
    errno.EPERM: "give it back to your user (`sudo make up` makes it root's)",
}


class LocalError(Exception):
    """What is wrong, what it stops and how to mend it; `python -m local` prints it and exits 1."""


def refused(error: OSError, place: Path, consequence: str) -> LocalError:
    """Return a message of what the operating system refused; `place` is used if the error names no file."""
    where = error.filename or (place if error.errno in _REMEDIES else "")
    remedy = _REMEDIES.get(error.errno or 0, "mend that")
    told = ": ".join(str(part) for part in (where, error.strerror or error) if part)
    return LocalError(f"{told}, so {consequence}; {remedy}, then run the same command again.")
