"""Loopback ports: found free once, then kept, as addresses end up in certificates, state and shells."""

import socket
import zlib

from local import store
from local.errors import LocalError
from local.paths import DATA, RUN

_FILE = RUN / "ports.json"
# Below the range that the kernel hands out for outgoing connections (32768 and up), so that a kept port is
# not lost to some client while the platform is down.
_FIRST, _COUNT = 20_000, 10_000


def port(name: str) -> int:
    """Return the port of the server `name`: the kept one, or a free one that is kept from now on."""
    known = store.read(_FILE).get(name)
    if known is not None:
        return int(known)
    with store.edit(_FILE) as kept:
        if name not in kept:
            kept[name] = _find(name, set(kept.values()))
        return int(kept[name])


def is_free(number: int) -> bool:
    """Tell whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError:
            return False
    return True


def _find(name: str, taken: set[int]) -> int:
    # Begin at a place of the platform's own: two platforms that are never up at once then seldom share.
    begin = zlib.crc32(f"{DATA}:{name}".encode())
    for step in range(_COUNT):
        number = _FIRST + (begin + step) % _COUNT
        if number not in taken and is_free(number):
            return number
    raise LocalError(
        f"no free loopback port from {_FIRST} to {_FIRST + _COUNT - 1} for {name}, so it cannot start; "
        "stop some of the programs that listen there."
    )
