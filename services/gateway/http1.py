"""HTTP/1.1 towards clients: llhttp reads it, in its strict mode; this keeps time, order and bounds."""

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import cast

import httptools

from services.gateway.exchange import Exchange, Gate, Header, Inbox, PeerGone, Request, TooLarge
from services.gateway.settings import Limits

_UNREAD = 256 * 1024
_LINGER_SECONDS = 0.5
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.DOTALL)
_PHRASES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_BODILESS = (204, 304)


class BadRequest(Exception):  # noqa: N818 - the client's fault, not ours
    """The request is refused as it stands."""

    def __init__(self, status: int, message: str) -> None:
        """Keep the answer's status and text."""
        super().__init__(message)
        self.status = status


class Http1(asyncio.Protocol):
    """One connection of a client; its requests are answered one after the other."""

    def __init__(
        self, handle: Callable[[Exchange], Awaitable[None]], limits: Limits, lost: Callable[["Http1"], None]
    ) -> None:
        """Have `handle` answer each request; tell `lost` when the connection has ended."""
        self._handle = handle
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: deque[_Http1Exchange] = deque()
        self._reading: _Http1Exchange | None = None
        self._answering: _Http1Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._unaccounted = 0
        self._headers: list[Header] = []
        self._target = b""
        self._size = 0
        self._last = False
        self._paused = False
        self._draining = False
        self.limits = limits
        self.gate = Gate()
        self.peer = ""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request."""
        self.transport = cast(asyncio.Transport, transport)
        self.peer = (transport.get_extra_info("peername") or ("",))[0]
        self._expect(self.limits.head_seconds)

    def connection_lost(self, _: Exception | None) -> None:
        """End what is under way."""
        gone = PeerGone("the client closed its connection")
        self.gate.fail(gone)
        for exchange in (self._reading, self._answering, *self._waiting):
            if exchange is not None:
                exchange.inbox.fail(gone)
        self._stop_timer()
        if self._task is not None:
            self._task.cancel()
        self._lost(self)

    def pause_writing(self) -> None:
        """Let whoever answers wait."""
        self.gate.shut()

    def resume_writing(self) -> None:
        """Let whoever answers go on."""
        self.gate.open()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self._reading is not None and self._reading.switched:
            self._reading.inbox.feed(data)
            self.flow()
            return
        if self._last and self._reading is None:
            return  # nothing is read after a request that is to be the last
        begins = self._reading is None and self._answering is None and self._unaccounted == 0
        # Each step forward sets it back to nothing: an endless header, chunk extension or trailer has none.
        self._unaccounted += len(data)
        try:
            self._parser.feed_data(data)
            if self._unaccounted > self.limits.head:
                raise BadRequest(431, "The head of the request is too large.")
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, BadRequest) else BadRequest(400, "Not an HTTP request."))
        except httptools.HttpParserError:
            self._refuse(BadRequest(400, "Not an HTTP request."))
        except BadRequest as error:
            self._refuse(error)
        else:
            if begins and self._unaccounted:
                self._expect(self.limits.head_seconds)
        self.flow()

    def drain(self) -> None:
        """Let what is being answered be the last."""
        self._draining = True
        if self._answering is None:
            self.transport.close()

    # What llhttp calls.

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._headers, self._target, self._size = [], b"", 0

    def on_url(self, url: bytes) -> None:
        """Add to the target; it comes in pieces."""
        self._target += url
        self._grow(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header; those after the body, the trailers, are not passed on."""
        if self._reading is None:
            self._headers.append((name.lower(), value))
            self._grow(len(name) + len(value))

    def on_headers_complete(self) -> None:
        """Hand the request over, or queue it behind the one being answered."""
        if len(self._headers) > self.limits.headers:
            raise BadRequest(431, "The request has too many headers.")
        keep_alive = self._parser.should_keep_alive()
        request = self._request()
        self._unaccounted = 0
        self._stop_timer()
        if not keep_alive:
            self._last = True
        self._reading = _Http1Exchange(self, request, keep_alive)
        if self._answering is None:
            self._begin(self._reading)
        else:
            self._waiting.append(self._reading)

    def on_body(self, piece: bytes) -> None:
        """Hand on a piece of the body."""
        self._unaccounted = 0
        if self._reading is not None:
            self._reading.receive(piece)

    def on_message_complete(self) -> None:
        """End the body."""
        self._unaccounted = 0
        exchange = self._reading
        if exchange is not None and not exchange.request.websocket:
            self._reading = None
            exchange.end()

    # What an exchange calls.

    def flow(self) -> None:
        """Stop reading while there is enough unread, go on as soon as there is not."""
        unread = self._reading.inbox.size if self._reading is not None else 0
        full = unread > _UNREAD or bool(self._waiting)
        if full != self._paused and not self.transport.is_closing():
            self._paused = full
            (self.transport.pause_reading if full else self.transport.resume_reading)()

    def is_last(self, exchange: "_Http1Exchange") -> bool:
        """Tell whether the connection ends with this answer."""
        return self._draining or not exchange.keep_alive or not exchange.inbox.ended

    # Within.

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self.limits.head:
            raise BadRequest(431, "The head of the request is too large.")

    def _request(self) -> Request:
        version = self._parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise BadRequest(505, "Only HTTP/1.0, HTTP/1.1 and HTTP/2 are spoken here.")
        method = self._parser.get_method().decode("ascii")
        if method in ("CONNECT", "TRACE"):
            raise BadRequest(405, f"{method} is not offered.")
        hosts = [value for name, value in self._headers if name == b"host"]
        codings = [value for name, value in self._headers if name == b"transfer-encoding"]
        lengths = [value for name, value in self._headers if name == b"content-length"]
        if len(hosts) != 1:
            raise BadRequest(400, "A request has exactly one Host header.")
        if codings and (
            version == "1.0" or lengths or [coding.lower() for coding in codings] != [b"chunked"]
        ):
            raise BadRequest(400, "A body comes with Content-Length or as Transfer-Encoding: chunked.")
        target, authority = self._target, hosts[0]
        if absolute := _ABSOLUTE.fullmatch(target):
            if absolute[1].lower() != authority.lower():
                raise BadRequest(400, "The request names two hosts.")
            target = absolute[2] or b"/"
        if not target.startswith(b"/") or b"#" in target:
            raise BadRequest(400, "The target of a request is a path.")
        length = None if codings else int(lengths[0]) if lengths else 0
        upgrades = self._parser.should_upgrade()
        if upgrades and length != 0:
            raise BadRequest(400, "A request that upgrades its connection has no body.")
        protocols = [value.lower() for name, value in self._headers if name == b"upgrade"]
        return Request(
            method=method,
            target=target,
            authority=authority.decode("latin-1"),
            headers=[header for header in self._headers if header[0] != b"host"],
            version=version,
            peer=self.peer,
            length=length,
            websocket=upgrades and method == "GET" and protocols == [b"websocket"],
        )

    def _upgrade(self, rest: bytes) -> None:
        exchange = self._reading
        self._last = True
        if exchange is not None and exchange.request.websocket:
            exchange.switched = True
            if rest:
                exchange.inbox.feed(rest)
        # Any other upgrade is not taken up: the request is answered as if it had not asked, and the
        # connection ends with it.
        for other in (self._answering, *self._waiting):
            if other is not None:
                other.keep_alive = False

    def _begin(self, exchange: "_Http1Exchange") -> None:
        self._answering = exchange
        self._task = self._loop.create_task(self._answer(exchange))

    async def _answer(self, exchange: "_Http1Exchange") -> None:
        try:
            await self._handle(exchange)
        finally:
            self._task = None
            self._answering = None
            if not exchange.complete:
                self.transport.abort()
            elif not self.transport.is_closing():
                self._next(exchange)

    def _next(self, exchange: "_Http1Exchange") -> None:
        if self.is_last(exchange):
            self._linger(exchange)
        elif self._waiting:
            self._begin(self._waiting.popleft())
        else:
            self._expect(
                self.limits.keep_alive_seconds if not self._unaccounted else self.limits.head_seconds
            )
        self.flow()

    def _linger(self, exchange: "_Http1Exchange") -> None:
        """Close; but while the client is still sending, so soon that it could not read the answer, do not."""
        self._last = True
        self._waiting.clear()
        if exchange.inbox.ended or exchange.switched:
            self.transport.close()
        else:
            exchange.discard(self.transport.close)
            self._stop_timer()
            self._timer = self._loop.call_later(_LINGER_SECONDS, self.transport.close)

    def _refuse(self, error: BadRequest) -> None:
        """Answer a request that cannot be trusted to end where it seems to end; nothing is read after it."""
        exchange, self._reading = self._reading, None
        self._last = True
        if self._answering is not None:
            # The answer under way ends the connection; a body that broke off fails for its reader.
            self._answering.keep_alive = False
            if exchange is not None:
                exchange.inbox.fail(PeerGone("the client broke the protocol"))
            return
        text = f"{error}\n".encode()
        head = _PHRASES[error.status] + (
            b"content-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(text)
        )
        self.transport.write(head + text)
        self._stop_timer()
        self._timer = self._loop.call_later(_LINGER_SECONDS, self.transport.close)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _expect(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self._loop.call_later(seconds, self._late)

    def _late(self) -> None:
        if self._unaccounted:
            self._refuse(BadRequest(408, "The head of the request took too long."))
        else:
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Http1Exchange:
    """A request of an HTTP/1.1 connection and its answer."""

    def __init__(self, connection: Http1, request: Request, keep_alive: bool) -> None:
        self.request = request
        self.keep_alive = keep_alive
        self.switched = False
        self.complete = False
        self.status = 0
        self.inbox = Inbox(self._taken)
        self._connection = connection
        self._received = 0
        self._chunked = False
        self._discarded: Callable[[], object] | None = None
        self._continue = request.version == "1.1" and request.header(b"expect") == b"100-continue"

    @property
    def has_body(self) -> bool:
        """Tell whether a body may come."""
        return self.request.length != 0

    def receive(self, piece: bytes) -> None:
        """Take a piece of the body off the wire."""
        if self._discarded is None:
            self._received += len(piece)
            if self._received > self._connection.limits.body:
                self.inbox.fail(TooLarge())
            if not self.inbox.ended:
                self.inbox.feed(piece)

    def end(self) -> None:
        """Take note that the body is complete."""
        self.inbox.end()
        if self._discarded is not None:
            self._discarded()

    def discard(self, then: Callable[[], object]) -> None:
        """Throw away the rest of the body, and call `then` at its end."""
        self._discarded = then
        self.inbox = Inbox(self._taken)

    async def read(self) -> bytes:
        """Return the next piece of the body, or of the WebSocket."""
        limits = self._connection.limits
        if self._continue:
            self._continue = False
            if not self.inbox.ready and not self.status:
                self._connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return await self.inbox.read(limits.idle_seconds if self.switched else limits.stall_seconds)

    async def respond(self, status: int, headers: Sequence[Header], piece: bytes, *, more: bool) -> None:
        """Send the head and a first piece of the body."""
        self.status = status
        lines = [_PHRASES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        lines += [b"%b: %b\r\n" % header for header in headers]
        framed = any(name == b"content-length" for name, _ in headers)
        if more and not framed:
            if self.request.version == "1.1":
                self._chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
            else:
                self.keep_alive = False
        elif not framed and self.request.method != "HEAD" and status not in _BODILESS:
            lines.append(b"content-length: %d\r\n" % len(piece))
        if self._connection.is_last(self):
            self.keep_alive = False
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        await self._send(b"".join(lines), piece, more)

    async def write(self, piece: bytes, *, more: bool) -> None:
        """Send the next piece."""
        await self._send(b"", piece, more)

    async def switch(self, headers: Sequence[Header]) -> None:
        """Answer 101."""
        self.status = 101
        self.keep_alive = False
        lines = [_PHRASES[101], *(b"%b: %b\r\n" % header for header in headers), b"\r\n"]
        self._connection.transport.write(b"".join(lines))

    def abort(self) -> None:
        """Break the connection."""
        self._connection.transport.abort()

    async def _send(self, head: bytes, piece: bytes, more: bool) -> None:
        if self._chunked:
            if piece:
                piece = b"%x\r\n%b\r\n" % (len(piece), piece)
            if not more:
                piece += b"0\r\n\r\n"
        if head or piece:
            self._connection.transport.write(head + piece if head else piece)
        if not more:
            self.complete = True
        await self._connection.gate.passed(self._connection.limits.stall_seconds)

    def _taken(self, _: int) -> None:
        self._connection.flow()
