"""Envoy's authoriser: lets a request in, holds and wakes its tenant's machine, and names the agent's address.

Envoy sends each request here without its body. What is answered with 200 goes on to the agent, with the
headers that are set here; anything else is the client's answer. It is Envoy's `ext_authz` over HTTP:
<https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/extensions/filters/http/ext_authz/v3/ext_authz.proto>.
"""

import asyncio
import base64
import contextlib
import re
import secrets
from collections.abc import Mapping
from types import MappingProxyType

from starlette.responses import Response

from services import parts
from services.activity.store import Claim
from services.gateway import hosts, pages
from services.gateway.assertions import Assertions, OverError
from services.gateway.auth import Authenticator, Caller, Keys, Refused
from services.gateway.in_flight import Asked, InFlight
from services.gateway.request import Header, Message, Receive, Request, Send
from services.gateway.routes import Route, Routes
from services.gateway.settings import Limits
from services.gateway.states import CannotWake, StillWaking
from services.gateway.wake import Wakes

_LATER = 423
"""Envoy makes 503 of it, which it would take for a fault of ours (`infra/platform/envoy.py`)."""
_NOTHING_MORE: list[Header] = [(b"content-length", b"0")]
_TARGET = re.compile(rb"/[\x21\x22\x24-\x7e]*")
_NO_METHODS = ("CONNECT", "TRACE")
# A browser is shown the waiting page instead; one whose tenant is awake does not wait this long.
_BROWSER_SECONDS = 0.5
_RETRY_SECONDS = 2


