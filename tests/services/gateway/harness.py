"""A gateway on loopback between real clients and a real agent, in a thread of its own."""

import asyncio
import datetime
import ipaddress
import itertools
import os
import re
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
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

from infra.platform import envoy as envoys
from infra.platform.envoy import OPTIONS, PUBLIC_PORT, executable
from services.activity.holds import Holds
from services.activity.store import Activity
from services.gateway import access_log, own
from services.gateway.access_log import AccessLog
from services.gateway.assertions import Assertions
from services.gateway.auth import SignedTokens
from services.gateway.authorizer import Authorizer
from services.gateway.in_flight import InFlight
from services.gateway.request import Application
from services.gateway.routes import Route, Routes
from services.gateway.servers import server
from services.gateway.settings import Limits
from services.gateway.states import State
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
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    """Set: who sleeps is awake."""
    asleep: set[str] = field(default_factory=set)

    def ready(self, found: Route, _: object = None) -> str | None:
        """Return where the tenant is if it is awake."""
        place = self.found[found.tenant]
        return None if isinstance(place, Exception) or found.tenant in self.asleep else place

    async def awake(self, found: Route, patience: float, _: object = None) -> str:
        """Return where the tenant is, once it is awake."""
        self.asked.append((found.tenant, patience))
        place = self.found[found.tenant]
        if isinstance(place, Exception):
            raise place
        if found.tenant in self.asleep:
            await self.woken.wait()
        return place

    def state(self, _: Route) -> State:
        """Return that it boots."""
        return State(phase="boot", seconds=1)

    def invalidate(self, tenant: str) -> None:
        """Note who takes no connections."""
        self.invalidated.append(tenant)


class Table:
    """Routes as declared."""

    def __init__(self, *routes: Route) -> None:
        self._routes = {route.tenant: route for route in routes}

    def find(self, tenant: str) -> Route | None:
        """Return the route of `tenant`."""
        return self._routes.get(tenant)


@dataclass
class Gateway:
    """What is running: Envoy as a process, the gateway in a thread's loop."""

    loop: asyncio.AbstractEventLoop
    envoy: "subprocess.Popen[bytes]"
    address: str
    places: Places
    holds: Holds
    in_flight: InFlight
    agent: "Agent"
    folder: Path
    assertions: Assertions
    authorizer: Authorizer
    servers: "Servers"

    port = PUBLIC_PORT

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run in the gateway's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def authority(self, tenant: str = "acme") -> str:
        """Return the host and port of a tenant."""
        return f"{tenant}.{DOMAIN}:{self.port}"

    @property
    def base(self) -> str:
        """What a client connects to; it names its tenant in the header `Host`."""
        return f"https://{self.address}:{self.port}"

    def tcp(self) -> socket.socket:
        """Return a connection without TLS."""
        return socket.create_connection((self.address, self.port), timeout=20)

    def tls(self, *protocols: str) -> ssl.SSLSocket:
        """Return a connection."""
        context = self.trust()
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context.wrap_socket(self.tcp(), server_hostname=f"acme.{DOMAIN}")

    def trust(self) -> ssl.SSLContext:
        """Return what trusts the gateway."""
        context = ssl.create_default_context(cafile=str(self.folder / "tls.crt"))
        context.check_hostname = False
        return context

    def statistics(self) -> dict[str, int]:
        """Return Envoy's counters and gauges."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.folder / "admin.sock"))
            connection.sendall(b"GET /stats HTTP/1.1\r\nHost: envoy\r\nConnection: close\r\n\r\n")
            with connection.makefile("rb") as stream:
                told = stream.read().decode()
        found = re.findall(r"^(\S+): (\d+)$", told, re.MULTILINE)
        return {name: int(value) for name, value in found}

    @property
    def connections(self) -> int:
        """Return how many clients are connected."""
        return self.statistics()["http.public.downstream_cx_active"]


class Servers:
    """The gateway's servers, which may end and begin anew while Envoy goes on."""

    def __init__(
        self, folder: Path, applications: dict[str, Any], in_flight: InFlight, access_log_: AccessLog
    ) -> None:
        self._in_flight = in_flight
        self._folder = folder
        self._applications = applications
        self._access_log = access_log_

    async def start(self) -> None:
        """Begin."""
        self._servers = [
            server(application, path=self._folder / f"{name}.sock")
            for name, application in self._applications.items()
        ]
        self._tasks = [asyncio.create_task(each.serve()) for each in self._servers]
        self._tasks.append(asyncio.create_task(self._in_flight.run()))
        self._log = access_log.server(self._access_log, self._folder / "log.sock")
        await self._log.start()
        while not all(each.started for each in self._servers):
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """End at once."""
        for each in self._servers:
            each.should_exit = each.force_exit = True
            for connection in list(each.server_state.connections):
                connection.transport.abort()
        self._tasks.pop().cancel()
        await asyncio.gather(*self._tasks)
        await self._log.stop(0)


