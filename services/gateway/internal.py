"""The API that agents have inside the cluster: work leases, and what the guest reports of itself.

Whoever calls shows the token of its tenant's service account, which Kubernetes says the owner of. So an agent
can keep its own machine awake, within the leases' cap, and nobody else's. The shared runtime has no such
token: it shows the assertion of a request that this replica has in flight, and gets a new one for it.
"""

import asyncio
import hashlib
import json
import logging
import time
from typing import Any, get_args

import jwt
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as Endpoint

from services import kube
from services.activity import connection
from services.activity.store import LEASE_NAME, LEASE_SECONDS, Activity, Refused, Signal
from services.gateway.assertions import Assertions, OverError
from services.gateway.cluster import Cluster
from services.gateway.routes import Routes

log = logging.getLogger(__name__)

_BODY_BYTES = 4096
_TOKEN_BYTES = 8192
_REMEMBERED_SECONDS = 60
_REMEMBERED = 20_000
_REVIEWS_AT_ONCE = 16
_ACCOUNT = "system:serviceaccount:tenant-"
_SIGNALS = get_args(Signal)
_RETRY = {"Retry-After": "2"}
_REFUSED: dict[Refused, tuple[int, str]] = {
    "suspending": (409, "the machine is about to be stopped for being idle; the next request wakes it again"),
    "cap": (403, "this lease has kept the machine awake for as long as one lease may; release it first"),
    "many": (429, "the tenant has as many leases as it may have at a time; release one first"),
}


def application(cluster: Cluster, activity: Activity, routes: Routes, assertions: Assertions) -> Starlette:
    """Return what answers agents: `cluster` knows who calls, `activity` keeps what is said."""
    callers = _Callers(cluster, routes)

    async def take(request: Request) -> Response:
        tenant, name = await callers.tenant(request), _name(request)
        seconds = (await _document(request, "seconds"))["seconds"]
        if type(seconds) is not int or not 1 <= seconds <= LEASE_SECONDS:
            raise HTTPException(400, f"seconds is a whole number from 1 to {LEASE_SECONDS}")
        until = await activity.take_lease(tenant, name, seconds)
        if isinstance(until, str):
            raise HTTPException(*_REFUSED[until])
        return JSONResponse({"until": until})

    async def release(request: Request) -> Response:
        tenant, name = await callers.tenant(request), _name(request)
        await activity.release_lease(tenant, name)
        return Response(status_code=204)

    async def report(request: Request) -> Response:
        tenant = await callers.tenant(request)
        signals = (await _document(request, "signals"))["signals"]
        if not isinstance(signals, list) or not all(signal in _SIGNALS for signal in signals):
            raise HTTPException(400, f"signals is a list of {', '.join(_SIGNALS)}")
        if signals:
            await activity.report(tenant, sorted(set(signals)))
        return Response(status_code=204)

    async def renew(request: Request) -> Response:
        assertion = _shown(request)
        try:
            callers.check_active(assertions.tenant(assertion))
            return JSONResponse({"assertion": assertions.renewed(assertion)})
        except OverError as over:
            raise HTTPException(401, str(over), {"WWW-Authenticate": "Bearer"}) from None

    async def refused(_: Request, error: Any) -> Response:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    async def away(_: Request, error: Exception) -> Response:
        log.warning("what an agent said is lost: Redis: %s", error)
        return JSONResponse({"error": "the activity store is away"}, 503, _RETRY)

    return Starlette(
        routes=[
            Endpoint("/v1/leases/{name}", take, methods=["PUT"]),
            Endpoint("/v1/leases/{name}", release, methods=["DELETE"]),
            Endpoint("/v1/activity", report, methods=["POST"]),
            Endpoint("/v1/assertions", renew, methods=["POST"]),
        ],
        exception_handlers={HTTPException: refused, **dict.fromkeys(connection.UNREACHABLE, away)},
    )


class _Callers:
    """Knows whose token a caller shows, and remembers it for a minute."""

    def __init__(self, cluster: Cluster, routes: Routes) -> None:
        self._cluster = cluster
        self._routes = routes
        self._reviews = asyncio.Semaphore(_REVIEWS_AT_ONCE)
        self._remembered: dict[bytes, tuple[str | None, float]] = {}

    async def tenant(self, request: Request) -> str:
        """Return who calls. Raises `HTTPException`."""
        token = _shown(request)
        if not _may_be_one(token):
            raise _unauthorized()
        tenant = await self._owner(token)
        if tenant is None:
            raise _unauthorized()
        self.check_active(tenant)
        return tenant

    def check_active(self, tenant: str) -> None:
        """Raise `HTTPException` unless requests are led to the tenant."""
        route = self._routes.find(tenant)
        if route is None or route.state != "active":
            raise HTTPException(403, f"there is no active tenant {tenant}")

    async def _owner(self, token: str) -> str | None:
        key, now = hashlib.sha256(token.encode()).digest(), time.monotonic()
        tenant, until = self._remembered.get(key, (None, 0.0))
        if until > now:
            return tenant
        try:
            async with self._reviews:
                tenant = await self._cluster.tenant_of(token)
        except (kube.ApiError, *kube.UNREACHABLE) as error:
            log.warning("nobody can say whose token an agent shows: %s", error)
            raise HTTPException(503, "the Kubernetes API is away", _RETRY) from None
        if len(self._remembered) >= _REMEMBERED:
            self._remembered.clear()
        self._remembered[key] = (tenant, now + _REMEMBERED_SECONDS)
        return tenant


def _shown(request: Request) -> str:
    """Return what the caller shows. Raises `HTTPException` if that is nothing."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not 0 < len(token) <= _TOKEN_BYTES:
        raise _unauthorized()
    return token


def _may_be_one(token: str) -> bool:
    """Return whether it is worth asking: looks like a live token of a tenant's account, proves nothing."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False, "verify_exp": True})
    except (jwt.InvalidTokenError, ValueError):
        return False
    return str(claims.get("sub", "")).startswith(_ACCOUNT)


def _unauthorized() -> HTTPException:
    return HTTPException(
        401,
        "show the token of a tenant's service account: Authorization: Bearer TOKEN",
        {"WWW-Authenticate": "Bearer"},
    )


def _name(request: Request) -> str:
    name: str = request.path_params["name"]
    if not LEASE_NAME.fullmatch(name):
        raise HTTPException(400, f"a lease's name matches {LEASE_NAME.pattern}")
    return name


async def _document(request: Request, field: str) -> dict[str, Any]:
    """Return the body, an object with this field and no other. Raises `HTTPException`."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _BODY_BYTES:
            raise HTTPException(413, f"a body has {_BODY_BYTES} bytes at most")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is no JSON") from None
    if not isinstance(document, dict) or set(document) != {field}:
        raise HTTPException(400, f"the body is an object with {field} and nothing else")
    return document
