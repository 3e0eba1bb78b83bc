"""What the gateway adds to a request of a machine that is awake: against a direct connection, and nginx.

Envoy, gateway, nginx and agent are processes of their own; the agent answers at once. All are asked over the
same number of connections: at a steady rate by a client of ours, and, where wrk is installed, as fast as they
can answer. Where curl is installed, a GiB goes down and up. Envoy and nginx speak TLS to the client; the
agent does not, as in the cluster.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import jwt
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwt.algorithms import OKPAlgorithm
from rich.console import Console

from infra.platform.envoy import OPTIONS, executable, prepared
from local import bench_cluster
from local.bench_cluster import VIRTUAL_MACHINES
from local.paths import ROOT
from local.servers import certificates
from services.kube import Access, Api

CONNECTIONS = 64
RATE = 200
"""Requests a second; two cores have client, proxy and agent to run, and are far from busy with that."""

_ROUNDS = 5
_SECONDS = 6
_DOMAIN = "agents.localhost"
_TENANT = "bench"
HOST = f"{_TENANT}.{_DOMAIN}"
_NAMESPACE = f"tenant-{_TENANT}"
_AGENT, _GATEWAY, _NGINX = "127.77.0.1", "127.77.0.2", "127.77.0.3"
_AGENT_PORT, _TLS_PORT = 8080, 8443
_TRANSFER = 2**30
_PIECE = bytes(2**17)
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world\n"


class Measured(TypedDict):
    """Each round's median and 99th percentile in ms, by way; wrk's requests a second and curl's MB/s."""

    p50: dict[str, list[float]]
    p99: dict[str, list[float]]
    most: dict[str, float]
    down: dict[str, float]
    up: dict[str, float]


@dataclass(frozen=True)
class Way:
    """Where a request goes: the agent itself, or what stands before it."""

    name: str
    address: str
    port: int
    tls: bool


_DIRECT = Way("direct", _AGENT, _AGENT_PORT, False)
THROUGH = Way("gateway", _GATEWAY, _TLS_PORT, True)
_PEER = Way("nginx", _NGINX, _TLS_PORT, True)


def measure() -> Measured:
    """Measure; what is there already stays as it is."""
    found: Measured = bench_cluster.measure(__name__)
    return found


@contextlib.asynccontextmanager
async def standing() -> AsyncIterator["Edge"]:
    """Run the agent, and Envoy and the gateway before it."""
    folder = Path(tempfile.mkdtemp())
    certificate, key = certificates.issue(_DOMAIN, hosts=[f"*.{_DOMAIN}"])
    (folder / "tls.crt").write_text(certificate, encoding="utf-8")
    (folder / "tls.key").write_text(key, encoding="utf-8")
    signing = Ed25519PrivateKey.generate()
    says = {"aud": _TENANT, "sub": "bench", "exp": int(time.time()) + 3600}
    token = jwt.encode(says, signing, "EdDSA", {"kid": _TENANT})
    await _declare(signing)
    with (
        _running([sys.executable, "-m", "local.bench_gateway", "agent"]),
        _running([sys.executable, "-m", "services.gateway"], _environment(folder, signing)) as gateway,
        _running(_envoy(folder)) as envoy,
    ):
        await _until_answering(THROUGH, request_with(token))
        yield Edge(folder, token, gateway, envoy)
    shutil.rmtree(folder)


async def _measure(console: Console) -> Measured:
    async with standing() as edge:
        return await _compare(edge, console)


async def _compare(edge: "Edge", console: Console) -> Measured:
    folder, token, request = edge.folder, edge.token, request_with(edge.token)
    ways = [_DIRECT, THROUGH]
    if nginx := shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"):
        ways.append(_PEER)
    else:
        console.print("nginx is not installed (Debian's nginx-light), so there is no peer to compare with.")
    with contextlib.ExitStack() as processes:
        if nginx:
            processes.enter_context(_running([nginx, "-c", str(_nginx_conf(folder))]))
        for way in ways:
            await _until_answering(way, request)
        p50: dict[str, list[float]] = {way.name: [] for way in ways}
        p99: dict[str, list[float]] = {way.name: [] for way in ways}
        for turn in range(_ROUNDS):
            for way in ways:
                cuts = statistics.quantiles(await steadily(way, request, _SECONDS), n=100)
                p50[way.name].append(cuts[49] * 1000)
                p99[way.name].append(cuts[98] * 1000)
            told = ", ".join(f"{way.name} {p50[way.name][-1]:.2f}/{p99[way.name][-1]:.2f}" for way in ways)
            console.print(
                f"round {turn + 1}, {CONNECTIONS} connections, {RATE} requests/s, p50/p99 in ms: {told}"
            )
        most = {}
        if wrk := shutil.which("wrk"):
            for way in ways:
                most[way.name] = await asyncio.to_thread(_as_fast_as_it_can, wrk, way, token)
                console.print(f"{way.name}: {most[way.name]:.0f} requests/s at most")
        down: dict[str, float] = {}
        up: dict[str, float] = {}
        if curl := shutil.which("curl"):
            for way in ways:
                down[way.name] = await asyncio.to_thread(_megabytes, curl, way, token)
                up[way.name] = await asyncio.to_thread(_megabytes, curl, way, token, folder / "upload")
                console.print(f"{way.name}: {down[way.name]:.0f} MB/s down, {up[way.name]:.0f} MB/s up")
    return {"p50": p50, "p99": p99, "most": most, "down": down, "up": up}