class Authorizer:
    """An ASGI application that only Envoy asks."""

    def __init__(
        self,
        *,
        domain: str,
        limits: Limits,
        routes: Routes,
        in_flight: InFlight,
        wakes: Wakes,
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
        self._in_flight = in_flight
        self._wakes = wakes
        self._authenticator = authenticator
        self._operator_keys = operator_keys
        self._assertions = assertions
        self._agents_at = agents_at
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Tell those who are held to ask again: another replica holds them then."""
        self._stopping.set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer Envoy."""
        response = await self._judge(Request.of(scope), receive)
        if isinstance(response, Response):
            if response.status_code == 503:
                response.status_code = _LATER
            await response(scope, receive, send)
        else:
            await send({"type": "http.response.start", "status": 200, "headers": response})
            await send({"type": "http.response.body"})

    async def _judge(self, request: Request, receive: Receive) -> Response | list[Header]:
        """Return what Envoy adds to the request on its way, or the client's answer."""
        label = hosts.label(request.authority, self._domain)
        if not _TARGET.fullmatch(request.target):
            return pages.line(400, "The target of a request is a path.")
        if not request.method.isalpha() or request.method in _NO_METHODS:
            return pages.line(400, "The method is not offered.")
        if label == hosts.CONSOLE:
            try:
                self._authenticator.caller(request, hosts.CONSOLE, self._operator_keys)
            except Refused as refused:
                return _refused(request, hosts.CONSOLE, refused)
            return _NOTHING_MORE
        route = self._routes.find(label) if label else None
        if route is None:
            return pages.line(404, "There is nothing at this address.")
        try:
            caller = self._authenticator.caller(request, route.tenant, route.keys)
        except Refused as refused:
            return _refused(request, route.tenant, refused)
        if _declared_length(request) > self._limits.body:
            return pages.line(413, f"A body has {self._limits.body} bytes at most.")
        if route.state != "active":
            return _cannot(request, route, CannotWake("not-active", f"the tenant is {route.state}", 60))
        if self._in_flight.count(route.tenant) >= self._limits.tenant_requests:
            message = f"{route.tenant} has as many requests in flight as it may have."
            return _later(message, _RETRY_SECONDS, {pages.STATE_HEADER: "limited"})
        return await self._lead(request, receive, route, caller)

    async def _lead(
        self, request: Request, receive: Receive, route: Route, caller: Caller
    ) -> Response | list[Header]:
        """Hold the tenant's machine, wake it if need be, and say where it is; otherwise let go of it."""
        asked = Asked(route.tenant, caller.subject, "stream" if request.websocket else "request")
        goes_on = False
        try:
            claim = await self._in_flight.enter(request.id, asked)
            address = self._wakes.ready(route, claim)
            if address is None:
                address = await self._awake(request, receive, route, claim)
            if address is not None:
                said = self._said(request, asked, route, address)
                goes_on = True
        except StillWaking as still:
            if request.from_browser:
                return pages.waiting(route, still)
            message = f"{route.tenant} is waking ({still}); ask again."
            return _later(message, still.retry_after, pages.state_of(route))
        except CannotWake as failure:
            return _cannot(request, route, failure)
        except OverError:
            address = None  # its end was heard meanwhile
        finally:
            if not goes_on:
                self._in_flight.leave(request.id)
        if address is None:  # nobody is there to hear this
            return _later("The request was taken back.", _RETRY_SECONDS)
        self._in_flight.begin(request.id)
        return said

    async def _awake(
        self, request: Request, receive: Receive, route: Route, claim: Claim | None
    ) -> str | None:
        """Wait until the tenant is awake; None if the client has gone. Raises `StillWaking`, `CannotWake`."""
        patience = _BROWSER_SECONDS if request.from_browser else self._limits.patience_seconds
        awake = asyncio.create_task(self._wakes.awake(route, patience, claim))
        gone = asyncio.create_task(_gone(receive))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((awake, gone, stopping), return_when=asyncio.FIRST_COMPLETED)
            if awake.done():
                return awake.result()
            if gone.done():
                return None
            state = self._wakes.state(route)
            raise StillWaking(state.phase, state.seconds or 0)
        finally:
            await parts.end((awake, gone, stopping))

    def _said(self, request: Request, asked: Asked, route: Route, address: str) -> list[Header]:
        """Return the headers that the agent gets of us, and where Envoy finds it."""
        said = [
            *_NOTHING_MORE,
            (b"x-envoy-original-dst-host", address.removeprefix("http://").encode("ascii")),
            (b"x-tenant", asked.tenant.encode("ascii")),
            (b"x-subject", asked.subject.encode("ascii")),
        ]
        if route.served_by == "shared runtime":
            said.append((b"x-assertion", self._assertions.of_request(request.id).encode("ascii")))
            said.append((b"x-gateway", self._agents_at.encode("ascii")))
        if request.websocket and request.header(b"sec-websocket-key") is None:
            # Over HTTP/2 there is none (RFC 8441), and agents, who speak HTTP/1.1, ask for one.
            said.append((b"sec-websocket-key", base64.b64encode(secrets.token_bytes(16))))
        cookies = request.other_cookies()
        if cookies:
            said.append((b"cookie", cookies))
        elif cookies is not None:
            said.append((b"x-envoy-auth-headers-to-remove", b"cookie"))
        return said


async def _gone(receive: Receive) -> None:
    """Return once the client has gone: Envoy then takes its question back."""
    with contextlib.suppress(asyncio.CancelledError):
        while (await receive())["type"] != "http.disconnect":
            pass


def _declared_length(request: Request) -> int:
    text = request.header(b"x-declared-length") or b""
    return int(text) if text.isdigit() and len(text) < 20 else 0


def _refused(request: Request, audience: str, refused: Refused) -> Response:
    if request.from_browser and refused.status == 401:
        return pages.sign_in(audience, target=request.target.decode("ascii"))
    challenge = {"www-authenticate": "Bearer"} if refused.status == 401 else {}
    return pages.line(refused.status, str(refused), challenge)


def _cannot(request: Request, route: Route, failure: CannotWake) -> Response:
    if request.from_browser:
        return pages.failed(route, failure)
    if failure.kind == "not-active":
        return pages.line(403, f"{route.tenant} is not in use.")
    return _later(f"{route.tenant} cannot be woken ({failure}).", failure.retry_after)


def _later(message: str, seconds: int, state: Mapping[str, str] = MappingProxyType({})) -> Response:
    return pages.line(503, message, {"retry-after": str(seconds), **state})
