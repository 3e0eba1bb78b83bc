"""TCP from one port to several backends in turn."""

import asyncio
import contextlib
import itertools
import logging
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

Address = tuple[str, int]

_CHUNK = 2**16
_CONNECT_SECONDS = 2.0
_LAST_BYTES_SECONDS = 30.0


class Relay:
    """Gives each new connection to the next backend that takes it; one that none takes is closed."""

    def __init__(self, backends: Callable[[], Sequence[Address]], limit: int) -> None:
        """Relay to what `backends` returns at the time, at most `limit` connections at once."""
        self._backends = backends
        self._limit = limit
        self._open = 0
        self._turn = itertools.count()

    async def listen(self, host: str, port: int) -> asyncio.Server:
        """Start to take connections."""
        return await asyncio.start_server(self._take, host, port, backlog=1024)

    async def _take(self, reader: StreamReader, writer: StreamWriter) -> None:
        if self._open >= self._limit:
            writer.transport.abort()
            return
        self._open += 1
        try:
            backend = await self._connect()
            if backend:
                await _join(reader, writer, *backend)
        finally:
            await _close(writer)
            self._open -= 1

    async def _connect(self) -> tuple[StreamReader, StreamWriter] | None:
        backends = self._backends()
        first = next(self._turn)
        for step in range(len(backends)):
            host, port = backends[(first + step) % len(backends)]
            try:
                async with asyncio.timeout(_CONNECT_SECONDS):
                    return await asyncio.open_connection(host, port)
            except OSError as error:
                log.warning("%s:%s does not take a connection (%s)", host, port, error or "no answer")
        return None


async def _join(
    client_reader: StreamReader, client: StreamWriter, backend_reader: StreamReader, backend: StreamWriter
) -> None:
    """Move bytes both ways until the backend has sent its last, or either side is lost."""
    up = asyncio.create_task(_send(client_reader, backend))
    try:
        with contextlib.suppress(OSError):
            await _pump(backend_reader, client)
    finally:
        up.cancel()
        backend.close()


async def _send(client: StreamReader, backend: StreamWriter) -> None:
    """A client that has sent all may still want the answer; one that is lost wants nothing any more."""
    try:
        await _pump(client, backend)
        backend.write_eof()
    except OSError:
        backend.transport.abort()


async def _pump(source: StreamReader, sink: StreamWriter) -> None:
    while data := await source.read(_CHUNK):
        sink.write(data)
        await sink.drain()


async def _close(client: StreamWriter) -> None:
    """Send what is left, unless the client has stopped to read."""
    try:
        client.close()
        async with asyncio.timeout(_LAST_BYTES_SECONDS):
            await client.wait_closed()
    except OSError:
        client.transport.abort()