@dataclass(frozen=True)
class Edge:
    """What runs: its folder with the certificate, a token, and the processes of gateway and Envoy."""

    folder: Path
    token: str
    gateway: "subprocess.Popen[bytes]"
    envoy: "subprocess.Popen[bytes]"


async def _declare(signing: Ed25519PrivateKey) -> None:
    """A tenant whose machine runs at the agent's address."""
    api = Api(Access.find())
    await bench_cluster.define(api, "VirtualMachine", "VirtualMachineInstance")
    for name in ("gateway", _NAMESPACE):
        await api.request("POST", "/api/v1/namespaces", _object("v1", "Namespace", name))
    route = {
        "tenant": _TENANT,
        "tier": "enterprise",
        "state": "active",
        "servedBy": "machine",
        "namespace": _NAMESPACE,
        "idleSeconds": 900,
        "keys": {"keys": [_public(signing, _TENANT)]},
    }
    config_map = _object("v1", "ConfigMap", f"route-{_TENANT}", {"agent-platform/route": _TENANT})
    config_map["data"] = {"route.json": json.dumps(route)}
    await api.request("POST", "/api/v1/namespaces/gateway/configmaps", config_map)
    domain: dict[str, Any] = {"spec": {"domain": {"devices": {}}}}
    machine = _object("kubevirt.io/v1", "VirtualMachine", _NAMESPACE, {"tenant-id": _TENANT})
    machine |= {
        "spec": {"runStrategy": "RerunOnFailure", "template": domain},
        "status": {"printableStatus": "Running", "ready": True, "created": True},
    }
    instance = _object("kubevirt.io/v1", "VirtualMachineInstance", _NAMESPACE, {"tenant-id": _TENANT})
    instance |= domain | {"status": {"phase": "Running", "interfaces": [{"ipAddress": _AGENT}]}}
    for plural, item in (("virtualmachines", machine), ("virtualmachineinstances", instance)):
        await api.request("POST", f"{VIRTUAL_MACHINES}/namespaces/{_NAMESPACE}/{plural}", item)
    await api.close()


def _object(version: str, kind: str, name: str, labels: dict[str, str] | None = None) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": labels or {}}}


def _public(signing: Ed25519PrivateKey, kid: str) -> dict[str, Any]:
    jwk = OKPAlgorithm.to_jwk(signing.public_key(), as_dict=True)
    return {"kid": kid, **{name: jwk[name] for name in ("kty", "crv", "x")}}


