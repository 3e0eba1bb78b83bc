"""A gateway on loopback between real clients and a real agent, in a thread of its own."""

import asyncio
import datetime
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import jwt
import uvloop
from aiohttp import WSMsgType, web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from starlette.responses import PlainTextResponse

from services.activity.holds import Holds
from services.activity.store import Activity
from services.gateway.app import App
from services.gateway.assertions import Assertions
from services.gateway.auth import SignedTokens
from services.gateway.listener import Certificate, Listener
from services.gateway.proxy import Proxy
from services.gateway.routes import Route, Routes
from services.gateway.settings import Limits
from services.gateway.upstream import Upstreams
from services.gateway.wake import Wakes
from tests.services.valkey import Valkey, scripts

DOMAIN = "agents.localhost"
KEYS = {
    name: Ed25519PrivateKey.generate()
    for name in ("acme", "globex", "console", "paused", "robin", "assertions")
}

_T = TypeVar("_T")


def token(tenant: str, *, key: str | None = None, **claims: Any) -> str:
    """Return a token for `tenant`, signed with the key of `key`."""
    says = {"aud": tenant, "sub": "ada", "exp": time.time() + 3600, **claims}
    present = {name: value for name, value in says.items() if value is not None}
    return jwt.encode(present, KEYS[key or tenant], "EdDSA", {"kid": key or tenant})


def route(tenant: str, **fields: Any) -> Route:
    """Return the route of a tenant with a machine."""
    values: dict[str, Any] = {
        "tenant": tenant,
        "tier": "professional",
        "state": "active",
        "served_by": "machine",
        "namespace": f"tenant-{tenant}",
        "idle_seconds": 900,
        "keys": {tenant: KEYS[tenant].public_key()},
    }
    return Route(**values | fields)


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@dataclass
class Places:
    """Where tenants are, in place of what watches a cluster: an address, or what is raised instead."""

    found: dict[str, str | Exception] = field(default_factory=dict)
    asked: list[tuple[str, float]] = field(default_factory=list)
    invalidated: list[str] = field(default_factory=list)
    then: dict[str, str | Exception] = field(default_factory=dict)
    """Where a tenant is found after it was invalidated."""

    async def awake(self, found: Route, patience: float, _: object = None) -> str:
        """Return where the tenant is."""
        self.asked.append((found.tenant, patience))
        place = self.found[found.tenant]
        if isinstance(place, Exception):
            raise place
        return place

    def invalidate(self, found: Route) -> None:
        """Go on with `then`."""
        self.invalidated.append(found.tenant)
        self.found |= self.then


class Table:
    """Routes as declared."""

    def __init__(self, *routes: Route) -> None:
        self._routes = {route.tenant: route for route in routes}

    def find(self, tenant: str) -> Route | None:
        """Return the route of `tenant`."""
        return self._routes.get(tenant)


