"""A request as Envoy tells of it: its head, without its body."""

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]
"""An ASGI application: <https://asgi.readthedocs.io/en/latest/specs/main.html>."""

Header = tuple[bytes, bytes]
"""Lower-case name, and value."""

COOKIE = b"__Host-agent-platform"
"""The cookie with the gateway's token; no agent gets to see or to set it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The head of a request."""

    id: str
    """Envoy's, by which it also logs the request."""
    method: str
    target: bytes
    """Path and query as sent (origin form)."""
    authority: str
    """The host, with its port if there is one, that the request names."""
    headers: Sequence[Header]

    @classmethod
    def of(cls, scope: Message) -> "Request":
        """Return the request in an ASGI scope."""
        headers: Sequence[Header] = scope["headers"]
        named = dict(headers)
        query: bytes = scope["query_string"]
        path: bytes = scope["raw_path"]
        return cls(
            id=named.get(b"x-request-id", b"").decode("latin-1"),
            method=scope["method"],
            target=path + b"?" + query if query else path,
            authority=named.get(b"host", b"").decode("latin-1"),
            headers=headers,
        )

    @property
    def origin(self) -> bytes:
        """Return the origin of our own pages on this host, as browsers tell it."""
        return b"https://" + self.authority.lower().encode("latin-1")

    @property
    def websocket(self) -> bool:
        """Tell whether it asks for a WebSocket."""
        return (self.header(b"upgrade") or b"").lower() == b"websocket"

    @property
    def from_browser(self) -> bool:
        """Tell whether somebody looks at the answer: a page is better than a line of text."""
        return self.method == "GET" and not self.websocket and b"text/html" in (self.header(b"accept") or b"")

    def header(self, name: bytes) -> bytes | None:
        """Return the value of the header if it is there exactly once."""
        values = [value for key, value in self.headers if key == name]
        return values[0] if len(values) == 1 else None

    def token(self) -> str | None:
        """Return the token in the gateway's cookie, if there is exactly one."""
        found = [crumb.partition(b"=")[2] for crumb in self._crumbs() if _is_ours(crumb)]
        return found[0].decode("latin-1") if len(found) == 1 else None

    def other_cookies(self) -> bytes | None:
        """Return what an agent gets as `Cookie`; None if that is what was sent."""
        if not any(key == b"cookie" and COOKIE in value for key, value in self.headers):
            return None
        kept = b"; ".join(crumb for crumb in self._crumbs() if crumb and not _is_ours(crumb))
        # As where two headers were joined by a comma.
        return b"" if COOKIE in kept else kept

    def _crumbs(self) -> list[bytes]:
        return [
            crumb.strip() for key, value in self.headers if key == b"cookie" for crumb in value.split(b";")
        ]


def _is_ours(crumb: bytes) -> bool:
    return crumb.partition(b"=")[0].strip() == COOKIE
