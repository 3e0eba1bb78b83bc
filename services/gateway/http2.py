"""HTTP/2 towards clients: h2 keeps the protocol; this keeps time, bounds and the flow of bytes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from services.gateway.exchange import Exchange, Gate, Header, Inbox, PeerGone, Request, TooLarge
from services.gateway.settings import Limits

_STREAMS = 128
_STREAM_WINDOW = 256 * 1024
# As large as all streams' together, so that one whose bytes nobody reads does not hold up the others.
_WINDOW = _STREAMS * _STREAM_WINDOW
_RESETS = 200
"""How many streams more than it let finish a client may open and reset at once."""


class Http2(asyncio.Protocol):
    """One connection of a client with many requests at a time."""

    def __init__(
        self, handle: Callable[[Exchange], Awaitable[None]], limits: Limits, lost: Callable[["Http2"], None]
    ) -> None:
        """Have `handle` answer each request; tell `lost` when the connection has ended."""
        self._handle = handle
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._exchanges: dict[int, _Http2Exchange] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._resets = 0
        self._draining = False
        self.limits = limits
        self.gate = Gate()
        self.peer = ""
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say what we take."""
        self.transport = cast(asyncio.Transport, transport)
        self.peer = (transport.get_extra_info("peername") or ("",))[0]
        self.h2.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: _STREAMS,
                SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: self.limits.head,
            },
        )
        self.h2.decoder.max_header_list_size = self.limits.head
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(_WINDOW - 65_535)
        self.flush()
        self._expect(self.limits.head_seconds)

    def connection_lost(self, _: Exception | None) -> None:
        """End what is under way."""
        gone = PeerGone("the client closed its connection")
        self.gate.fail(gone)
        for exchange in list(self._exchanges.values()):
            exchange.lose(gone)
        self._stop_timer()
        self._lost(self)

    def pause_writing(self) -> None:
        """Let whoever answers wait, and read nothing that would have to be answered."""
        self.gate.shut()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self.gate.open()
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        try:
            events = self.h2.receive_data(data)
        except ProtocolError:
            self.flush()
            self.transport.close()
            return
        for event in events:
            self._on(event)
        self.flush()

    def drain(self) -> None:
        """Take no new requests; close after the last answer."""
        self._draining = True
        self._goodbye(ErrorCodes.NO_ERROR)
        if not self._exchanges:
            self.transport.close()

    def flush(self) -> None:
        """Send what h2 has to say."""
        data = self.h2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def ended(self, stream: int) -> None:
        """Forget a request that is answered, or never will be."""
        self._exchanges.pop(stream, None)
        if not self._exchanges and not self.transport.is_closing():
            if self._draining:
                self.transport.close()
            else:
                self._expect(self.limits.keep_alive_seconds)

    def _on(self, event: Event) -> None:
        match event:
            case RequestReceived():
                self._begin(event)
            case DataReceived():
                if exchange := self._exchanges.get(event.stream_id):
                    exchange.receive(event.data, event.flow_controlled_length)
                else:
                    self._acknowledge(event.flow_controlled_length, event.stream_id)
            case StreamEnded():
                if exchange := self._exchanges.get(event.stream_id):
                    exchange.inbox.end()
            case StreamReset():
                self._reset(event.stream_id)
            case WindowUpdated() | RemoteSettingsChanged():
                for exchange in self._exchanges.values():
                    exchange.window.open()
            case ConnectionTerminated():
                self.transport.close()

    def _begin(self, event: RequestReceived) -> None:
        stream = event.stream_id
        if self._draining:
            self.h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM)
            return
        self._stop_timer()
        request = self._request([(bytes(name), bytes(value)) for name, value in event.headers])
        if isinstance(request, str):
            self._refuse(stream, request)
            return
        exchange = self._exchanges[stream] = _Http2Exchange(self, stream, request)
        exchange.task = self._loop.create_task(self._answer(exchange))

    def _request(self, headers: Sequence[Header]) -> Request | str:
        """Return the request, or what is wrong with it."""
        pseudo = {name: value for name, value in headers if name.startswith(b":")}
        plain = [header for header in headers if not header[0].startswith(b":")]
        hosts = {value for name, value in plain if name == b"host"} | {pseudo.get(b":authority", b"")}
        lengths = [value for name, value in plain if name == b"content-length"]
        method, target = pseudo[b":method"].decode("latin-1"), pseudo.get(b":path", b"")
        if len(hosts) != 1:
            return "A request names exactly one host."
        if len(plain) > self.limits.headers:
            return "The request has too many headers."
        if method in ("CONNECT", "TRACE") or not method.isalpha():
            return "The method is not offered."
        if not target.startswith(b"/") or b"#" in target or not target.isascii():
            return "The target of a request is a path."
        cookies = [value for name, value in plain if name == b"cookie"]
        plain = [header for header in plain if header[0] not in (b"host", b"cookie")]
        if cookies:
            plain.append((b"cookie", b"; ".join(cookies)))  # HTTP/2 may split what HTTP/1.1 must not
        return Request(
            method=method,
            target=target,
            authority=hosts.pop().decode("latin-1"),
            headers=plain,
            version="2",
            peer=self.peer,
            length=int(lengths[0]) if lengths else None,
        )

    def _refuse(self, stream: int, text: str) -> None:
        body = f"{text}\n".encode()
        head = [
            (b":status", b"400"),
            (b"content-type", b"text/plain"),
            (b"content-length", b"%d" % len(body)),
        ]
        self.h2.send_headers(stream, head)
        self.h2.send_data(stream, body, end_stream=True)
        self.ended(stream)

    async def _answer(self, exchange: "_Http2Exchange") -> None:
        try:
            await self._handle(exchange)
        finally:
            exchange.close()
            self.ended(exchange.stream)
            self._resets -= exchange.complete and self._resets > 0

    def _reset(self, stream: int) -> None:
        self._resets += 1
        if exchange := self._exchanges.get(stream):
            exchange.lose(PeerGone("the client took its request back"))
        if self._resets > _RESETS:
            self._goodbye(ErrorCodes.ENHANCE_YOUR_CALM)
            self.transport.close()

    def _acknowledge(self, size: int, stream: int) -> None:
        if size and not self.transport.is_closing():
            self.h2.acknowledge_received_data(size, stream)

    def _goodbye(self, code: ErrorCodes) -> None:
        if not self.transport.is_closing():
            self.h2.close_connection(code)
            self.flush()

    def _expect(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self._loop.call_later(seconds, self._late)

    def _late(self) -> None:
        self._goodbye(ErrorCodes.NO_ERROR)
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Http2Exchange:
    """One stream: a request and its answer."""

    def __init__(self, connection: Http2, stream: int, request: Request) -> None:
        self.request = request
        self.stream = stream
        self.status = 0
        self.complete = False
        self.task: asyncio.Task[None] | None = None
        self.window = Gate()
        self.inbox = Inbox(self._taken)
        self._connection = connection
        self._received = 0
        self._gone = False

    @property
    def has_body(self) -> bool:
        """Tell whether a body may come."""
        return self.request.length != 0 and not self.inbox.finished

    def receive(self, piece: bytes, charged: int) -> None:
        """Take a piece of the body off the wire; what it was padded with is given back at once."""
        self._received += len(piece)
        if self._received > self._connection.limits.body:
            self.inbox.fail(TooLarge())
        if self.inbox.ended or not piece:
            self._taken(charged)
            return
        self._taken(charged - len(piece))
        self.inbox.feed(piece)

    def lose(self, error: PeerGone) -> None:
        """End it: the client is gone."""
        self._gone = True
        self.inbox.fail(error)
        self.window.fail(error)
        if self.task is not None:
            self.task.cancel()

    async def read(self) -> bytes:
        """Return the next piece of the body."""
        return await self.inbox.read(self._connection.limits.stall_seconds)

    async def respond(self, status: int, headers: Sequence[Header], piece: bytes, *, more: bool) -> None:
        """Send the head and a first piece of the body."""
        if self._gone:
            raise PeerGone("the client took its request back")
        self.status = status
        head = [(b":status", b"%d" % status), *headers]
        self._connection.h2.send_headers(self.stream, head, end_stream=not piece and not more)
        if piece or more:
            await self.write(piece, more=more)
        else:
            self.complete = True
            self._connection.flush()

    async def write(self, piece: bytes, *, more: bool) -> None:
        """Send the next piece, as fast as the client's window allows."""
        connection, view = self._connection, memoryview(piece)
        while True:
            size = 0
            if view:
                size = await self._room(len(view))
            if self._gone:
                raise PeerGone("the client took its request back")
            last = not more and size == len(view)
            if size or last:
                connection.h2.send_data(self.stream, bytes(view[:size]), end_stream=last)
            connection.flush()
            view = view[size:]
            if not view:
                break
        self.complete = not more
        await connection.gate.passed(connection.limits.stall_seconds)

    async def switch(self, headers: Sequence[Header]) -> None:
        """Do not: a WebSocket is never asked for in HTTP/2 here."""
        raise NotImplementedError

    def abort(self) -> None:
        """Reset the stream."""
        self.close()

    def close(self) -> None:
        """Reset the stream unless both sides have said all."""
        connection = self._connection
        if self._gone or connection.transport.is_closing():
            return
        # All that was announced is all, though the client may have yet to say so.
        heard_all = self.inbox.ended or self._received == self.request.length
        if not (self.complete and heard_all):
            self._taken(self.inbox.size)  # the connection's window is the other streams', too
            self._gone = True
            code = ErrorCodes.NO_ERROR if self.complete else ErrorCodes.INTERNAL_ERROR
            try:
                connection.h2.reset_stream(self.stream, code)
            except ProtocolError:
                return  # it has ended meanwhile
        connection.flush()

    async def _room(self, wanted: int) -> int:
        connection = self._connection
        while True:
            await connection.gate.passed(connection.limits.stall_seconds)
            room = connection.h2.local_flow_control_window(self.stream)
            if room > 0:
                return min(wanted, room, connection.h2.max_outbound_frame_size)
            self.window.shut()
            await self.window.passed(connection.limits.stall_seconds)

    def _taken(self, size: int) -> None:
        if size and not self._gone and not self._connection.transport.is_closing():
            self._connection.h2.acknowledge_received_data(size, self.stream)
            self._connection.flush()