@dataclass
class Gateway:
    """What is running."""

    loop: asyncio.AbstractEventLoop
    listener: Listener
    places: Places
    holds: Holds
    agent: "Agent"
    certificate: Certificate
    folder: Path
    assertions: Assertions

    @property
    def port(self) -> int:
        """The public port."""
        return self.listener.port

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run in the gateway's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def authority(self, tenant: str = "acme") -> str:
        """Return the host and port of a tenant."""
        return f"{tenant}.{DOMAIN}:{self.port}"

    @property
    def base(self) -> str:
        """What a client connects to; it names its tenant in the header `Host`."""
        return f"https://127.0.0.1:{self.port}"

    def tcp(self) -> socket.socket:
        """Return a connection without TLS."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def tls(self, *protocols: str) -> ssl.SSLSocket:
        """Return a connection."""
        context = self.trust()
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context.wrap_socket(self.tcp(), server_hostname=f"acme.{DOMAIN}")

    def trust(self) -> ssl.SSLContext:
        """Return what trusts the gateway."""
        return ssl.create_default_context(cafile=str(self.folder / "tls.crt"))


@contextmanager
def gateway(folder: Path, server: Valkey, limits: Limits | None = None) -> Iterator[Gateway]:
    """Run a gateway and an agent.

    acme is awake there, globex has a machine, too, paused is suspended, and robin is in the shared runtime.
    """
    limits = limits or Limits()
    make_certificate(folder)
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> Gateway:
        agent = Agent()
        base = await agent.start()
        places = Places({"acme": base, "globex": base, "robin": base})
        starter = route("robin", tier="starter", served_by="shared runtime", namespace="runtime")
        paused = route("paused", state="suspended")
        assertions = Assertions(KEYS["assertions"])
        holds = Holds(Activity(server.client("gateway"), scripts()), "gateway-7f")
        app = App(
            domain=DOMAIN,
            limits=limits,
            routes=cast(Routes, Table(route("acme"), route("globex"), paused, starter)),
            holds=holds,
            wakes=cast(Wakes, places),
            proxy=Proxy(Upstreams(limits), limits),
            console=PlainTextResponse("the operators' page"),
            authenticator=SignedTokens(),
            operator_keys={"console": KEYS["console"].public_key()},
            assertions=assertions,
            agents_at="https://192.0.2.7:8444",
        )
        certificate = Certificate(folder / "tls.crt", folder / "tls.key")
        listener = Listener(app.handle, limits, certificate)
        await listener.listen("127.0.0.1", 0)
        return Gateway(loop, listener, places, holds, agent, certificate, folder, assertions)

    running = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    try:
        yield running
    finally:
        running.run(running.listener.drain(0))
        running.run(running.agent.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def make_certificate(folder: Path, serial: int = 1) -> None:
    """Write a certificate for all tenants, that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    now = datetime.datetime.now(datetime.UTC)
    names = [
        x509.DNSName(f"*.{DOMAIN}"),
        x509.DNSName(DOMAIN),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "tls.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


class Agent:
    """What a tenant runs: an HTTP server that tells what it was sent."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.connections = 0
        self.cut = asyncio.Event()
        self.closed_with: list[int | None] = []
        self._runner: web.AppRunner

    async def start(self) -> str:
        """Begin; return where."""
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, auto_decompress=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, shutdown_timeout=0.1)
        await site.start()
        port = self._runner.addresses[0][1]
        return f"http://127.0.0.1:{port}"

    async def stop(self) -> None:
        """End."""
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.raw_path}")
        handler = getattr(self, f"_{request.path.strip('/').partition('/')[0]}", None)
        return cast(web.StreamResponse, await handler(request)) if handler else await self._tell(request)

    async def _tell(self, request: web.Request) -> web.StreamResponse:
        body = await request.content.read()
        headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.raw_headers]
        return web.json_response(
            {"method": request.method, "target": request.raw_path, "headers": headers, "body": len(body)},
            headers={"Set-Cookie": f"a=b; Domain=.{DOMAIN}; Path=/", "Connection": "X-Hop", "X-Hop": "1"},
        )

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        size = 0
        async for piece in request.content.iter_any():
            size += len(piece)
        return web.json_response({"body": size})

    async def _unread(self, _: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3600)
        raise AssertionError

    async def _early(self, _: web.Request) -> web.StreamResponse:
        return web.Response(status=422, text="no")

    async def _download(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        piece = b"x" * 65536
        for _ in range(int(request.query["mib"]) * 16):
            await response.write(piece)
            self.connections += 1
        return response

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(3):
            await response.write(f"data: {number}\n\n".encode())
            await self.cut.wait()
            self.cut.clear()
        return response

    async def _broken(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        await asyncio.sleep(0.05)
        if request.transport is not None:
            request.transport.abort()
        return response

    async def _elsewhere(self, _: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": "http://169.254.169.254/", "Alt-Svc": 'h2=":1"'})

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        ours = web.WebSocketResponse(protocols=["chat"])
        await ours.prepare(request)
        async for message in ours:
            if message.data == "close":
                await ours.close(code=4001, message=b"enough")
            elif message.type is WSMsgType.TEXT:
                await ours.send_str(f"{request.headers['X-Subject']}: {message.data}")
            else:
                await ours.send_bytes(message.data)
        self.closed_with.append(ours.close_code)
        return ours
