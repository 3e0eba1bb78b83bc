"""A sweep with a real Redis; the API server is a stand-in that answers as KubeVirt does."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from redis.exceptions import RedisError

from services.activity.store import Activity
from services.idle_suspender.sweep import Sweep
from services.kube import UNREACHABLE, Access, Api
from tests.services.valkey import NOW, Valkey, scripts


def machine(tenant: str, *, since: float = NOW - 10_000, **status: Any) -> dict[str, Any]:
    """Return a tenant's machine as KubeVirt shows it."""
    return {
        "metadata": {
            "name": f"tenant-{tenant}",
            "namespace": f"tenant-{tenant}",
            "uid": tenant,
            "labels": {"tenant-id": tenant},
            "annotations": {"agent-platform/idle-seconds": "900"},
        },
        "spec": {"runStrategy": "RerunOnFailure"},
        "status": {
            "printableStatus": "Running",
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "lastTransitionTime": datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                }
            ],
            **status,
        },
    }


@dataclass
class Cluster:
    """What the stand-in knows, and what was asked of it."""

    machines: list[dict[str, Any]]
    answer: int = 202
    stops: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def list(self, request: web.Request) -> web.Response:
        """Answer a page."""
        begin, limit = int(request.query.get("continue", 0)), int(request.query["limit"])
        end = begin + limit
        metadata = {"continue": str(end)} if end < len(self.machines) else {}
        return web.json_response({"items": self.machines[begin:end], "metadata": metadata})

    async def stop(self, request: web.Request) -> web.Response:
        """Take or refuse a stop."""
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        await asyncio.sleep(0.01)
        self.at_once -= 1
        self.stops.append(request.match_info["name"])
        return web.json_response({"message": "so it is"}, status=self.answer)

    async def event(self, request: web.Request) -> web.Response:
        """Keep an event."""
        self.events.append(await request.json())
        return web.json_response({}, status=201)

    def serve(self) -> TestServer:
        """Return a server."""
        app = web.Application()
        subresources = "/apis/subresources.kubevirt.io/v1/namespaces/{namespace}/virtualmachines/{name}"
        app.router.add_get("/apis/kubevirt.io/v1/virtualmachines", self.list)
        app.router.add_put(f"{subresources}/stop", self.stop)
        app.router.add_post("/api/v1/namespaces/{namespace}/events", self.event)
        return TestServer(app)


@dataclass
class Place:
    """Where a sweep takes place."""

    gateway: Activity
    suspender: Activity
    api: Api
    clock: float = NOW

    async def sweep(self) -> dict[str, int]:
        """Sweep once."""
        return await Sweep(self.api, self.suspender, lambda: self.clock).run()

    async def reason(self, tenant: str) -> str:
        """Return the last verdict."""
        found = (await self.gateway.verdicts([tenant]))[tenant]
        return f"{found.decision}: {found.reason}"


def at(server: Valkey, cluster: Cluster, test: Callable[[Place], Awaitable[None]]) -> None:
    """Run a test."""

    async def run() -> None:
        async with server.client("gateway") as ours, server.client("idle-suspender") as theirs:
            gateway = Activity(ours, scripts())
            for now in (NOW - 40, NOW):
                server.set_clock(now)
                await gateway.alive()
            async with cluster.serve() as served:
                access = Access(server=str(served.make_url("")).rstrip("/"), tls=ssl.create_default_context())
                api = Api(access)
                try:
                    await test(Place(gateway, Activity(theirs, scripts()), api))
                finally:
                    await api.close()

    asyncio.run(run())


def test_the_idle_are_stopped_and_every_decision_has_a_reason(redis_server: Valkey) -> None:
    cluster = Cluster(
        [
            machine("idle"),
            machine("busy"),
            machine("working"),
            machine("young", since=NOW - 40),
            machine("asleep", printableStatus="Stopped"),
        ]
    )

    async def test(place: Place) -> None:
        await place.gateway.enter([("busy", "gateway-7f/stream")])
        await place.gateway.take_lease("working", "job-42", 300)
        assert await place.sweep() == {"awake": 3, "suspended": 1, "left": 0, "failed": 0}
        assert cluster.stops == ["tenant-idle"]
        assert [(each["reason"], each["message"]) for each in cluster.events] == [("Suspended", "idle 2 h")]
        assert await place.reason("idle") == "suspended: idle 2 h"
        assert await place.reason("busy") == "awake: open stream (gateway-7f)"
        assert await place.reason("working") == "awake: lease `job-42` until 08:05 UTC"
        assert await place.reason("young") == "awake: young (started 40 s ago)"
        standing = await place.gateway.standing("idle")
        assert standing.claim is not None and standing.claim.state == "sent"
        assert (await place.gateway.last_sweep() or {})["suspended"] == 1

    at(redis_server, cluster, test)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"printableStatus": "Migrating"}, "migrates"),
        ({"printableStatus": "Paused"}, "paused"),
        ({"snapshotInProgress": "backup"}, "snapshot"),
        ({"restoreInProgress": "restore"}, "restored"),
        ({"stateChangeRequests": [{"action": "Stop"}]}, "under way"),
        ({"conditions": []}, "not ready"),
    ],
)
def test_what_is_not_simply_running_is_left(
    redis_server: Valkey, changed: dict[str, Any], reason: str
) -> None:
    cluster = Cluster([machine("acme", **changed)])

    async def test(place: Place) -> None:
        assert (await place.sweep())["left"] == 1
        assert cluster.stops == []
        assert reason in await place.reason("acme")

    at(redis_server, cluster, test)