def _environment(folder: Path, signing: Ed25519PrivateKey) -> dict[str, str]:
    operators = folder / "operators.json"
    operators.write_text(json.dumps({"keys": [_public(signing, "console")]}), encoding="utf-8")
    assertions = folder / "assertions.pem"
    assertions.write_bytes(signing.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return {
        "DOMAIN": _DOMAIN,
        "POD_NAME": "bench",
        "POD_IP": _GATEWAY,
        "SOCKETS": str(folder),
        "OPERATOR_KEYS": str(operators),
        "ASSERTION_KEY": str(assertions),
        "ROUTES_NAMESPACE": "gateway",
    }


def _envoy(folder: Path) -> list[str]:
    return [executable(), *OPTIONS, "-c", str(prepared(_DOMAIN, _GATEWAY, folder))]


def _nginx_conf(folder: Path) -> Path:
    path = folder / "nginx.conf"
    path.write_text(
        f"""
        daemon off;
        pid {folder}/nginx.pid;
        error_log stderr;
        worker_processes 1;
        events {{ worker_connections 1024; }}
        http {{
            access_log {folder}/access.log;
            client_body_temp_path {folder}/body;
            proxy_temp_path {folder}/proxy;
            fastcgi_temp_path {folder}/fastcgi;
            uwsgi_temp_path {folder}/uwsgi;
            scgi_temp_path {folder}/scgi;
            keepalive_requests 1000000;
            client_max_body_size 0;
            proxy_request_buffering off;
            proxy_max_temp_file_size 0;
            upstream agent {{
                server {_AGENT}:{_AGENT_PORT};
                keepalive {CONNECTIONS};
                keepalive_requests 1000000;
            }}
            server {{
                listen {_NGINX}:{_TLS_PORT} ssl;
                ssl_certificate {folder}/tls.crt;
                ssl_certificate_key {folder}/tls.key;
                location / {{
                    proxy_pass http://agent;
                    proxy_http_version 1.1;
                    proxy_set_header Connection "";
                    proxy_set_header X-Forwarded-For $remote_addr;
                }}
            }}
        }}
        """,
        encoding="utf-8",
    )
    return path


@contextlib.contextmanager
def _running(
    command: Sequence[str], environment: dict[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **(environment or {})}, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


def request_with(token: str) -> bytes:
    """Return a request of the tenant's."""
    return (
        f"GET /hello HTTP/1.1\r\nHost: {_TENANT}.{_DOMAIN}\r\nAuthorization: Bearer {token}\r\n\r\n"
    ).encode()


def _tls(way: Way) -> ssl.SSLContext | None:
    return ssl.create_default_context(cafile=str(certificates.CA_FILE)) if way.tls else None


async def _until_answering(way: Way, request: bytes) -> None:
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await _connect(way)
            status = await _ask(reader, writer, request)
            writer.close()
            if status.startswith(b"HTTP/1.1 200 "):
                return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{way.name} does not answer")
        await asyncio.sleep(0.2)


async def _connect(way: Way) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    name = f"{_TENANT}.{_DOMAIN}" if way.tls else None
    return await asyncio.open_connection(way.address, way.port, ssl=_tls(way), server_hostname=name)


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    """Return the head of the answer, its body read."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    await reader.readexactly(int(length[1]) if length else 0)
    return head


async def steadily(way: Way, request: bytes, seconds: float) -> list[float]:
    """Seconds from when each request was due to its answer: what keeps the next ones waiting counts."""
    taken: list[float] = []
    connections = [await _connect(way) for _ in range(CONNECTIONS)]
    start = time.perf_counter() + 0.1

    async def ask(number: int) -> None:
        reader, writer = connections[number]
        due = start + number / RATE
        while due < start + seconds:
            await asyncio.sleep(due - time.perf_counter())
            head = await _ask(reader, writer, request)
            if not head.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(f"{way.name}: {head!r}")
            taken.append(time.perf_counter() - due)
            due += CONNECTIONS / RATE

    await asyncio.gather(*(ask(number) for number in range(CONNECTIONS)))
    for _, writer in connections:
        writer.close()
    return taken


def _as_fast_as_it_can(wrk: str, way: Way, token: str) -> float:
    url = f"{'https' if way.tls else 'http'}://{way.address}:{way.port}/hello"
    headers = ("-H", f"Host: {_TENANT}.{_DOMAIN}", "-H", f"Authorization: Bearer {token}")
    command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{_SECONDS}s", *headers, url]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Requests/sec:\s+([\d.]+)", told)
    if found is None or "Non-2xx" in told:
        raise RuntimeError(f"{way.name}: {told}")
    return float(found[1])


def _megabytes(curl: str, way: Way, token: str, upload: Path | None = None) -> float:
    """Return the MB/s of a GiB down, or up."""
    url = f"{'https' if way.tls else 'http'}://{way.address}:{way.port}/{'up' if upload else 'down'}"
    command = [curl, "--silent", "--insecure", "--http1.1", "--output", "/dev/null", "--noproxy", "*"]
    command += ["--header", f"Host: {_TENANT}.{_DOMAIN}", "--header", f"Authorization: Bearer {token}"]
    if upload:
        with upload.open("wb") as file:
            file.truncate(_TRANSFER)
        command += ["--upload-file", str(upload)]
    written = f"%{{http_code}} %{{{'speed_upload' if upload else 'speed_download'}}}"
    told = subprocess.run([*command, "--write-out", written, url], capture_output=True, text=True, check=True)
    status, speed = told.stdout.split()
    if status != "200":
        raise RuntimeError(f"{way.name}: {status}")
    return float(speed) / 10**6


class _Agent(asyncio.Protocol):
    """Answers every request at once: /down with a GiB, /up once as much has come, others with a line."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self._to_come = self._to_go = 0
        self._paused = False

    def data_received(self, data: bytes) -> None:
        if self._to_come:
            self._to_come -= len(data)
            if self._to_come <= 0:
                self.transport.write(_ANSWER)
        elif data.startswith(b"PUT /up"):
            head, _, body = data.partition(b"\r\n\r\n")
            self._to_come = _TRANSFER - len(body)
            if b"100-continue" in head.lower():
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif data.startswith(b"GET /down"):
            self._to_go = _TRANSFER
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % _TRANSFER)
            self._go_on()
        else:
            self.transport.write(_ANSWER * data.count(b"\r\n\r\n"))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._go_on()

    def _go_on(self) -> None:
        while self._to_go and not self._paused:
            self._to_go -= len(_PIECE)
            self.transport.write(_PIECE)


async def _serve_agent() -> None:
    server = await asyncio.get_running_loop().create_server(_Agent, _AGENT, _AGENT_PORT)
    await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1:] == ["agent"]:
        uvloop.run(_serve_agent())
    else:
        bench_cluster.main(_measure)
