"""HTTP to public addresses alone: the way to what a tenant names, from where it runs nothing itself.

The address that is checked is the one that is connected to, for each connection anew. So a name cannot change
between the two, and a redirect leads nowhere else either. What comes back is counted: memory is shared there.
"""

import asyncio
import ipaddress
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
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


class Allowance:
    """The bytes that may be received in all by the clients that share it."""

    def __init__(self, size: int, over: Callable[[str], object]) -> None:
        """Allow `size` of them; `over` is told when there are more."""
        self._size = size
        self._left = size
        self._over = over
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Count some that came; ReadError if that is too many."""
        with self._lock:
            self._left -= size
            left = self._left
        if left < 0:
            why = f"The model and the MCP servers have sent more than {self._size} bytes, so this ends."
            self._over(why)
            raise httpx2.ReadError(why)


def client(allowance: Allowance, headers: Mapping[str, str] | None = None) -> httpx2.AsyncClient:
    """A client that reaches public addresses alone; whoever makes it closes it."""
    return httpx2.AsyncClient(
        transport=_Transport(allowance),
        # What is compressed may be a thousand times as long as what was counted.
        headers={**(headers or {}), "Accept-Encoding": "identity"},
        timeout=_TIMEOUT,
        follow_redirects=True,
        # No proxy would check what it connects to.
        trust_env=False,
    )


class _Transport(httpx2.AsyncHTTPTransport):
    """The ordinary transport, whose pool connects by way of the check, and whose answers are counted."""

    def __init__(self, allowance: Allowance) -> None:
        super().__init__(trust_env=False)
        self._allowance = allowance
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=httpx2.create_ssl_context(), network_backend=_Backend()
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        answer = await super().handle_async_request(request)
        encoding = answer.headers.get("Content-Encoding", "identity").lower()
        if encoding != "identity":
            await answer.aclose()
            raise httpx2.RemoteProtocolError(
                f"{request.url.host} answers in {encoding}, which was not asked for"
            )
        assert isinstance(answer.stream, httpx2.AsyncByteStream)  # noqa: S101 - an asynchronous answer's
        answer.stream = _Counted(answer.stream, self._allowance)
        return answer


class _Counted(httpx2.AsyncByteStream):
    """An answer's bytes, counted as they come."""

    def __init__(self, stream: httpx2.AsyncByteStream, allowance: Allowance) -> None:
        self._stream = stream
        self._allowance = allowance

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            self._allowance.take(len(part))
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


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
