"""Has an ASGI application answer a request of the runtime's server, in the thread that the request has.

The server itself is the standard library's: a machine that wakes has no time to load another.
"""

import asyncio
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message

from services.agent_runtime.body import BadRequestError

_LARGEST = 2**21
"""Bytes of a body: all of it is in memory."""


class _GoneError(Exception):
    """The client of the request is gone."""


def answer(
    application: ASGIApp, handler: BaseHTTPRequestHandler, body: Iterable[bytes], state: dict[str, Any]
) -> None:
    """Answer the request that `handler` has read the head of, in an event loop of its own.

    The application finds `state` in its scope. Raises ConnectionError if whoever asked is gone.
    """
    try:
        asyncio.run(_answer(application, handler, body, state))
    except (_GoneError, ClientDisconnect) as error:
        raise ConnectionError(str(error)) from None


async def _answer(
    application: ASGIApp, handler: BaseHTTPRequestHandler, body: Iterable[bytes], state: dict[str, Any]
) -> None:
    path, _, query = handler.path.partition("?")
    scope = {
        "type": "http",
        # Whoever has gone away is noticed by what is sent.
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": handler.command,
        "scheme": "https",
        "path": unquote(path, errors="replace"),
        "raw_path": path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "headers": [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in handler.headers.items()
        ],
        "state": state,
    }
    await application(scope, _Receiving(body).receive, _Sending(handler).send)


class _Receiving:
    """Reads a body as it comes."""

    def __init__(self, body: Iterable[bytes]) -> None:
        self._coming = iter(body)
        self._size = 0

    async def receive(self) -> Message:
        try:
            block = next(self._coming, b"")
        except OSError as error:
            raise _GoneError(str(error)) from None
        self._size += len(block)
        if self._size > _LARGEST:
            raise BadRequestError(
                f"A body has at most {_LARGEST} bytes, so nothing is done; put more into a file of the "
                "workspace."
            )
        return {"type": "http.request", "body": block, "more_body": bool(block)}


class _Sending:
    """Sends an answer as it comes."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self._handler = handler
        self._chunked = False

    async def send(self, message: Message) -> None:
        try:
            if message["type"] == "http.response.start":
                self._head(message["status"], message["headers"])
            elif self._handler.command != "HEAD":
                self._body(message.get("body", b""), last=not message.get("more_body"))
        except OSError as error:
            raise _GoneError(str(error)) from None

    def _head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._handler.send_response(status)
        said = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
        self._chunked = "content-length" not in said and status >= 200 and status not in (204, 304)
        if self._chunked:
            said["transfer-encoding"] = "chunked"
        for name, value in said.items():
            self._handler.send_header(name, value)
        self._handler.end_headers()

    def _body(self, content: bytes, *, last: bool) -> None:
        if not self._chunked:
            self._handler.wfile.write(content)
            return
        if content:
            self._handler.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
        if last:
            self._handler.wfile.write(b"0\r\n\r\n")
