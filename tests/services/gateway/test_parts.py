"""A gateway one of whose parts has failed or ended serves no more: Kubernetes starts it anew."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from services import kube
from services.activity import connection
from services.activity.holds import Holds
from services.gateway import __main__ as program
from services.gateway.in_flight import InFlight
from services.gateway.servers import Server
from services.gateway.settings import HEALTH_PORT, Limits, Settings
from services.kube import Access, Watched
from services.parts import together
from tests.services.gateway import api, harness
from tests.services.gateway.api import CONFIG_MAPS, INSTANCES, MACHINES
from tests.services.gateway.test_routes import declared
from tests.services.valkey import Valkey

ADDRESS = "127.77.99.1"
PODS = "/api/v1/pods"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    keys = json.loads(declared()["data"]["route.json"])["keys"]
    (tmp_path / "operators.json").write_text(json.dumps(keys))
    key = harness.KEYS["assertions"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "assertions.pem").write_bytes(key)
    return Settings(
        domain="agents.localhost",
        pod_name="gateway-7f",
        address=ADDRESS,
        sockets=tmp_path,
        operator_keys=tmp_path / "operators.json",
        assertion_key=tmp_path / "assertions.pem",
        routes_namespace="gateway",
        limits=Limits(drain_seconds=0),
    )


@asynccontextmanager
async def serving(
    settings: Settings, server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[asyncio.Task[None], api.Cluster]]:
    """Run the program's own `serve`, as far as it is ready."""
    async with api.serve() as (kubernetes, client):
        monkeypatch.setattr(Access, "find", lambda: client._access)
        monkeypatch.setattr(connection, "connect", lambda: server.client("gateway"))
        kubernetes.declare("acme")
        running = asyncio.create_task(program.serve(settings))
        try:
            async with asyncio.timeout(30):
                while not running.done() and await _health() != 200:
                    await asyncio.sleep(0.02)
            yield running, kubernetes
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def _health() -> int:
    """Return the status of `/readyz`, 0 if nobody listens."""
    try:
        reader, writer = await asyncio.open_connection(ADDRESS, HEALTH_PORT)
    except OSError:
        return 0
    writer.write(b"GET /readyz HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n")
    status = int((await reader.readline()).split()[1])
    writer.close()
    return status


_PARTS: dict[str, tuple[type, str, str]] = {
    "routes": (Watched, "follow", CONFIG_MAPS),
    "machines": (Watched, "follow", MACHINES),
    "instances": (Watched, "follow", INSTANCES),
    "pods": (Watched, "follow", PODS),
    "holds": (Holds, "run", ""),
    "requests in flight": (InFlight, "run", ""),
    "servers": (Server, "serve", ""),
}


@pytest.mark.parametrize("fails", [True, False])
@pytest.mark.parametrize("part", _PARTS)
def test_a_part_that_fails_or_ends_takes_the_gateway_down(
    settings: Settings, redis_server: Valkey, monkeypatch: pytest.MonkeyPatch, part: str, fails: bool
) -> None:
    kind, name, path = _PARTS[part]
    work: Callable[[Any], Awaitable[None]] = getattr(kind, name)

    async def check() -> None:
        dies = asyncio.Event()

        async def dying(self: Any) -> None:
            working = asyncio.ensure_future(work(self))
            if path and self._path != path:
                await working
            await dies.wait()
            working.cancel()
            if fails:
                raise RuntimeError("a fault of ours")

        monkeypatch.setattr(kind, name, dying)
        async with serving(settings, redis_server, monkeypatch) as (running, _):
            assert await _health() == 200
            dies.set()
            with pytest.raises(ExceptionGroup):
                await asyncio.wait_for(running, 30)
            assert await _health() == 0

    asyncio.run(check())


def test_a_part_that_forgets_a_cancellation_ends_with_the_others() -> None:
    """As `asyncio.wait_for` of Python 3.11 does if it is cancelled in the moment in which it succeeds."""
    forgotten: list[bool] = []
    ended: list[bool] = []

    async def forgetful() -> None:
        try:
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    if forgotten:
                        raise
                    forgotten.append(True)
        finally:
            ended.append(True)

    async def failing() -> None:
        await asyncio.sleep(0.01)
        raise RuntimeError("a fault of ours")

    async def check() -> None:
        inner = together({"forgetful": forgetful()})
        await asyncio.wait_for(together({"inner": inner, "failing": failing()}), 30)

    with pytest.raises(ExceptionGroup) as told:
        asyncio.run(check())

    assert [str(error) for error in told.value.exceptions] == ["a fault of ours"]
    assert (forgotten, ended) == ([True], [True])


def test_odd_objects_of_one_tenant_end_no_part_and_hide_no_other(
    settings: Settings,
    redis_server: Valkey,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def check() -> None:
        async with serving(settings, redis_server, monkeypatch) as (running, kubernetes):
            ready = {"conditions": [{"type": "Ready", "status": "True"}]}
            deep = {"data": {"route.json": "[" * 100_000}, "metadata": {}}
            kubernetes.put(MACHINES, "tenant-acme", {"status": None})
            kubernetes.put(MACHINES, "tenant-acme", {"status": {"conditions": [None]}})
            kubernetes.put(INSTANCES, "tenant-acme", {"status": {"interfaces": "odd"}})
            kubernetes.put(PODS, "tenant-acme", {"status": ready})
            kubernetes.put(CONFIG_MAPS, "route-acme", deep)
            kubernetes.put(CONFIG_MAPS, "route-globex", declared("globex"))
            async with asyncio.timeout(30):
                while "route-acme is no route" not in caplog.text or "cannot be read" not in caplog.text:
                    await asyncio.sleep(0.02)
            assert await _health() == 200
            assert not running.done()
            assert kubernetes.watches == 4

    asyncio.run(check())


def test_what_the_kubernetes_api_says_may_make_no_sense_for_a_while(
    settings: Settings, redis_server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube, "_RETRY_SECONDS", (0.01,))

    async def check() -> None:
        async with serving(settings, redis_server, monkeypatch) as (running, kubernetes):
            for odd in (b"[]", b"{}", b'{"type":"ADDED"}', b'{"type":"ADDED","object":null}', b"[" * 5000):
                await kubernetes.say(odd + b"\n")
            assert await _health() == 200
            assert not running.done()

    asyncio.run(check())
