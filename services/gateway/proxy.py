"""Passes a request on to a tenant's agent and the answer back, piece by piece, as fast as they are taken."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from services import parts
from services.gateway.exchange import Exchange, Header, PeerGone, Stalled, TooLarge
from services.gateway.headers import request_head, response_headers
from services.gateway.settings import Limits
from services.gateway.upstream import Answer, Connection, Upstreams

_REPEATABLE = frozenset(("GET", "HEAD", "OPTIONS"))


class AgentFailed(Exception):  # noqa: N818 - the agent's fault, not ours
    """The agent took the request and gave no answer, or none that can be passed on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """The agent that a request is for, and who is asking."""

    tenant: str
    workload: str
    """The namespace that the agent runs in."""
    base: str
    subject: str
    request_id: str
    said: Sequence[Header] = ()
    """Further headers for the agent about this request."""


class Proxy:
    """Passes requests on."""

    def __init__(self, upstreams: Upstreams, limits: Limits) -> None:
        """Use the connections of `upstreams`."""
        self._upstreams = upstreams
        self._limits = limits

    async def forward(self, exchange: Exchange, to: Destination) -> None:
        """Let the agent answer.

        Raises `Unreachable` or `Crowded` if it was not sent anything, `AgentFailed` if it has not answered,
        and for what the client does `PeerGone`, `Stalled` or `TooLarge`. An answer that is under way by then
        is broken off in a way that the client cannot take for its end.
        """
        request = exchange.request
        repeatable = request.method in _REPEATABLE and not exchange.has_body
        ours = (
            (b"host", request.authority.encode("latin-1")),
            (b"x-forwarded-for", request.peer.encode("ascii")),
            (b"x-forwarded-host", request.authority.encode("latin-1")),
            (b"x-forwarded-proto", b"https"),
            (b"x-tenant", to.tenant.encode("ascii")),
            (b"x-subject", to.subject.encode("ascii")),
            (b"x-request-id", to.request_id.encode("ascii")),
            *to.said,
        )
        head = request_head(request, has_body=exchange.has_body, ours=ours)
        connection = await self._upstreams.connect(to.tenant, to.workload, to.base)
        try:
            await self._pass(exchange, connection, head)
            return
        except AgentFailed:
            # The agent may have closed a kept connection just when it was used again.
            if connection.used == 1 or not repeatable:
                raise
        finally:
            self._upstreams.give_back(to.tenant, to.base, connection)
        connection = await self._upstreams.connect(to.tenant, to.workload, to.base, fresh=True)
        try:
            await self._pass(exchange, connection, head)
        finally:
            self._upstreams.give_back(to.tenant, to.base, connection)

    async def _pass(self, exchange: Exchange, connection: Connection, head: bytes) -> None:
        connection.send(exchange.request.method, head)
        if not exchange.has_body:
            await self._relay(exchange, connection, await self._answer(connection))
            return
        upload = asyncio.create_task(_upload(exchange, connection))
        try:
            await self._relay(exchange, connection, await self._answer(connection, upload))
        finally:
            if not upload.done():
                connection.transport.abort()  # it has not heard all, so it must not hear another request
            upload.cancel()
            with contextlib.suppress(asyncio.CancelledError, PeerGone, Stalled, TooLarge):
                await upload

    async def _answer(self, connection: Connection, upload: "asyncio.Task[None] | None" = None) -> Answer:
        """Return the head of the answer, or raise why the request could not be sent."""
        head = connection.answer
        if upload is not None:
            await asyncio.wait((head, upload), return_when=asyncio.FIRST_COMPLETED)
            if upload.done() and isinstance(error := upload.exception(), Stalled | TooLarge):
                raise error
        try:
            async with asyncio.timeout(self._limits.idle_seconds):
                return await head
        except PeerGone as error:
            raise AgentFailed(str(error)) from None
        except TimeoutError:
            raise AgentFailed("the agent did not answer in time") from None

    async def _relay(self, exchange: Exchange, connection: Connection, answer: Answer) -> None:
        if answer.status == 101:
            await _tunnel(exchange, connection, answer)
            return
        headers = response_headers(answer.status, answer.headers)
        inbox = connection.inbox
        try:
            # What is here already goes with the head; what is not must not hold it up.
            piece = await connection.read() if inbox.ready else b""
            await exchange.respond(answer.status, headers, piece, more=not inbox.finished)
            while not inbox.finished:
                piece = await connection.read()
                await exchange.write(piece, more=not inbox.finished)
        except (PeerGone, Stalled):
            exchange.abort()
            raise


async def _upload(exchange: Exchange, connection: Connection) -> None:
    chunked = exchange.request.length is None
    try:
        while piece := await exchange.read():
            await connection.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            await connection.write(b"0\r\n\r\n")
    except (PeerGone, Stalled, TooLarge):
        connection.transport.abort()  # what has come of it must not look like the whole
        raise


async def _tunnel(exchange: Exchange, connection: Connection, answer: Answer) -> None:
    """Carry a WebSocket's bytes both ways until either side ends it, or both say nothing for long."""
    if not exchange.request.websocket:
        raise AgentFailed("the agent switched protocols unasked")
    headers = response_headers(answer.status, answer.headers)
    await exchange.switch([(b"connection", b"Upgrade"), (b"upgrade", b"websocket"), *headers])
    both = (
        asyncio.create_task(_carry(exchange.read, connection.write)),
        asyncio.create_task(_carry(connection.read, lambda piece: exchange.write(piece, more=True))),
    )
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await parts.end(both)
    await exchange.write(b"", more=False)


async def _carry(read: Callable[[], Awaitable[bytes]], write: Callable[[bytes], Awaitable[None]]) -> None:
    with contextlib.suppress(PeerGone, Stalled):
        while piece := await read():
            await write(piece)
