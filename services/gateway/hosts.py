"""Which of our hosts a request names; anything that is not exactly one of them is none."""

import re

CONSOLE = "console"
"""The host of the operators' page, and the audience of their tokens."""

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def label(authority: str, domain: str) -> str | None:
    """Return `acme` for `acme.DOMAIN`, with or without a port, in either case; None for anything else.

    A trailing dot, an address, a name with more or fewer labels or any other character names none of ours.
    """
    host, colon, port = authority.partition(":")
    if colon and not (port.isascii() and port.isdigit() and len(port) <= 5):
        return None
    name, dot, rest = host.lower().partition(".") if host.isascii() else ("", "", "")
    return name if dot and rest == domain and _LABEL.fullmatch(name) else None
