"""HTTP/1.1 towards agents: connections that belong to one tenant at one address, and are never another's."""

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

from services.gateway.exchange import Gate, Header, Inbox, PeerGone
from services.gateway.settings import Limits

_UNREAD = 256 * 1024
_CONNECT_SECONDS = 5.0
# Shorter than agents' servers keep an idle connection (uvicorn: 5 s), so that they are seldom first to close.
_KEEP_SECONDS = 4.0
_BODILESS = (204, 304)


class Unreachable(Exception):  # noqa: N818 - what the network says, not a fault of ours
    """No connection could be made, so the agent has not been sent anything."""


class Crowded(Exception):  # noqa: N818
    """The tenant has as many connections as one tenant may."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of an agent's response."""

    status: int
    headers: Sequence[Header]


class Connection(asyncio.Protocol):
    """One connection to an agent; one request at a time."""

    def __init__(self, limits: Limits) -> None:
        """Take over no more of an answer than `limits` allow."""
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._parser: httptools.HttpResponseParser | None = None
        self.answer: asyncio.Future[Answer] = self._loop.create_future()
        """The head of the response, or `PeerGone`."""
        self.answerers: list[Header] = []
        self._method = ""
        self._unaccounted = 0
        self._until_close = False
        self._paused = False
        self._reusable = False
        self._timer: asyncio.TimerHandle | None = None
        self.switched = False
        self.used = 0
        """How many requests it has carried."""
        self.lost: Callable[[], None] = lambda: None
        """Called when it has ended."""
        self.gate = Gate()
        self.inbox = Inbox(self._taken)
        self.transport: asyncio.Transport

    @property
    def reusable(self) -> bool:
        """Tell whether the agent has said all, and will hear more."""
        return self._reusable and not self.transport.is_closing()

    def send(self, method: str, head: bytes) -> None:
        """Begin a request."""
        self._method = method
        self._parser = httptools.HttpResponseParser(self)
        self.answer = self._loop.create_future()
        self._unaccounted = 0
        self._reusable = self._until_close = False
        self.inbox = Inbox(self._taken)
        self.used += 1
        self.transport.write(head)

    async def read(self) -> bytes:
        """Return the next piece of the response, or of the WebSocket; empty at the end."""
        return await self.inbox.read(self._limits.idle_seconds)

    async def write(self, piece: bytes) -> None:
        """Send a piece of the request as it goes over the wire."""
        self.transport.write(piece)
        await self.gate.passed(self._limits.stall_seconds)

    def keep(self) -> None:
        """Wait for a next request, for a while."""
        self._parser = None
        self._timer = self._loop.call_later(_KEEP_SECONDS, self.transport.close)

    def take(self) -> None:
        """Be used again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be ready."""
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, _: Exception | None) -> None:
        """End what is under way; the end of the connection may be the end of the answer."""
        self._reusable = False
        self.take()
        self.lost()
        gone = PeerGone("the agent closed the connection")
        self.gate.fail(gone)
        if not self.answer.done():
            self.answer.set_exception(gone)
            self.answer.exception()  # nobody need have waited for it
        if self._until_close or self.switched:
            self.inbox.end()
        else:
            self.inbox.fail(gone)

    def pause_writing(self) -> None:
        """Let the request's sender wait."""
        self.gate.shut()

    def resume_writing(self) -> None:
        """Let the request's sender go on."""
        self.gate.open()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self.switched:
            self.inbox.feed(data)
            self._flow()
            return
        if self._parser is None or self._reusable:
            self.transport.abort()  # an answer to nothing
            return
        self._unaccounted += len(data)
        try:
            self._parser.feed_data(data)
            if self._unaccounted > self._limits.head:
                self._break("its head is too large")
        except httptools.HttpParserUpgrade as upgrade:
            if rest := data[upgrade.args[0] :]:
                self.inbox.feed(rest)
        except httptools.HttpParserError:
            self._break("it is no HTTP")
        self._flow()

    # What llhttp calls.

    def on_message_begin(self) -> None:
        """Begin a head; a second one after an answer is one too many."""
        if self.answer.done():
            raise ValueError("more than one answer")
        self.answerers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header; trailers are not passed on."""
        if not self.answer.done():
            self.answerers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Hand the head over, unless it is an interim one."""
        parser = cast(httptools.HttpResponseParser, self._parser)  # it is the one that calls
        status = parser.get_status_code()
        self._unaccounted = 0
        if 100 <= status < 200 and status != 101:
            return
        names = {name for name, _ in self.answerers}
        framed = b"content-length" in names or b"transfer-encoding" in names
        bodiless = self._method == "HEAD" or status in _BODILESS
        self._until_close = not framed and not bodiless
        self.switched = status == 101
        if not self.answer.done():
            self.answer.set_result(Answer(status, self.answerers))
        if bodiless:
            # llhttp does not know what was asked and waits for a body that never comes after HEAD.
            self._finish(parser.should_keep_alive())

    def on_body(self, piece: bytes) -> None:
        """Hand on a piece."""
        self._unaccounted = 0
        if self.inbox.ended:
            raise ValueError("a body where none may be")
        self.inbox.feed(piece)

    def on_message_complete(self) -> None:
        """End the answer."""
        self._unaccounted = 0
        if self.answer.done() and not self.switched and not self.inbox.ended:
            self._finish(cast(httptools.HttpResponseParser, self._parser).should_keep_alive())

    # Within.

    def _finish(self, keep_alive: bool) -> None:
        self._reusable = keep_alive
        self.inbox.end()

    def _break(self, problem: str) -> None:
        error = PeerGone(f"the agent's answer is refused: {problem}")
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()
        self.inbox.fail(error)
        self.transport.abort()

    def _flow(self) -> None:
        full = self.inbox.size > _UNREAD
        if full != self._paused and not self.transport.is_closing():
            self._paused = full
            (self.transport.pause_reading if full else self.transport.resume_reading)()

    def _taken(self, _: int) -> None:
        self._flow()


