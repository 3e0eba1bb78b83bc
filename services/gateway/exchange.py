"""One request and its answer, whatever version of HTTP they came in, and the bytes on their way between."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

Header = tuple[bytes, bytes]
"""Lower-case name, and value."""


class PeerGone(Exception):  # noqa: N818 - what a peer does, not a fault of ours
    """The peer broke off, or broke the protocol, before all was said."""


class Stalled(Exception):  # noqa: N818
    """The peer made no progress within its time."""


class TooLarge(Exception):  # noqa: N818
    """The body is larger than the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The head of a request."""

    method: str
    target: bytes
    """Path and query as sent (origin form)."""
    authority: str
    """The one host, with its port if there is one, that the request names."""
    headers: Sequence[Header]
    """Without `host`."""
    version: str
    peer: str
    length: int | None
    """Of the body; None when it is not known beforehand."""
    websocket: bool = False

    @property
    def path(self) -> str:
        """Return the path without the query."""
        return self.target.partition(b"?")[0].decode("ascii")

    @property
    def origin(self) -> bytes:
        """Return the origin of our own pages on this host, as browsers tell it."""
        return b"https://" + self.authority.lower().encode("latin-1")

    def header(self, name: bytes) -> bytes | None:
        """Return the value of the header if it is there exactly once."""
        values = [value for key, value in self.headers if key == name]
        return values[0] if len(values) == 1 else None


class Exchange(Protocol):
    """A request being answered. Its handler's task is cancelled when the client goes away."""

    request: Request

    async def read(self) -> bytes:
        """Return the next piece of the body, empty at its end. Raises `PeerGone`, `Stalled`, `TooLarge`."""
        ...

    async def respond(self, status: int, headers: Sequence[Header], piece: bytes, *, more: bool) -> None:
        """Send the head and a first piece of the body; the last one unless `more`."""
        ...

    async def write(self, piece: bytes, *, more: bool) -> None:
        """Send the next piece; returns once there is room for another. Raises `PeerGone`, `Stalled`."""
        ...

    async def switch(self, headers: Sequence[Header]) -> None:
        """Answer 101: from here on `read` and `write` carry a WebSocket's bytes."""
        ...

    def abort(self) -> None:
        """Break off in a way that the client cannot take for the end of the answer."""
        ...

    @property
    def status(self) -> int:
        """Return the status that was answered, 0 if none was yet."""
        ...

    @property
    def has_body(self) -> bool:
        """Tell whether a body may come."""
        ...


class Inbox:
    """What a peer has sent and nobody has read yet; `taken` tells the peer's side how much was read."""

    __slots__ = ("_ended", "_error", "_pieces", "_taken", "_waiter", "size")

    def __init__(self, taken: Callable[[int], None]) -> None:
        """Call `taken` with the number of bytes of each piece read."""
        self._pieces: deque[bytes] = deque()
        self._taken = taken
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._error: Exception | None = None
        self.size = 0

    @property
    def ended(self) -> bool:
        """Tell whether no more will come."""
        return self._ended or self._error is not None

    @property
    def finished(self) -> bool:
        """Tell whether all has been read, to a good end."""
        return self._ended and not self._pieces

    @property
    def ready(self) -> bool:
        """Tell whether `read` would return at once."""
        return bool(self._pieces) or self.ended

    def feed(self, piece: bytes) -> None:
        """Add a piece."""
        self._pieces.append(piece)
        self.size += len(piece)
        self._wake()

    def end(self) -> None:
        """Say that all has come."""
        self._ended = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """Say that the rest will never come, and why."""
        if not self._ended:
            self._error = error
            self._wake()

    async def read(self, seconds: float) -> bytes:
        """Return the next piece, empty at the end; `Stalled` if none comes in that time."""
        if not self._pieces and not self.ended:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(seconds):
                    await self._waiter
            except TimeoutError:
                raise Stalled(f"nothing came for {seconds:.0f} s") from None
            finally:
                self._waiter = None
        if self._pieces:
            piece = self._pieces.popleft()
            self.size -= len(piece)
            self._taken(len(piece))
            return piece
        if self._error is not None:
            raise self._error
        return b""

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Gate:
    """Whether a transport has room for more; those who write wait here."""

    __slots__ = ("_error", "_open", "_waiters")

    def __init__(self) -> None:
        """Begin open."""
        self._open = True
        self._error: Exception | None = None
        self._waiters: set[asyncio.Future[None]] = set()

    def shut(self) -> None:
        """Let writers wait."""
        self._open = False

    def open(self) -> None:
        """Let writers go on."""
        self._open = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """Let writers know that the peer is gone."""
        self._error = error
        self._wake()

    async def passed(self, seconds: float) -> None:
        """Return once there is room. Raises `Stalled` after that time, `PeerGone` if there never will be."""
        if self._error is not None:
            raise self._error
        if self._open:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            raise Stalled(f"nothing was taken for {seconds:.0f} s") from None
        finally:
            self._waiters.discard(waiter)
        if self._error is not None:
            raise self._error

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