@pytest.mark.parametrize("told", ["soon", "0", "-5", "1.5", "٣"])
def test_a_limit_that_is_none_leaves_the_machine(redis_server: Valkey, told: str) -> None:
    found = machine("acme")
    found["metadata"]["annotations"]["agent-platform/idle-seconds"] = told
    cluster = Cluster([found])

    async def test(place: Place) -> None:
        assert (await place.sweep())["left"] == 1
        assert told in await place.reason("acme")

    at(redis_server, cluster, test)


@pytest.mark.parametrize(
    ("key", "field", "value"),
    [
        ("activity:acme", "seen", "inf"),
        ("activity:acme", "seen", "nan"),
        ("activity:acme:holds", "", "1"),
        ("activity:acme:leases", "", "1"),
        ("activity:acme:generation", "", "soon"),
        ("suspension:acme", "until", "inf"),
        ("suspension:acme", "", "1"),
    ],
)
def test_what_redis_keeps_of_one_tenant_leaves_that_one_alone_running(
    redis_server: Valkey, key: str, field: str, value: str
) -> None:
    cluster = Cluster([machine("acme"), machine("busy"), machine("idle")])

    async def test(place: Place) -> None:
        operator = redis_server.operator()
        if field:
            operator.hset(key, field, value)
        else:
            operator.set(key, value)
        await place.gateway.enter([("busy", "gateway-7f/stream")])
        assert await place.sweep() == {"awake": 1, "suspended": 1, "left": 1, "failed": 0}
        assert await place.reason("busy") == "awake: open stream (gateway-7f)"
        assert cluster.stops == ["tenant-idle"]
        assert f"left: its activity cannot be read: {key}" in await place.reason("acme")

    at(redis_server, cluster, test)


def test_a_verdict_of_another_type_stops_no_others_verdict(redis_server: Valkey) -> None:
    cluster = Cluster([machine("acme"), machine("idle")])

    async def test(place: Place) -> None:
        redis_server.operator().set("suspension:acme:verdict", "odd")
        assert (await place.sweep())["suspended"] == 2
        assert await place.reason("acme") == "suspended: idle 2 h"
        assert await place.reason("idle") == "suspended: idle 2 h"

    at(redis_server, cluster, test)


@pytest.mark.parametrize("odd", [{"at": "nan"}, {"at": "soon"}, "of another type"])
def test_an_unreadable_last_sweep_leaves_every_machine_for_one_sweep(
    redis_server: Valkey, odd: dict[Any, Any] | str
) -> None:
    cluster = Cluster([machine("acme")])

    async def test(place: Place) -> None:
        operator = redis_server.operator()
        if isinstance(odd, str):
            operator.set("suspension::sweep", odd)
        else:
            operator.hset("suspension::sweep", mapping=odd)
        assert (await place.sweep())["left"] == 1
        assert "what Redis keeps of the last sweep cannot be read" in await place.reason("acme")
        assert (await place.sweep())["suspended"] == 1

    at(redis_server, cluster, test)


def _without(*path: str) -> dict[str, Any]:
    found: dict[str, Any] = machine("acme")
    part: Any = found
    for step in path[:-1]:
        part = part[int(step)] if isinstance(part, list) else part[step]
    del part[path[-1]]
    return found


def _annotated(limit: str) -> dict[str, Any]:
    found = machine("acme")
    found["metadata"]["annotations"]["agent-platform/idle-seconds"] = limit
    return found


