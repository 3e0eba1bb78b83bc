"""HTTP to public addresses alone: the way to what a tenant names, from where it runs nothing itself.

The address that is checked is the one that is connected to, for each connection anew. So a name cannot change
between the two, and a redirect leads nowhere else either.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from typing import Any

import httpcore2
import httpx2

PORT = 443
"""The only port that is let out to the internet."""
_TIMEOUT = httpx2.Timeout(30, read=300)
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_SPECIAL = (
    # Protocol assignments, among them what a NAT answers under, and the relays from IPv4 to 6to4.
    ipaddress.IPv4Network("192.0.0.0/24"),
    ipaddress.IPv4Network("192.88.99.0/24"),
)


def is_public(address: str) -> bool:
    """Return whether the address is public: neither in a private or special range nor an embedding of one."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        # IPv4 within IPv6 may be anybody's: mapped and NAT64 lie outside of global unicast, these two inside.
        carries = found.sixtofour or found.teredo
        return found in _GLOBAL_UNICAST and found.is_global and not carries
    return found.is_global and not found.is_multicast and not any(found in network for network in _SPECIAL)


def client(headers: Mapping[str, str] | None = None) -> httpx2.AsyncClient:
    """A client that reaches public addresses alone; whoever makes it closes it."""
    return httpx2.AsyncClient(
        transport=_Transport(),
        headers=headers,
        timeout=_TIMEOUT,
        follow_redirects=True,
        # No proxy would check what it connects to.
        trust_env=False,
    )


class _Transport(httpx2.AsyncHTTPTransport):
    """The ordinary transport, whose pool connects by way of the check."""

    def __init__(self) -> None:
        super().__init__(trust_env=False)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=httpx2.create_ssl_context(), network_backend=_Backend()
        )


class _Backend(httpcore2.AsyncNetworkBackend):
    """Connects to public addresses alone."""

    def __init__(self) -> None:
        self._backend = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        failure: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in await _checked(host, port):
            try:
                return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)


async def _checked(host: str, port: int) -> list[str]:
    """The addresses of a host, all of them public; ConnectError otherwise."""
    if port != PORT:
        raise httpcore2.ConnectError(f"{host}:{port} is refused: only port {PORT} leads out")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore2.ConnectError(f"{host} is not known: {error}") from None
    addresses = [str(address[0]) for *_, address in found]
    if not all(is_public(address) for address in addresses):
        raise httpcore2.ConnectError(f"{host} is refused: it is, or may become, no public address")
    return addresses