class _Pool:
    """The connections of one tenant to one address."""

    def __init__(self, workload: str) -> None:
        self.workload = workload
        self.open: set[Connection] = set()
        self.idle: dict[Connection, None] = {}

    def take(self) -> Connection | None:
        """Return the connection that was used last."""
        while self.idle:
            connection, _ = self.idle.popitem()
            connection.take()
            if connection.reusable:
                return connection
        return None

    def forget(self, connection: Connection) -> None:
        self.open.discard(connection)
        self.idle.pop(connection, None)

    def close(self) -> None:
        for connection in list(self.idle):
            connection.transport.abort()
        self.idle.clear()


class Upstreams:
    """The connections to all agents.

    Each belongs to one tenant at one address. Addresses come back: that of a Pod that is gone may be the next
    one's of another tenant. The watch tells both in order, so whoever is found at an address last is there,
    and all that was kept for a workload found there before is closed before anything is sent.
    """

    def __init__(self, limits: Limits) -> None:
        """Begin without any."""
        self._limits = limits
        self._places: dict[str, dict[str, _Pool]] = {}

    async def connect(self, tenant: str, workload: str, base: str, *, fresh: bool = False) -> Connection:
        """Return a connection of the tenant's to its workload (a namespace) at `base`; a new one if `fresh`.

        Raises `Unreachable`, `Crowded`.
        """
        pool = self._pool(tenant, workload, base)
        if not fresh and (kept := pool.take()):
            return kept
        if len(pool.open) >= self._limits.tenant_connections:
            raise Crowded
        connection = Connection(self._limits)
        pool.open.add(connection)
        connection.lost = lambda: self._forget(tenant, base, pool, connection)
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await asyncio.get_running_loop().create_connection(lambda: connection, *_address(base))
        except (OSError, TimeoutError) as error:
            connection.lost()
            raise Unreachable(f"{base}: {error or 'no answer'}") from None
        except BaseException:
            connection.lost()
            raise
        return connection

    def give_back(self, tenant: str, base: str, connection: Connection) -> None:
        """Keep the connection for the tenant's next request, or close it if it is not good for one."""
        pool = self._places.get(base, {}).get(tenant)
        if connection.reusable and pool is not None and connection in pool.open:
            connection.keep()
            pool.idle[connection] = None
        else:
            connection.transport.abort()

    def _pool(self, tenant: str, workload: str, base: str) -> _Pool:
        place = self._places.setdefault(base, {})
        for found in place.values():
            if found.workload == workload:
                break  # all pools at a place are of one workload
            for pool in place.values():
                pool.close()
            place = self._places[base] = {}
            break
        if tenant not in place:
            place[tenant] = _Pool(workload)
        return place[tenant]

    def _forget(self, tenant: str, base: str, pool: _Pool, connection: Connection) -> None:
        pool.forget(connection)
        place = self._places.get(base, {})
        if not pool.open and place.get(tenant) is pool:
            del place[tenant]
            if not place:
                del self._places[base]


def _address(base: str) -> tuple[str, int]:
    """Return the address and port in `base`, which is no name that somebody else could resolve."""
    url = urlsplit(base)
    return str(ipaddress.ip_address(url.hostname or "")), url.port or 80
