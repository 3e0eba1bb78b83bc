"""The agents' API over HTTP, with a real Valkey, asked by the runtime's own client and by worse ones."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import aiohttp
import jwt
import pytest

from services.activity.holds import Holds
from services.activity.store import LEASE_CAP_SECONDS, Activity
from services.agent_runtime import identity
from services.agent_runtime.credentials import Assertion
from services.agent_runtime.gateway import Gateway as Client
from services.agent_runtime.gateway import StoppingError
from services.agent_runtime.identity import Identity, NotReadyError
from services.gateway import internal
from services.gateway.assertions import Assertions
from services.gateway.cluster import Cluster
from services.gateway.in_flight import Asked, InFlight
from services.gateway.routes import Routes
from tests.services.gateway import api
from tests.services.gateway.api import route
from tests.services.gateway.harness import KEYS, Table, served
from tests.services.valkey import Valkey


def account_token(tenant: str, *, expires: float = 600, namespace: str = "tenant-") -> str:
    says = {"sub": f"system:serviceaccount:{namespace}{tenant}:agent", "exp": int(time.time() + expires)}
    return jwt.encode(says, "not looked at: the API server is asked" * 2, "HS256")


@dataclass(frozen=True)
class Agents:
    """The API, and what is behind it."""

    base: str
    cluster: api.Cluster
    server: Valkey
    session: aiohttp.ClientSession
    folder: Path
    in_flight: InFlight
    assertions: Assertions

    @asynccontextmanager
    async def asked(self, tenant: str) -> AsyncIterator[str]:
        """Have a request of the tenant's in flight; yield its assertion."""
        request = f"request-{time.monotonic()}"
        await self.in_flight.enter(request, Asked(tenant, "ada", "request"))
        try:
            yield self.assertions.of_request(request)
        finally:
            self.in_flight.leave(request)

    def known(self, tenant: str) -> str:
        """Return a token that the API server knows."""
        token = account_token(tenant)
        self.cluster.tokens[token] = f"system:serviceaccount:tenant-{tenant}:agent"
        return token

    async def ask(self, method: str, path: str, token: str | None, body: Any = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.request(method, self.base + path, data=data, headers=headers) as answer:
            return answer.status, await answer.json() if answer.content_type == "application/json" else None

    def client(self, tenant: str) -> Client:
        """Return what an agent's runtime uses."""
        file = self.folder / "token"
        file.write_text(self.known(tenant))
        server = identity.Server(address=self.base, authority=None)
        known = Identity(
            tenant=tenant,
            tier="enterprise",
            vault=server,
            login="",
            role="",
            secrets="",
            logins="",
            database=None,
            gateway=server,
        )
        return Client(known, file)


@asynccontextmanager
async def serving(server: Valkey, folder: Path) -> AsyncIterator[Agents]:
    server.operator().flushall()
    redis = server.client("gateway")
    table = Table(route("acme"), route("globex"), route("paused", state="suspended"))
    async with api.serve() as (kubernetes, connection), aiohttp.ClientSession() as session:
        activity, routes = Activity(redis), cast(Routes, table)
        in_flight = InFlight(Holds(activity, "gateway-7f"), routes)
        assertions = Assertions(KEYS["assertions"], in_flight)
        application = internal.application(Cluster(connection), activity, routes, assertions)
        try:
            async with served(application) as base:
                yield Agents(base, kubernetes, server, session, folder, in_flight, assertions)
                await session.close()
        finally:
            await redis.aclose()


@pytest.fixture
def check(server: Valkey, tmp_path: Path) -> Callable[[Callable[[Agents], Awaitable[None]]], None]:
    def run(what: Callable[[Agents], Awaitable[None]]) -> None:
        async def whole() -> None:
            async with serving(server, tmp_path) as agents:
                await what(agents)

        asyncio.run(asyncio.wait_for(whole(), 60))

    return run


Check = Callable[[Callable[[Agents], Awaitable[None]]], None]


def claim(server: Valkey, tenant: str) -> None:
    """Have the suspender be about to stop a machine."""
    fields: dict[Any, Any] = {"generation": 0, "state": "claimed", "by": "sweep", "until": time.time() + 30}
    server.operator().hset(f"suspension:{tenant}", mapping=fields)


def test_a_lease_is_held_while_an_agent_works_and_given_back(check: Check) -> None:
    async def what(agents: Agents) -> None:
        def work() -> tuple[Any, Any]:
            with agents.client("acme").lease(threading.Event()):
                held = agents.server.operator().zcard("activity:acme:leases")
            return held, agents.server.operator().zcard("activity:acme:leases")

        assert await asyncio.to_thread(work) == (1, 0)
        assert not agents.server.operator().exists("activity:globex:leases")

    check(what)


def test_no_work_is_begun_on_a_machine_that_is_about_to_stop(check: Check) -> None:
    async def what(agents: Agents) -> None:
        claim(agents.server, "acme")

        def work() -> None:
            with agents.client("acme").lease(threading.Event()):
                raise AssertionError

        with pytest.raises(StoppingError, match="about to be stopped"):
            await asyncio.to_thread(work)
        status, _ = await agents.ask("PUT", "/v1/leases/job", agents.known("globex"), {"seconds": 60})
        assert status == 200

    check(what)


def test_a_lease_keeps_awake_for_as_long_as_one_may_and_no_longer(check: Check) -> None:
    async def what(agents: Agents) -> None:
        token, redis = agents.known("acme"), agents.server.operator()
        status, said = await agents.ask("PUT", "/v1/leases/job", token, {"seconds": 60})
        assert (status, said["until"] - time.time()) == (200, pytest.approx(60, abs=10))
        taken = time.time() - LEASE_CAP_SECONDS + 30
        redis.hset("activity:acme:leases:taken", "job", str(taken))
        status, said = await agents.ask("PUT", "/v1/leases/job", token, {"seconds": 60})
        assert (status, said["until"] - time.time()) == (200, pytest.approx(30, abs=10))
        redis.hset("activity:acme:leases:taken", "job", str(taken - 31))
        status, said = await agents.ask("PUT", "/v1/leases/job", token, {"seconds": 60})
        assert (status, "as long as one lease may" in said["error"]) == (403, True)

    check(what)


def test_what_the_guest_reports_is_noted_for_its_own_tenant(check: Check) -> None:
    async def what(agents: Agents) -> None:
        await asyncio.to_thread(agents.client("acme").report, ["ssh", "load"])
        noted = agents.server.operator().hgetall("activity:acme")
        assert {"ssh", "load"} <= noted.keys()
        assert "network" not in noted
        assert not agents.server.operator().exists("activity:globex")

    check(what)


def test_nobody_is_taken_at_their_word(check: Check) -> None:
    async def what(agents: Agents) -> None:
        foreign = account_token("platform", namespace="")
        agents.cluster.tokens[foreign] = "system:serviceaccount:platform:x"
        for token in (None, "x", "a.b.c", "x" * 9000, account_token("acme", expires=-60), foreign):
            assert (await agents.ask("PUT", "/v1/leases/job", token, {"seconds": 60}))[0] == 401
        assert agents.cluster.reviews == 0
        # Looks right, and the API server does not know it.
        assert (await agents.ask("PUT", "/v1/leases/job", account_token("acme"), {"seconds": 60}))[0] == 401
        assert agents.cluster.reviews == 1
        for stranger in ("paused", "nobody"):
            token = agents.known(stranger)
            assert (await agents.ask("PUT", "/v1/leases/job", token, {"seconds": 60}))[0] == 403
        assert agents.server.operator().keys("activity:*") == []

    check(what)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/v1/leases/job", b"", 400),
        ("PUT", "/v1/leases/job", b"[" * 4000, 400),
        ("PUT", "/v1/leases/job", b"x" * 5000, 413),
        ("PUT", "/v1/leases/job", {"seconds": 60, "cap": 1}, 400),
        ("PUT", "/v1/leases/job", {"seconds": True}, 400),
        ("PUT", "/v1/leases/job", {"seconds": 0}, 400),
        ("PUT", "/v1/leases/job", {"seconds": 10**9}, 400),
        ("PUT", "/v1/leases/job%00", {"seconds": 60}, 400),
        ("PUT", f"/v1/leases/{'a' * 300}", {"seconds": 60}, 400),
        ("POST", "/v1/activity", {"signals": ["seen"]}, 400),
        ("POST", "/v1/activity", {"signals": "ssh"}, 400),
        ("POST", "/v1/activity", {"signals": [["ssh"]]}, 400),
        ("GET", "/v1/activity", {}, 405),
        ("GET", "/v1/tenants", {}, 404),
    ],
)
def test_what_is_malformed_is_refused_and_changes_nothing(
    check: Check, method: str, path: str, body: Any, status: int
) -> None:
    async def what(agents: Agents) -> None:
        assert (await agents.ask(method, path, agents.known("acme"), body))[0] == status
        assert agents.server.operator().keys("activity:*") == []

    check(what)


