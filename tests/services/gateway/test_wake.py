"""Waking, with a real Valkey and a Kubernetes API over HTTP whose machines do as a test says."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from redis.asyncio import Redis

from services import kube
from services.activity.holds import Holds
from services.activity.store import Activity, Claim
from services.gateway.cluster import Cluster
from services.gateway.routes import Routes
from services.gateway.wake import CannotWake, StillWaking, Wakes
from tests.services import valkey
from tests.services.gateway import api
from tests.services.gateway.api import route
from tests.services.valkey import Valkey

_SECONDS = 60
ACME = "tenant-acme"


@dataclass(frozen=True)
class Gateway:
    """The parts of a gateway that wake, and the cluster they see."""

    api: api.Cluster
    cluster: Cluster
    routes: Routes
    activity: Activity
    holds: Holds
    wakes: Wakes

    async def get(self, tenant: str = "acme", patience: float = _SECONDS) -> str:
        """Do what is done for every request before it is proxied."""
        standing = await self.holds.enter(tenant)
        try:
            return await self.wakes.awake(route(tenant), patience, standing.claim)
        finally:
            self.holds.leave(tenant)


@asynccontextmanager
async def gateway(server: Valkey, *asleep: str, **limits: Any) -> AsyncIterator[Gateway]:
    server.operator().flushall()
    client = server.client("gateway")
    activity = Activity(client)
    async with api.serve() as (kubernetes, connection):
        for tenant in asleep:
            kubernetes.declare(tenant)
            kubernetes.machine(f"tenant-{tenant}", "Stopped")
        cluster, routes = Cluster(connection), Routes(connection, "gateway")
        wakes = Wakes(cluster, activity, routes, **limits)
        following = asyncio.gather(cluster.follow(), routes.follow())
        await until(lambda: cluster.synced and routes.synced.is_set() and kubernetes.watches == 4)
        try:
            yield Gateway(kubernetes, cluster, routes, activity, Holds(activity, "gateway-1"), wakes)
        finally:
            await wakes.close()
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await client.aclose()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 2 * _SECONDS))


def test_a_thousand_requests_start_a_sleeping_machine_once(server: Valkey) -> None:
    async def check() -> None:
        async with gateway(server, "acme") as here:
            addresses = await asyncio.gather(*(here.get() for _ in range(1000)))
            assert set(addresses) == {here.cluster.machine(route("acme")).address}
            assert here.api.starts[ACME] == 1
            assert here.wakes.state(route("acme")).phase == "awake"
            await until(lambda: here.api.events and server.operator().exists("activity:acme:wake"))
            (wake,) = (await here.activity.wakes(["acme"])).values()
            phases = sum(wake[phase] for phase in ("queued", "start", "boot", "ready"))
            assert wake["seconds"] == pytest.approx(phases, abs=0.1)
            assert [event["reason"] for event in here.api.events] == ["Woken"]

    run(check())


def test_a_request_while_a_stop_is_under_way_ends_in_a_wake(server: Valkey) -> None:
    async def check() -> None:
        async with gateway(server, "acme") as here:
            await here.api.run(ACME)
            await here.get()
            server.operator().delete("activity:acme:holds")
            claim: dict[Any, Any] = {"generation": 0, "state": "claimed", "by": "sweep"}
            claim["until"] = time.time() + 30
            server.operator().hset("suspension:acme", mapping=claim)
            other = Holds(here.activity, "gateway-2")
            standing = await other.enter("acme")
            assert standing.claim is not None
            asked = asyncio.create_task(here.wakes.awake(route("acme"), _SECONDS, standing.claim))
            await until(lambda: here.wakes.state(route("acme")).phase == "queued")
            await here.api.stop(ACME)
            assert not asked.done()
            assert here.api.starts[ACME] == 0
            server.operator().hset("suspension:acme", "state", "sent")
            await asked
            assert here.api.starts[ACME] == 1
            assert server.operator().get("activity:acme:generation") == "1"

    run(check())


def test_wakes_queue_up_and_all_come_through(server: Valkey) -> None:
    tenants = ["acme", "globex", "paused"]

    async def check() -> None:
        async with gateway(server, *tenants, at_once=1) as here:
            here.api.ready = 503
            asked = [asyncio.create_task(here.get(tenant)) for tenant in tenants]
            await until(lambda: any(here.wakes.state(route(tenant)).phase == "ready" for tenant in tenants))
            phases = sorted(here.wakes.state(route(tenant)).phase for tenant in tenants)
            assert phases == ["queued", "queued", "ready"]
            here.api.ready = 200
            assert len(set(await asyncio.gather(*asked))) == 3

    run(check())


def test_two_hundred_tenants_at_once_start_a_few_at_a_time_and_each_once(server: Valkey) -> None:
    tenants, at_once = [f"tenant{number:03}" for number in range(200)], 16
    most = 0

    async def check() -> None:
        nonlocal most
        async with gateway(server, *tenants, at_once=at_once) as here:
            run_at_once = here.api.started
            booting: set[asyncio.Task[None]] = set()

            async def boot(name: str) -> None:
                await asyncio.sleep(0.02)
                await run_at_once(name)

            async def begin(name: str) -> None:
                nonlocal most
                task = asyncio.create_task(boot(name))
                booting.add(task)
                task.add_done_callback(booting.discard)
                begun = [here.wakes.state(route(tenant)).phase for tenant in tenants]
                most = max(most, len([phase for phase in begun if phase in ("start", "boot", "ready")]))

            here.api.started = begin
            addresses = await asyncio.gather(*(here.get(tenant) for tenant in tenants))
            assert len(set(addresses)) == len(tenants)
            assert here.api.starts == {f"tenant-{tenant}": 1 for tenant in tenants}

    run(check())
    assert 1 < most <= at_once


def test_more_requests_than_may_wait_are_told_at_once(server: Valkey) -> None:
    async def check() -> None:
        async with gateway(server, "acme", waiting=2) as here:
            here.api.ready = 503
            asked = [asyncio.create_task(here.get()) for _ in range(2)]
            await until(lambda: here.wakes.state(route("acme")).phase == "ready")
            with pytest.raises(StillWaking):
                await here.get()
            here.api.ready = 200
            await asyncio.gather(*asked)

    run(check())


def test_patience_runs_out_and_the_wake_goes_on(server: Valkey) -> None:
    async def check() -> None:
        async with gateway(server, "acme") as here:
            here.api.ready = 503
            with pytest.raises(StillWaking) as still:
                await here.get(patience=0.5)
            assert still.value.retry_after > 0
            here.api.ready = 200
            await until(lambda: here.wakes.state(route("acme")).phase == "awake")
            await here.get()
            assert here.api.starts[ACME] == 1

    run(check())


@pytest.mark.parametrize(
    ("status", "phase", "kind"),
    [
        ("ErrorUnschedulable", "Scheduling", "no-capacity"),
        ("ErrImagePull", "Scheduling", "image"),
        ("ErrorPvcNotFound", "Pending", "volume"),
        ("CrashLoopBackOff", "Failed", "crash-loop"),
    ],
)
def test_failures_are_told_apart_and_paused_after(server: Valkey, status: str, phase: str, kind: str) -> None:
    async def check() -> None:
        async with gateway(server, "acme") as here:

            async def fails(name: str) -> None:
                here.api.instance(name, phase, message="so it is")
                here.api.machine(name, status)

            here.api.started = fails
            with pytest.raises(CannotWake) as cannot:
                await here.get()
            assert cannot.value.kind == kind
            assert here.wakes.state(route("acme")).phase == "failed"
            with pytest.raises(CannotWake) as again:
                await here.get()
            assert 0 < again.value.retry_after <= 5
            assert here.api.starts[ACME] == 1
            await until(lambda: here.api.events)
            assert here.api.events[0]["reason"] == "WakeFailed"

    run(check())


def test_a_machine_that_ends_again_and_again_is_a_crash_loop(server: Valkey) -> None:
    async def check() -> None:
        async with gateway(server, "acme") as here:

            async def crash(name: str) -> None:
                for number in itertools.count():
                    here.api.instance(name, "Running", f"run-{number}", address="127.0.0.1")
                    here.api.machine(name, "Running")
                    await asyncio.sleep(1.2)

            crashing: list[asyncio.Task[None]] = []

            async def begin(name: str) -> None:
                crashing.append(asyncio.create_task(crash(name)))

            here.api.started = begin
            with pytest.raises(CannotWake) as cannot:
                await here.get()
            crashing[0].cancel()
            assert cannot.value.kind == "crash-loop"

    run(check())


def test_a_guest_that_answers_slowly_is_heard_and_not_overrun(server: Valkey) -> None:
    async def check() -> None:
        async with gateway(server, "acme") as here:
            # Longer than what a guest that boots quickly is given, and than a look at the cluster lasts.
            here.api.answers_after = 1.5
            await here.get()
            assert here.api.starts[ACME] == 1

    run(check())


def test_a_guest_has_a_few_questions_before_it_at_most(server: Valkey) -> None:
    async def check() -> None:
        async with gateway(server, "acme", limit=4) as here:
            here.api.answers_after = 60
            with pytest.raises(CannotWake):
                await here.get()
            assert 1 < here.api.asked_at_once <= 6

    run(check())


def test_agents_that_never_get_ready(server: Valkey) -> None:
    async def check() -> None:
        async with gateway(server, "acme", limit=2) as here:
            here.api.ready = 503
            with pytest.raises(CannotWake) as cannot:
                await here.get()
            assert cannot.value.kind == "not-ready"

    run(check())


@pytest.mark.parametrize("state", ["suspended", "offboarding"])
def test_only_active_tenants_are_woken(server: Valkey, state: str) -> None:
    async def check() -> None:
        async with gateway(server, "acme") as here:
            here.api.declare("acme", state=state)
            await until(lambda: here.routes.all()[0].state == state)
            with pytest.raises(CannotWake) as cannot:
                await here.wakes.awake(route("acme"), 1)
            assert cannot.value.kind == "not-active"
            assert not here.api.starts

    run(check())


def test_a_machine_that_is_declared_not_to_run_is_not_started_though_no_watch_tells(server: Valkey) -> None:
    async def check() -> None:
        async with gateway(server, "acme") as here:
            here.api.silent = True
            here.api.machine(ACME, "Stopped", strategy="Halted")
            with pytest.raises(CannotWake) as cannot:
                await here.get()
            assert cannot.value.kind == "not-active"
            assert not here.api.starts

    run(check())


@contextmanager
def claimed(server: Valkey) -> Iterator[Claim]:
    """Have the suspender's claim on acme's machine; after it, its stop has been taken."""
    kept: dict[Any, Any] = {"generation": 0, "state": "claimed", "by": "sweep", "until": time.time() + 30}
    server.operator().hset("suspension:acme", mapping=kept)
    yield Claim(state="claimed", seconds=30)
    server.operator().hset("suspension:acme", "state", "sent")


@pytest.mark.parametrize("change", ["suspended", "offboarding", "no route", "deployment"])
@pytest.mark.parametrize("silent", [False, True])
def test_a_request_held_since_before_its_tenant_was_suspended_starts_nothing(
    server: Valkey, change: str, silent: bool
) -> None:
    async def check() -> None:
        async with gateway(server, "acme") as here:
            with claimed(server) as claim:
                asked = asyncio.create_task(here.wakes.awake(route("acme"), _SECONDS, claim))
                await until(lambda: here.wakes.state(route("acme")).phase == "queued")
                here.api.silent = silent
                if change == "no route":
                    here.api.delete(api.CONFIG_MAPS, "route-acme")
                else:
                    kind = "servedBy" if change == "deployment" else "state"
                    here.api.declare("acme", **{kind: change})
            with pytest.raises(CannotWake) as cannot:
                await asked
            assert cannot.value.kind == "not-active"
            assert not here.api.starts

    run(check())


def test_a_tenant_that_is_suspended_while_its_wake_takes_its_turn_is_not_started(
    server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check() -> None:
        async with gateway(server, "acme") as here:
            begin = here.activity.started

            async def started(tenant: str, generation: int) -> bool:
                here.api.silent = True
                here.api.declare("acme", state="suspended")
                here.api.machine(ACME, "Stopped", strategy="Halted")
                return await begin(tenant, generation)

            monkeypatch.setattr(here.activity, "started", started)
            with pytest.raises(CannotWake) as cannot:
                await here.get()
            assert cannot.value.kind == "not-active"
            assert not here.api.starts

    run(check())


def test_a_wake_counts_nothing_of_a_run_that_ended_before_it_was_ready(server: Valkey) -> None:
    async def check() -> None:
        async with gateway(server, "acme") as here:
            here.api.ready = 503
            asked = asyncio.create_task(here.get())
            await until(lambda: (here.wakes.state(route("acme")).seconds or 0) > 2)
            stopped = time.monotonic()
            await here.api.stop(ACME)
            here.api.ready = 200
            await asked
            took = time.monotonic() - stopped
            await until(lambda: server.operator().exists("activity:acme:wake"))
            (wake,) = (await here.activity.wakes(["acme"])).values()
            assert here.api.starts[ACME] == 2
            assert wake["seconds"] < took + 0.5
            phases = sum(wake[phase] for phase in ("queued", "start", "boot", "ready"))
            assert wake["seconds"] == pytest.approx(phases, abs=0.1)

    run(check())


def test_a_machine_that_cannot_be_read_is_its_tenants_trouble_alone(server: Valkey) -> None:
    async def check() -> None:
        async with gateway(server, "acme", "globex") as here:
            here.api.put(api.MACHINES, ACME, {"status": {"conditions": ["odd"]}})
            with pytest.raises(CannotWake) as cannot:
                await here.get()
            assert cannot.value.kind == "unknown"
            assert "cannot be read" in cannot.value.detail
            assert await here.get("globex")
            here.api.machine(ACME, "Stopped")
            await until(lambda: here.cluster.machine(route("acme")).status == "off")

    run(check())


def test_a_watch_that_has_gone_silent_is_listed_again(
    server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube, "_SILENCE_SECONDS", 0.2)

    async def check() -> None:
        async with gateway(server, "acme") as here:
            here.api.silent = True
            await here.api.run(ACME)
            await until(lambda: here.cluster.machine(route("acme")).status == "running")

    run(check())


def test_without_redis_the_awake_are_served_and_the_asleep_stay_so(server: Valkey) -> None:
    async def check() -> None:
        async with gateway(server, "acme", "globex") as here:
            await here.api.run(ACME)
            await here.get()
            wakes = Wakes(here.cluster, Activity(Redis(port=1, decode_responses=True)), here.routes)
            assert await wakes.awake(route("acme"), _SECONDS)
            with pytest.raises(StillWaking):
                await wakes.awake(route("globex"), 1)
            await wakes.close()
            assert not here.api.starts

    run(check())


def test_a_wake_waits_for_redis_to_come_back() -> None:
    async def check() -> None:
        port = valkey.free_port()
        with valkey.serve(port) as first:
            context = gateway(first, "acme")
            here = await context.__aenter__()
        try:
            asked = asyncio.create_task(here.wakes.awake(route("acme"), _SECONDS))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(asked), 1)
            assert not here.api.starts
            with valkey.serve(port):
                await asked
                assert here.api.starts[ACME] == 1
        finally:
            await context.__aexit__(None, None, None)

    run(check())


def test_a_wake_that_has_begun_needs_no_redis() -> None:
    async def check() -> None:
        with valkey.serve() as only:
            context = gateway(only, "acme")
            here = await context.__aenter__()
            here.api.ready = 503
            asked = asyncio.create_task(here.get())
            await until(lambda: here.wakes.state(route("acme")).phase == "ready")
        try:
            here.api.ready = 200
            assert await asked
        finally:
            await context.__aexit__(None, None, None)

    run(check())


def test_a_wake_outlives_an_api_server_that_is_away(server: Valkey) -> None:
    async def check() -> None:
        async with gateway(server, "acme") as here:
            here.api.away = True
            here.api.break_watches()
            asked = asyncio.create_task(here.get())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(asked), 1)
            here.api.away = False
            await asked
            assert here.api.starts[ACME] == 1

    run(check())


def test_a_watch_that_is_too_old_begins_anew(server: Valkey) -> None:
    async def check() -> None:
        async with gateway(server, "acme") as here:
            here.api.break_watches(gone=True)
            here.api.machine("tenant-globex", "Stopped")
            await until(lambda: here.cluster.machine(route("globex")).status == "off")

    run(check())