@pytest.mark.parametrize(
    "odd",
    [
        machine("acme", conditions=None),
        machine("acme", conditions=[None]),
        machine("acme", conditions=["Ready"]),
        _without("status", "conditions", "0", "type"),
        machine("acme", conditions=[{"type": "Ready", "status": "True", "lastTransitionTime": "soon"}]),
        machine("acme", printableStatus=["Running"]),
        _annotated("9" * 5000),
        {**machine("acme"), "status": "Running"},
    ],
)
def test_a_machine_that_cannot_be_read_is_left_alone_and_no_other_is(
    redis_server: Valkey, odd: dict[str, Any]
) -> None:
    cluster = Cluster([odd, machine("idle")])

    async def test(place: Place) -> None:
        counts = await place.sweep()
        assert (counts["left"], counts["suspended"]) == (1, 1)
        assert cluster.stops == ["tenant-idle"]
        assert (await place.reason("acme")).startswith("left: ")

    at(redis_server, cluster, test)


@pytest.mark.parametrize("strategy", ["Always", "Halted", "Once"])
def test_a_machine_that_could_not_be_woken_as_it_is_declared_is_left(
    redis_server: Valkey, strategy: str
) -> None:
    cluster = Cluster([{**machine("acme"), "spec": {"runStrategy": strategy}}])

    async def test(place: Place) -> None:
        assert (await place.sweep())["left"] == 1
        assert f"left: its run strategy is {strategy}" in await place.reason("acme")
        assert cluster.stops == []

    at(redis_server, cluster, test)


def test_a_machine_out_of_its_tenants_namespace_is_left(redis_server: Valkey) -> None:
    found = machine("acme")
    found["metadata"]["namespace"] = "tenant-other"
    cluster = Cluster([found])

    async def test(place: Place) -> None:
        assert (await place.sweep())["left"] == 1
        assert cluster.stops == []

    at(redis_server, cluster, test)


@pytest.mark.parametrize("off", [-61, 61])
def test_clocks_that_differ_leave_every_machine(redis_server: Valkey, off: int) -> None:
    cluster = Cluster([machine("acme")])

    async def test(place: Place) -> None:
        place.clock = NOW + off
        assert (await place.sweep())["left"] == 1
        assert await place.reason("acme") == "left: Redis' clock and this computer's differ by 61 s"
        assert cluster.stops == []

    at(redis_server, cluster, test)


def test_a_clock_that_jumped_back_leaves_every_machine_for_one_sweep(redis_server: Valkey) -> None:
    cluster = Cluster([machine("acme")])

    async def test(place: Place) -> None:
        await place.suspender.record_sweep({"at": NOW + 50})
        assert (await place.sweep())["left"] == 1
        assert "jumped back by 50 s" in await place.reason("acme")
        assert (await place.sweep())["suspended"] == 1

    at(redis_server, cluster, test)


def test_two_sweeps_at_once_stop_each_machine_once_and_few_at_a_time(redis_server: Valkey) -> None:
    cluster = Cluster([machine(f"t{number}") for number in range(600)])

    async def test(place: Place) -> None:
        one, two = await asyncio.gather(place.sweep(), place.sweep())
        assert one["suspended"] + two["suspended"] == 600
        assert sorted(cluster.stops) == sorted({f"tenant-t{number}" for number in range(600)})
        assert cluster.most_at_once <= 32, "sixteen of each sweep"

    at(redis_server, cluster, test)


@pytest.mark.parametrize(("answer", "withdrawn"), [(409, True), (403, True), (500, False), (504, False)])
def test_a_claim_is_withdrawn_only_if_no_stop_can_arrive(
    redis_server: Valkey, answer: int, withdrawn: bool
) -> None:
    cluster = Cluster([machine("acme")], answer=answer)

    async def test(place: Place) -> None:
        assert (await place.sweep())["failed"] == 1
        assert f"refuses to stop it: {answer} so it is" in await place.reason("acme")
        assert ((await place.gateway.standing("acme")).claim is None) is withdrawn
        assert [each["reason"] for each in cluster.events] == ["SuspendFailed"]
        redis_server.set_clock(NOW + 31)
        place.clock = NOW + 31
        await place.gateway.alive()
        assert (await place.sweep())["failed"] == 1
        assert len(cluster.events) == 1, "nothing has changed"

    at(redis_server, cluster, test)


def test_without_redis_or_an_api_server_nothing_is_stopped(redis_server: Valkey) -> None:
    cluster = Cluster([machine("acme")])

    async def test(place: Place) -> None:
        async with Valkey(port=1).client("idle-suspender") as nobody:
            with pytest.raises(RedisError):
                await Sweep(place.api, Activity(nobody)).run()
        nowhere = Api(Access(server="http://127.0.0.1:1", tls=ssl.create_default_context()))
        with pytest.raises(UNREACHABLE):
            await Sweep(nowhere, place.suspender, lambda: NOW).run()
        await nowhere.close()
        assert cluster.stops == []

    at(redis_server, cluster, test)
