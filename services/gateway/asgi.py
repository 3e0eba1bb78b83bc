"""Lets an ASGI application answer: the gateway's own pages and APIs are such."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote

from services.gateway.exchange import Exchange, Header

_Message = MutableMapping[str, Any]
Application = Callable[
    [_Message, Callable[[], Awaitable[_Message]], Callable[[_Message], Awaitable[None]]], Awaitable[None]
]


async def run(application: Application, exchange: Exchange) -> None:
    """Let `application` answer. The client's going away ends it by cancellation, as with any handler."""
    request = exchange.request
    path, _, query = request.target.partition(b"?")
    scope: _Message = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": request.version,
        "method": request.method,
        "scheme": "https",
        "path": unquote(path.decode("ascii"), errors="replace"),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", request.authority.encode("latin-1")), *request.headers],
        "client": (request.peer, 0),
        "server": None,
    }
    head: list[tuple[int, list[Header]]] = []

    async def receive() -> _Message:
        piece = await exchange.read() if exchange.has_body else b""
        return {"type": "http.request", "body": piece, "more_body": bool(piece)}

    async def send(message: _Message) -> None:
        if message["type"] == "http.response.start":
            head.append(
                (message["status"], [(bytes(name), bytes(value)) for name, value in message["headers"]])
            )
            return
        piece, more = message.get("body", b""), message.get("more_body", False)
        if request.method == "HEAD":
            piece = b""
        if head:
            await exchange.respond(*head.pop(), piece, more=more)
        else:
            await exchange.write(piece, more=more)

    await application(scope, receive, send)
