"""The body of a request, as its head says that it is framed (RFC 9112, 6 and 7).

A body is read to its end and no further: what is left of it would be taken for the next request.
"""

import re
from collections.abc import Iterator
from email.message import Message
from io import BufferedIOBase

from services.agent_runtime.files import BLOCK

_LENGTH = re.compile(r"[0-9]{1,18}")
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,15}")
_LONGEST_LINE = 1024
_MOST_TRAILERS = 100


class BadRequestError(Exception):
    """A request that is not what it has to be."""


class Body:
    """The bytes that follow a request's head."""

    def __init__(self, headers: Message, connection: BufferedIOBase) -> None:
        """Read nothing yet. Raises BadRequestError if its end cannot be known."""
        codings, lengths = headers.get_all("Transfer-Encoding", []), headers.get_all("Content-Length", [])
        if codings and (lengths or [coding.lower() for coding in codings] != ["chunked"]):
            raise BadRequestError("A body comes with Content-Length or as Transfer-Encoding: chunked.")
        if lengths and (len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0])):
            raise BadRequestError("Content-Length is no single number, so the body's end is unknown.")
        self._connection = connection
        self._length = int(lengths[0]) if lengths else None
        self._chunked = bool(codings)
        self.ended = not self._chunked and not self._length
        """True when nothing of it is left to be read."""
        self.begun = False
        """True when it is being read."""

    def blocks(self) -> Iterator[bytes]:
        """Return it as it comes.

        Raises BadRequestError if it is not framed as the head says, ConnectionError if it ends early.
        """
        self.begun = True
        if self._chunked:
            yield from self._chunks()
        elif self._length is None:
            raise BadRequestError("The body's length is missing: send Content-Length.")
        else:
            yield from self._exactly(self._length)
        self.ended = True

    def _chunks(self) -> Iterator[bytes]:
        while size := self._chunk_size():
            yield from self._exactly(size)
            if self._line():
                raise BadRequestError("A chunk of the body is longer than it says.")
        for _ in range(_MOST_TRAILERS):
            if not self._line():
                return
        raise BadRequestError("The body has too many trailers.")

    def _chunk_size(self) -> int:
        size = self._line().partition(b";")[0].rstrip(b" \t")
        if not _SIZE.fullmatch(size):
            raise BadRequestError("A chunk of the body begins without its size in hexadecimal digits.")
        return int(size, 16)

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            block = self._connection.read(min(size, BLOCK))
            if not block:
                raise ConnectionError("The body ended early.")
            size -= len(block)
            yield block

    def _line(self) -> bytes:
        line = self._connection.readline(_LONGEST_LINE)
        if line.endswith(b"\r\n"):
            return line.removesuffix(b"\r\n")
        if len(line) < _LONGEST_LINE and not line.endswith(b"\n"):
            raise ConnectionError("The body ended early.")
        raise BadRequestError("A line between the body's chunks is too long, or does not end in CRLF.")
