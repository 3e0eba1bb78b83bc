"""What happens to a request: whose host it names, who asks, the hold, the wake, and then the way through."""

import dataclasses
import logging
import secrets
import time
from collections.abc import Mapping
from urllib.parse import parse_qs

from starlette.responses import PlainTextResponse, RedirectResponse, Response

from services.activity.connection import UNREACHABLE
from services.activity.holds import Holds
from services.activity.store import Claim, Kind
from services.gateway import asgi, hosts, metrics, pages
from services.gateway.assertions import Assertions
from services.gateway.auth import Authenticator, Caller, Keys, Refused
from services.gateway.exchange import Exchange, PeerGone, Stalled, TooLarge
from services.gateway.headers import COOKIE
from services.gateway.proxy import AgentFailed, Destination, Proxy
from services.gateway.routes import Route, Routes
from services.gateway.settings import Limits
from services.gateway.states import CannotWake, StillWaking
from services.gateway.upstream import Crowded, Unreachable
from services.gateway.wake import Wakes

access = logging.getLogger("gateway.access")
log = logging.getLogger(__name__)

_OWN = "/.gateway/"
_SIGN_IN = "/.gateway/sign-in"
_FORM_BYTES = 16 * 1024
# A browser is shown the waiting page instead; one whose tenant is awake does not wait this long.
_BROWSER_SECONDS = 0.5
_RETRY_SECONDS = 2


class App:
    """Answers on the public port."""

    def __init__(
        self,
        *,
        domain: str,
        limits: Limits,
        routes: Routes,
        holds: Holds,
        wakes: Wakes,
        proxy: Proxy,
        console: asgi.Application,
        authenticator: Authenticator,
        operator_keys: Keys,
        assertions: Assertions,
        agents_at: str,
    ) -> None:
        """Lead requests for hosts under `domain` to where the other parts say.

        `agents_at` is where this replica, and no other, answers agents.
        """
        self._domain = domain
        self._limits = limits
        self._routes = routes
        self._holds = holds
        self._wakes = wakes
        self._proxy = proxy
        self._console = console
        self._authenticator = authenticator
        self._operator_keys = operator_keys
        self._assertions = assertions
        self._agents_at = agents_at

    async def handle(self, exchange: Exchange) -> None:
        """Answer, and leave a line that holds no secret: no query, no header, no body."""
        request, began, request_id = exchange.request, time.monotonic(), secrets.token_hex(8)
        label = hosts.label(request.authority, self._domain)
        route = self._routes.find(label) if label else None
        outcome = "broken off"
        try:
            outcome = await self._answer(exchange, label, route, request_id)
        finally:
            tenant = route.tenant if route else "-"
            metrics.REQUESTS.labels(tenant, outcome[:3] if outcome[:3].isdigit() else "broken off").inc()
            access.info(
                "%s %s %s %s HTTP/%s: %s, %.1f ms, from %s",
                *(request_id, tenant, request.method, request.path, request.version, outcome),
                (time.monotonic() - began) * 1000,
                request.peer,
            )

    async def _answer(
        self, exchange: Exchange, label: str | None, route: Route | None, request_id: str
    ) -> str:
        """Answer; return the status, or what came between."""
        try:
            if label == hosts.CONSOLE:
                reply = await self._as_operator(exchange)
            elif route is None:
                reply = _text(404, "There is nothing at this address.")
            else:
                reply = await self._as_tenant(exchange, route, request_id)
        except TooLarge:
            reply = _text(413, f"A body has {self._limits.body} bytes at most.")
        except Stalled as error:
            reply = _text(408, f"The request was not completed: {error}.")
        except PeerGone as error:
            exchange.abort()
            return f"broken off: {error}"
        if reply is None:
            return str(exchange.status)
        if exchange.status:
            exchange.abort()
            return f"broken off after {exchange.status}"
        try:
            await asgi.run(reply, exchange)
        except (PeerGone, Stalled) as error:
            return f"{reply.status_code} broken off: {error}"
        return str(reply.status_code)

    async def _as_operator(self, exchange: Exchange) -> Response | None:
        if exchange.request.path.startswith(_OWN):
            return await self._own(exchange, hosts.CONSOLE, self._operator_keys)
        try:
            self._authenticator.caller(exchange.request, hosts.CONSOLE, self._operator_keys)
        except Refused as refused:
            return _refused(exchange, hosts.CONSOLE, refused)
        await asgi.run(self._console, exchange)
        return None

    async def _as_tenant(self, exchange: Exchange, route: Route, request_id: str) -> Response | None:
        request = exchange.request
        if request.path.startswith(_OWN):
            return await self._own(exchange, route.tenant, route.keys)
        try:
            caller = self._authenticator.caller(request, route.tenant, route.keys)
        except Refused as refused:
            return _refused(exchange, route.tenant, refused)
        if request.length is not None and request.length > self._limits.body:
            raise TooLarge
        if route.state != "active":
            return _cannot(exchange, route, CannotWake("not-active", f"the tenant is {route.state}", 60))
        kind: Kind = "stream" if request.websocket else "request"
        held, claim = await self._enter(route, kind)
        metrics.IN_FLIGHT.labels(kind).inc()
        try:
            await self._lead(exchange, route, caller, request_id, claim)
        except StillWaking as still:
            if _is_browser(exchange):
                return pages.waiting(route, still)
            return _later(f"{route.tenant} is waking ({still}); ask again.", still.retry_after)
        except CannotWake as failure:
            return _cannot(exchange, route, failure)
        except Crowded:
            return _later(f"{route.tenant} has as many connections as it may have.", _RETRY_SECONDS)
        except Unreachable as error:
            log.warning("%s is awake and takes no connection: %s", route.tenant, error)
            return _text(502, f"{route.tenant} takes no connections.")
        except AgentFailed as error:
            return _text(502, f"{route.tenant} did not answer: {error}.")
        finally:
            metrics.IN_FLIGHT.labels(kind).dec()
            if held:
                self._holds.leave(route.tenant, kind)
        return None

    async def _enter(self, route: Route, kind: Kind) -> tuple[bool, Claim | None]:
        """Hold the machine, if there is one; return whether that is done, and what the suspender is about."""
        if route.served_by != "machine":
            return False, None
        try:
            return True, (await self._holds.enter(route.tenant, kind)).claim
        except UNREACHABLE as error:
            # Whom Redis cannot tell of, the suspender does not stop, so the request is safe as it is.
            log.warning("%s is not held: %s", route.tenant, error)
            return False, None

    async def _lead(
        self, exchange: Exchange, route: Route, caller: Caller, request_id: str, claim: Claim | None
    ) -> None:
        patience = _BROWSER_SECONDS if _is_browser(exchange) else self._limits.patience_seconds
        base = await self._wakes.awake(route, patience, claim)
        try:
            await self._forward(exchange, route, caller, request_id, base)
        except Unreachable:
            # It was sent nothing: it may be somewhere else by now, or asleep.
            self._wakes.invalidate(route)
            base = await self._wakes.awake(route, patience)
            await self._forward(exchange, route, caller, request_id, base)

    async def _forward(
        self, exchange: Exchange, route: Route, caller: Caller, request_id: str, base: str
    ) -> None:
        shared = route.served_by == "shared runtime"
        to = Destination(
            tenant=route.tenant,
            workload="shared runtime" if shared else route.namespace,
            base=base,
            subject=caller.subject,
            request_id=request_id,
        )
        if not shared:
            await self._proxy.forward(exchange, to)
            return
        with self._assertions.of_request(route.tenant, caller.subject) as assertion:
            said = (
                (b"x-assertion", assertion.encode("ascii")),
                (b"x-gateway", self._agents_at.encode("ascii")),
            )
            await self._proxy.forward(exchange, dataclasses.replace(to, said=said))

    async def _own(self, exchange: Exchange, audience: str, keys: Keys) -> Response:
        """Answer for a path that is the gateway's own on every host."""
        if exchange.request.path != _SIGN_IN:
            return _text(404, f"There is {_SIGN_IN}.")
        if exchange.request.method in ("GET", "HEAD"):
            return pages.sign_in(audience)
        if exchange.request.method != "POST":
            return _text(405, "A token is posted.", {"allow": "GET, HEAD, POST"})
        origin = exchange.request.header(b"origin")
        if origin not in (None, exchange.request.origin):
            return _text(403, "The form of another site signs nobody in.")
        form = parse_qs(await _form(exchange), max_num_fields=8)
        token, target = form.get("token", [""])[0].strip(), _target(form.get("target", ["/"])[0])
        try:
            caller = self._authenticator.verify(token, audience, keys)
        except Refused as refused:
            return pages.sign_in(audience, str(refused), target)
        response = RedirectResponse(target, 303)
        response.set_cookie(
            COOKIE.decode(),
            token,
            max_age=max(1, int(caller.expires - time.time())),
            secure=True,
            httponly=True,
            samesite="lax",
        )
        return response


