"""Loopback addresses for what has an address of its own in a cluster."""

import hashlib
from collections.abc import Container

from local.paths import DATA

NODES = 16
SERVICES = 32
PODS = 64 + hashlib.sha256(bytes(DATA)).digest()[0] % 128
"""Each has its own 127.x.0.0/16, all of which loops back on Linux. Pods listen at the same ports on every
platform, so each platform has another block for them: a gateway would find an agent of the other one."""


def loopback(block: int, name: str, taken: Container[str] = ()) -> str:
    """Return the address in 127.`block`.0.0/16 that belongs to `name`, or the next one not `taken`."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
    while True:
        host = number % 0xFFFE + 1
        address = f"127.{block}.{host >> 8}.{host & 0xFF}"
        if address not in taken:
            return address
        number += 1