def test_without_the_api_server_or_redis_an_agent_is_told_to_ask_again(check: Check) -> None:
    async def what(agents: Agents) -> None:
        agents.cluster.away = True
        assert (await agents.ask("POST", "/v1/activity", agents.known("acme"), {"signals": ["ssh"]}))[
            0
        ] == 503
        agents.cluster.away = False
        agents.server.operator().execute_command("ACL", "SETUSER", "gateway", "off")  # type: ignore[no-untyped-call]
        agents.server.operator().execute_command("CLIENT", "KILL", "USER", "gateway")  # type: ignore[no-untyped-call]
        try:
            status, _ = await agents.ask("POST", "/v1/activity", agents.known("acme"), {"signals": ["ssh"]})
        finally:
            agents.server.operator().execute_command("ACL", "SETUSER", "gateway", "on")  # type: ignore[no-untyped-call]
        assert status == 503

    check(what)


def test_a_run_in_flight_gets_a_word_for_itself_and_no_other_does(check: Check) -> None:
    async def what(agents: Agents) -> None:
        async with agents.asked("acme") as given:
            status, said = await agents.ask("POST", "/v1/assertions", given)
            assert (status, list(said)) == (200, ["assertion"])
            renewed = jwt.decode(said["assertion"], options={"verify_signature": False})
            before = jwt.decode(given, options={"verify_signature": False})
            same = ("tenant", "sub", "aud", "iss", "jti")
            assert [renewed[name] for name in same] == [before[name] for name in same]
            # A run that has waited for long is let in again all the same: its request is still in flight.
            late = jwt.encode({**before, "exp": before["iat"] - 600}, KEYS["assertions"], "EdDSA")
            assert (await agents.ask("POST", "/v1/assertions", late))[0] == 200
            # What it says besides its request counts for nothing.
            other = jwt.encode({**before, "tenant": "globex", "sub": "eve"}, KEYS["assertions"], "EdDSA")
            _, said = await agents.ask("POST", "/v1/assertions", other)
            claims = jwt.decode(said["assertion"], options={"verify_signature": False})
            assert (claims["tenant"], claims["sub"]) == ("acme", "ada")
        status, said = await agents.ask("POST", "/v1/assertions", given)
        assert (status, "is over" in said["error"]) == (401, True)

    check(what)