async def _form(exchange: Exchange) -> str:
    body = b""
    while piece := await exchange.read():
        body += piece
        if len(body) > _FORM_BYTES:
            raise TooLarge
    return body.decode("utf-8", errors="replace")


def _refused(exchange: Exchange, audience: str, refused: Refused) -> Response:
    if _is_browser(exchange) and refused.status == 401:
        return pages.sign_in(audience, target=exchange.request.target.decode("ascii"))
    challenge = {"www-authenticate": "Bearer"} if refused.status == 401 else {}
    return _text(refused.status, str(refused), challenge)


def _cannot(exchange: Exchange, route: Route, failure: CannotWake) -> Response:
    if _is_browser(exchange):
        return pages.failed(route, failure)
    if failure.kind == "not-active":
        return _text(403, f"{route.tenant} is not in use.")
    return _later(f"{route.tenant} cannot be woken ({failure}).", failure.retry_after)


def _later(message: str, seconds: int) -> Response:
    return _text(503, message, {"retry-after": str(seconds)})


def _text(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return PlainTextResponse(f"{message}\n", status, {"cache-control": "no-store", **(headers or {})})


def _is_browser(exchange: Exchange) -> bool:
    request = exchange.request
    return (
        request.method == "GET"
        and not request.websocket
        and b"text/html" in (request.header(b"accept") or b"")
    )


def _target(text: str) -> str:
    """Return a path on this host; anything that a browser could take for another place is `/`."""
    plain = text.isascii() and text.isprintable() and " " not in text
    return text if plain and text.startswith("/") and text[1:2] not in ("/", "\\") else "/"
