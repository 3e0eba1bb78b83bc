"""Which headers cross the gateway: none for one connection only, none that only the gateway may say."""

from collections.abc import Sequence

from services.gateway.exchange import Header, Request

COOKIE = b"__Host-agent-platform"
"""The cookie with the gateway's token; no agent gets to see or to set it."""

_HOP_BY_HOP = frozenset(
    (
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection"),
        *(b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    )
)
# What the gateway says itself, and the token, which was meant for it.
_OURS = frozenset(
    (
        *(b"authorization", b"content-length", b"expect", b"forwarded", b"host", b"via"),
        *(b"x-assertion", b"x-gateway", b"x-real-ip", b"x-request-id", b"x-subject", b"x-tenant"),
    )
)
_FORWARDED = b"x-forwarded-"


def request_head(request: Request, *, has_body: bool, ours: Sequence[Header]) -> bytes:
    """Return the head that the agent gets: of the client's headers the end-to-end ones, and `ours`."""
    lines = [b"%b %b HTTP/1.1\r\n" % (request.method.encode("ascii"), request.target)]
    dropped = _listed(request.headers)
    for name, value in request.headers:
        # Servers that hand headers on as environment variables take `_` for `-`.
        plain = name.replace(b"_", b"-")
        if plain in _HOP_BY_HOP or plain in _OURS or plain.startswith(_FORWARDED) or name in dropped:
            continue
        if name == b"cookie":
            value = _without_ours(value)
            if not value:
                continue
        lines.append(b"%b: %b\r\n" % (name, value))
    lines += [b"%b: %b\r\n" % header for header in ours]
    if request.websocket:
        lines.append(b"connection: Upgrade\r\nupgrade: websocket\r\n")
    elif not has_body:
        if request.method not in ("GET", "HEAD", "OPTIONS", "DELETE"):
            lines.append(b"content-length: 0\r\n")
    elif request.length is None:
        lines.append(b"transfer-encoding: chunked\r\n")
    else:
        lines.append(b"content-length: %d\r\n" % request.length)
    lines.append(b"\r\n")
    return b"".join(lines)


def response_headers(status: int, headers: Sequence[Header]) -> list[Header]:
    """Return what the client gets of an agent's headers."""
    dropped = _listed(headers)
    kept: list[Header] = []
    for name, value in headers:
        # Alt-Svc would send clients, and their tokens, past the gateway.
        if name in _HOP_BY_HOP or name in dropped or name == b"alt-svc":
            continue
        if name == b"content-length" and status == 204:
            continue
        if name == b"set-cookie":
            value = _own_host_only(value)
            if not value:
                continue
        kept.append((name, value))
    return kept


def cookie(request: Request) -> str | None:
    """Return the token in the gateway's cookie, if there is exactly one."""
    found = [
        value.strip()
        for key, header in request.headers
        if key == b"cookie"
        for name, _, value in (part.partition(b"=") for part in header.split(b";"))
        if name.strip() == COOKIE
    ]
    return found[0].decode("latin-1") if len(found) == 1 else None


def _listed(headers: Sequence[Header]) -> set[bytes]:
    """Return the names that `Connection` declares to be for this connection only."""
    return {
        name.strip().lower()
        for key, value in headers
        if key == b"connection"
        for name in value.split(b",")
        # An agent must get what it is authenticated by, and both sides have to agree where a body ends.
        if name.strip().lower() not in (b"cookie", b"content-length", b"host")
    }


def _without_ours(value: bytes) -> bytes:
    if COOKIE not in value:
        return value
    parts = (part.strip() for part in value.split(b";"))
    return b"; ".join(part for part in parts if part.partition(b"=")[0].strip() != COOKIE)


def _own_host_only(value: bytes) -> bytes:
    """Return the cookie without `Domain`, which would set it for all tenants; nothing if it has our name."""
    pair, *attributes = value.split(b";")
    if pair.partition(b"=")[0].strip() == COOKIE:
        return b""
    kept = [item for item in attributes if item.partition(b"=")[0].strip().lower() != b"domain"]
    return b";".join((pair, *kept))