def test_nobody_else_gets_a_word(check: Check) -> None:
    async def what(agents: Agents) -> None:
        async with agents.asked("acme") as given:
            claims = jwt.decode(given, options={"verify_signature": False})
            forged = jwt.encode(claims, KEYS["acme"], "EdDSA")
            unsigned = jwt.encode(claims, "", "none")
            elsewhere = jwt.encode({**claims, "aud": "gateway"}, KEYS["assertions"], "EdDSA")
            unknown = jwt.encode({**claims, "jti": "guessed"}, KEYS["assertions"], "EdDSA")
            nameless = jwt.encode({**claims, "jti": None}, KEYS["assertions"], "EdDSA")
            account = agents.known("acme")
            for token in (None, "", "x", "x" * 9000, forged, unsigned, elsewhere, unknown, nameless, account):
                assert (await agents.ask("POST", "/v1/assertions", token))[0] == 401
            # Nor is the word an account's token.
            assert (await agents.ask("POST", "/v1/activity", given, {"signals": ["ssh"]}))[0] == 401
        async with agents.asked("paused") as given:
            assert (await agents.ask("POST", "/v1/assertions", given))[0] == 403

    check(what)


def test_the_runtime_shows_a_word_once_and_then_a_new_one(check: Check) -> None:
    async def what(agents: Agents) -> None:
        server = identity.Server(address=agents.base, authority=None)
        async with agents.asked("acme") as given:
            word = Assertion(given, server)
            assert word.shown() == given
            again = await asyncio.to_thread(word.shown)
            assert agents.assertions.tenant(again) == "acme"
        with pytest.raises(NotReadyError, match=r"does not renew .* is over"):
            await asyncio.to_thread(word.shown)

    check(what)
