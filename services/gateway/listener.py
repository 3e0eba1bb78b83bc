"""Listens: TLS from files that may change, HTTP/2 or HTTP/1.1 as the client likes, bounded and drained."""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

from services.gateway.exchange import Exchange
from services.gateway.http1 import Http1
from services.gateway.http2 import Http2
from services.gateway.settings import Limits

log = logging.getLogger(__name__)

_BACKLOG = 1024
_RELOAD_SECONDS = 5.0
_HANDSHAKE_SECONDS = 10.0

Handle = Callable[[Exchange], Awaitable[None]]


class Certificate:
    """The server's certificate; a new one on disk serves from the next handshake on."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Load the pair. Raises `OSError` (an `ssl.SSLError` is one) if that is not possible."""
        self._files = (certificate, key)
        self.context = _context()
        self._loaded = self._stamp()
        self.context.load_cert_chain(*self._files)

    async def follow(self) -> None:
        """Look for a new certificate until cancelled."""
        while True:
            await asyncio.sleep(_RELOAD_SECONDS)
            self.renew()

    def renew(self) -> None:
        """Load the pair if it has changed; one that does not load leaves the old one in service."""
        try:
            stamp = self._stamp()
            if stamp != self._loaded:
                _context().load_cert_chain(*self._files)  # first where a half of a pair does no harm
                self.context.load_cert_chain(*self._files)
                self._loaded = stamp
                log.info("the new certificate in %s is in service", self._files[0])
        except OSError as error:
            log.error(
                "the new certificate in %s does not load (%s), so the old one stays in service; "
                "it has to be PEM and to belong to its key",
                self._files[0],
                error,
            )

    def _stamp(self) -> tuple[bytes, ...]:
        return tuple(file.read_bytes() for file in self._files)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


class Listener:
    """One port and its connections."""

    def __init__(self, handle: Handle, limits: Limits, certificate: Certificate | None = None) -> None:
        """Have `handle` answer every request; speak TLS if there is a certificate."""
        self._handle = handle
        self._limits = limits
        self._certificate = certificate
        self._connections: set[Http1 | Http2] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._server: asyncio.Server
        self.port = 0
        """The port listened on."""

    @property
    def connections(self) -> int:
        """Return how many are open."""
        return len(self._connections)

    async def listen(self, address: str, port: int) -> None:
        """Begin."""
        tls = self._certificate.context if self._certificate else None
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Arrival(self._arrived),
            address,
            port,
            ssl=tls,
            backlog=_BACKLOG,
            ssl_handshake_timeout=_HANDSHAKE_SECONDS if tls else None,
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def drain(self, seconds: float) -> None:
        """Take no more connections, let the answers under way end; what is left then is broken off."""
        self._server.close()
        for connection in list(self._connections):
            connection.drain()
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            for connection in list(self._connections):
                connection.transport.abort()

    def _arrived(self, transport: asyncio.Transport) -> None:
        if len(self._connections) >= self._limits.connections:
            transport.abort()
            return
        tls = transport.get_extra_info("ssl_object")
        kind = Http2 if tls is not None and tls.selected_alpn_protocol() == "h2" else Http1
        connection = kind(self._handle, self._limits, self._left)
        self._connections.add(connection)
        self._empty.clear()
        transport.set_protocol(connection)
        connection.connection_made(transport)

    def _left(self, connection: Http1 | Http2) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()


class _Arrival(asyncio.Protocol):
    """A connection that has yet to say which version of HTTP it speaks."""

    def __init__(self, arrived: Callable[[asyncio.Transport], None]) -> None:
        self._arrived = arrived

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._arrived(cast(asyncio.Transport, transport))