@asynccontextmanager
async def served(application: Application) -> AsyncIterator[str]:
    """Serve an application without Envoy before it; yield its address."""
    found = server(application, address="127.0.0.1", port=0)
    task = asyncio.create_task(found.serve())
    while not found.started:
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{found.servers[0].sockets[0].getsockname()[1]}"
    finally:
        found.should_exit = found.force_exit = True
        await task


_ADDRESSES = itertools.count(1)


def prepared(
    folder: Path, replaced: Mapping[str, str], grafana: envoys.Grafana | None = None
) -> tuple[Path, str]:
    """Write what Envoy needs; return its folder, whose path is short enough for sockets, and its address."""
    folder = Path(tempfile.mkdtemp(dir=folder)) if len(str(folder)) < 70 else Path(tempfile.mkdtemp())
    make_certificate(folder)
    # Each test process has addresses of its own, so that the ports may be those of production.
    address = f"127.78.{os.getpid() % 250 + 1}.{next(_ADDRESSES) % 250 + 1}"
    file = envoys.prepared(DOMAIN, address, folder, grafana)
    bootstrap = file.read_text()
    for old, new in replaced.items():
        assert old in bootstrap
        bootstrap = bootstrap.replace(old, new)
    file.write_text(bootstrap)
    return folder, address


def envoy(folder: Path) -> "subprocess.Popen[bytes]":
    """Start Envoy with what is `prepared`."""
    with (folder / "envoy.log").open("wb") as log:
        return subprocess.Popen(
            [executable(), "-c", str(folder / "bootstrap.json"), *OPTIONS],
            stdout=log,
            stderr=subprocess.STDOUT,
        )


@contextmanager
def gateway(
    folder: Path,
    redis: Valkey,
    limits: Limits | None = None,
    *,
    replaced: Mapping[str, str] | None = None,
    grafana: envoys.Grafana | None = None,
) -> Iterator[Gateway]:
    """Run a gateway and an agent; `replaced` is what is to stand in Envoy's bootstrap for what stands there.

    acme is awake there, globex has a machine, too, paused is suspended, and robin is in the shared runtime.
    """
    limits = limits or Limits()
    folder, address = prepared(folder, replaced or {}, grafana)
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> Gateway:
        agent = Agent()
        base = await agent.start()
        places = Places({"acme": base, "globex": base, "robin": base})
        starter = route("robin", tier="starter", served_by="shared runtime", namespace="runtime")
        paused = route("paused", state="suspended")
        routes = cast(Routes, Table(route("acme"), route("globex"), paused, starter))
        holds = Holds(Activity(redis.client("gateway"), scripts()), "gateway-7f")
        in_flight = InFlight(holds, routes)
        assertions = Assertions(KEYS["assertions"], in_flight)
        keys = {"console": KEYS["console"].public_key()}
        wakes = cast(Wakes, places)
        authorizer = Authorizer(
            domain=DOMAIN,
            limits=limits,
            routes=routes,
            in_flight=in_flight,
            wakes=wakes,
            authenticator=SignedTokens(),
            operator_keys=keys,
            assertions=assertions,
            agents_at="https://192.0.2.7:8444",
        )
        pages = own.application(
            domain=DOMAIN,
            routes=routes,
            authenticator=SignedTokens(),
            operator_keys=keys,
            console=PlainTextResponse("the operators' page"),
            ready=lambda: True,
        )
        applications = {"authorizer": authorizer, "pages": pages}
        servers = Servers(folder, applications, in_flight, AccessLog(in_flight, wakes, DOMAIN, routes))
        await servers.start()
        return Gateway(
            loop,
            envoy(folder),
            address,
            places,
            holds,
            in_flight,
            agent,
            folder,
            assertions,
            authorizer,
            servers,
        )

    running = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    try:
        until(lambda: listens(running), 30)
        yield running
    finally:
        running.envoy.terminate()
        running.envoy.wait(30)
        running.run(running.servers.stop())
        running.run(running.agent.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def listens(gateway: Gateway) -> bool:
    """Return whether Envoy shows its certificate; raise if it has ended."""
    if gateway.envoy.poll() is not None:
        raise RuntimeError((gateway.folder / "envoy.log").read_text()[-2000:])
    try:
        gateway.tls().close()
    except OSError:
        return False
    return True


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
    # The key first: as with a mounted Secret, the new pair is whole when its last file is moved into place.
    for file, content in (
        ("tls.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())),
        ("tls.crt", certificate.public_bytes(Encoding.PEM)),
    ):
        (folder / f".{file}").write_bytes(content)
        (folder / f".{file}").replace(folder / file)


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
        # An answer that is whole before the request's last frame has come ends the stream, and httpx, which
        # sends that frame apart, takes this for a mistake of its own.
        await asyncio.sleep(0.05)
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
