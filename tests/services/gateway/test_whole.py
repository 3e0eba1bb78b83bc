"""The program itself behind Envoy, as its pod runs it."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwt.algorithms import OKPAlgorithm

from infra.platform.envoy import PUBLIC_PORT
from services.activity import connection
from services.gateway import __main__ as program
from services.gateway.settings import Limits, Settings
from services.kube import Access
from tests.services.gateway import api, harness
from tests.services.gateway.harness import DOMAIN, KEYS, token
from tests.services.valkey import Valkey

ACME = "tenant-acme"


def jwks(name: str) -> dict[str, Any]:
    """Return the public key of that name as a set."""
    jwk = OKPAlgorithm.to_jwk(KEYS[name].public_key(), as_dict=True)
    return {"keys": [{"kid": name, **{field: jwk[field] for field in ("kty", "crv", "x")}}]}


class Whole:
    """What runs."""

    def __init__(self, base: str, kubernetes: api.Cluster, running: "asyncio.Task[None]") -> None:
        self.base = base
        self.kubernetes = kubernetes
        self.running = running

    def client(self, count: int, *, http2: bool = False) -> httpx.AsyncClient:
        """Return a client with so many connections."""
        return httpx.AsyncClient(
            http1=not http2,
            http2=http2,
            verify=False,
            trust_env=False,
            timeout=60,
            base_url=self.base,
            headers={"Authorization": f"Bearer {token('acme')}", "Host": f"acme.{DOMAIN}"},
            limits=httpx.Limits(max_connections=count),
        )


@asynccontextmanager
async def whole(folder: Path, server: Valkey, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Whole]:
    folder, address = harness.prepared(folder, {})
    keys = jwks("console")
    (folder / "operators.json").write_text(json.dumps(keys))
    key = harness.KEYS["assertions"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "assertions.pem").write_bytes(key)
    settings = Settings(
        domain=DOMAIN,
        pod_name="gateway-7f",
        address=address,
        sockets=folder,
        operator_keys=folder / "operators.json",
        assertion_key=folder / "assertions.pem",
        routes_namespace="gateway",
        limits=Limits(drain_seconds=3),
    )
    async with api.serve() as (kubernetes, client):
        monkeypatch.setattr(Access, "find", lambda: client._access)
        monkeypatch.setattr(connection, "connect", lambda: server.client("gateway"))
        kubernetes.declare("acme", keys=jwks("acme"))
        kubernetes.machine(ACME, "Stopped")
        running = asyncio.create_task(program.serve(settings))
        envoy = harness.envoy(folder)
        found = Whole(f"https://{address}:{PUBLIC_PORT}", kubernetes, running)
        try:
            async with httpx.AsyncClient(verify=False, trust_env=False) as probe:
                await until(lambda: _is_ready(probe, found.base))
            yield found
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            envoy.kill()
            envoy.wait(10)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.05)


async def _is_ready(probe: httpx.AsyncClient, base: str) -> bool:
    try:
        return (await probe.get(f"{base}/.gateway/readyz")).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_thousand_requests_to_who_sleeps_are_answered_by_one_start(
    tmp_path: Path, redis_server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        async with whole(tmp_path, redis_server, monkeypatch) as here, AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(here.client(1, http2=True)) for _ in range(10)]
            answers = await asyncio.gather(*(client.get("/") for client in clients for _ in range(100)))
            assert {(answer.status_code, answer.text) for answer in answers} == {(200, "hello")}
            assert here.kubernetes.starts[ACME] == 1

    asyncio.run(check())


def test_told_to_end_it_answers_who_is_held_and_lets_streams_go_on_for_a_while(
    tmp_path: Path, redis_server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        async with whole(tmp_path, redis_server, monkeypatch) as here, here.client(200) as client:
            assert (await client.get("/")).status_code == 200
            streams = [
                await client.send(client.build_request("GET", "/stream"), stream=True) for _ in range(50)
            ]
            begun = [stream.aiter_raw() for stream in streams]
            assert [await anext(lines) for lines in begun] == [b"begins"] * 50
            # From here on whoever asks is held: the machine is said to be going.
            here.kubernetes.ready = 503
            here.kubernetes.instance(ACME, "Running", "another", address="127.77.0.1")
            held = [asyncio.create_task(client.get("/")) for _ in range(100)]
            holders = redis_server.operator()
            await asyncio.sleep(1)
            assert not any(task.done() for task in held)

            os.kill(os.getpid(), signal.SIGTERM)

            answers = await asyncio.gather(*held)
            assert {(answer.status_code, answer.headers["retry-after"]) for answer in answers} == {(503, "2")}
            await asyncio.wait_for(here.running, 30)
            # What is still in flight has been held to the last, and Envoy, which ends next, resets it.
            assert holders.zscore("activity:acme:holds", "gateway-7f/request") is not None
            for stream in streams:
                await stream.aclose()

    asyncio.run(check())
