"""The steps on a real server, each side as its own user."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from redis.exceptions import NoPermissionError

from services.activity import store
from services.activity.store import Activity, Judged, Machine, Published, Usage
from tests.services.valkey import NOW, Valkey, scripts, serve

IDLE = Machine(tenant="acme", limit=900, since=NOW - 10_000)


def as_both(
    server: Valkey, test: Callable[[Activity, Activity], Awaitable[None]], *, reported: bool = True
) -> None:
    """Run a test as the gateway and as the suspender."""

    async def run() -> None:
        async with server.client("gateway") as ours, server.client("idle-suspender") as theirs:
            gateway = Activity(ours, scripts())
            if reported:
                server.set_clock(NOW - 40)
                await gateway.alive()
                server.set_clock(NOW)
            await test(gateway, Activity(theirs, scripts()))

    asyncio.run(run())


async def judge(suspender: Activity, machine: Machine = IDLE) -> Judged:
    (found,) = await suspender.judge([machine])
    return found


def test_a_machine_without_any_sign_is_idle_since_it_began_to_run(redis_server: Valkey) -> None:
    async def test(gateway: Activity, suspender: Activity) -> None:
        assert await judge(suspender) == Judged(kind="idle", seconds=10_000, generation=0)
        young = Machine(tenant="acme", limit=900, since=NOW - 40)
        assert await judge(suspender, young) == Judged(kind="recent", who="started", seconds=40)

    as_both(redis_server, test)


def test_a_request_holds_its_machine_and_is_remembered(redis_server: Valkey) -> None:
    async def test(gateway: Activity, suspender: Activity) -> None:
        await gateway.enter([("acme", "gateway-7f/request")])
        await gateway.alive()
        assert await judge(suspender) == Judged(kind="hold", who="gateway-7f/request")
        redis_server.set_clock(NOW + 31)
        assert await judge(suspender) == Judged(kind="recent", who="seen", seconds=31)
        redis_server.set_clock(NOW + 900)
        assert (await judge(suspender)).kind == "no gateway"
        await gateway.alive()
        assert await judge(suspender) == Judged(kind="new gateway", seconds=0)
        redis_server.set_clock(NOW + 931)
        assert await judge(suspender) == Judged(kind="idle", seconds=931)

    as_both(redis_server, test)


@pytest.mark.parametrize("signal", ["ssh", "load", "network"])
def test_what_a_guest_reports_is_a_sign(redis_server: Valkey, signal: store.Signal) -> None:
    async def test(gateway: Activity, suspender: Activity) -> None:
        await gateway.report("acme", [signal])
        assert await judge(suspender) == Judged(kind="recent", who=signal)

    as_both(redis_server, test)


def test_a_claim_is_told_to_requests_and_refuses_leases(redis_server: Valkey) -> None:
    async def test(gateway: Activity, suspender: Activity) -> None:
        assert (await suspender.claim(IDLE, "one")).kind == "idle"
        (standing,) = await gateway.enter([("acme", "gateway-7f/request")])
        assert standing == store.Standing(generation=0, claim=store.Claim(state="claimed", seconds=30))
        assert await gateway.take_lease("acme", "job", 60) == "suspending"
        assert not await gateway.started("acme", 0)
        await suspender.sent("acme", "one")
        assert await gateway.started("acme", 0)
        assert not await gateway.started("acme", 0), "somebody else has"
        assert await gateway.standing("acme") == store.Standing(generation=1, claim=None)
        assert await gateway.take_lease("acme", "job", 60) == NOW + 60

    as_both(redis_server, test)


def test_two_sweeps_claim_once_and_settle_only_their_own(redis_server: Valkey) -> None:
    async def test(gateway: Activity, suspender: Activity) -> None:
        found = await asyncio.gather(*(suspender.claim(IDLE, f"sweep-{number}") for number in range(20)))
        assert sorted(each.kind for each in found) == ["claimed"] * 19 + ["idle"]
        winner = next(number for number, each in enumerate(found) if each.kind == "idle")
        await suspender.withdraw("acme", f"sweep-{(winner + 1) % 20}")
        assert (await gateway.standing("acme")).claim is not None
        await suspender.withdraw("acme", f"sweep-{winner}")
        assert (await gateway.standing("acme")).claim is None

    as_both(redis_server, test)


def test_a_lease_ends_at_its_cap_and_is_refused_until_it_is_released(redis_server: Valkey) -> None:
    async def test(gateway: Activity, suspender: Activity) -> None:
        assert await gateway.take_lease("acme", "job", 100_000) == NOW + store.LEASE_SECONDS
        assert await judge(suspender) == Judged(kind="lease", who="job", at=NOW + store.LEASE_SECONDS)
        for passed in range(500, store.LEASE_CAP_SECONDS, 500):
            redis_server.set_clock(NOW + passed)
            end = await gateway.take_lease("acme", "job", 600)
        assert end == NOW + store.LEASE_CAP_SECONDS
        redis_server.set_clock(NOW + store.LEASE_CAP_SECONDS)
        assert await gateway.take_lease("acme", "job", 600) == "cap"
        redis_server.set_clock(NOW + store.LEASE_CAP_SECONDS + 5000)
        assert await gateway.take_lease("acme", "other", 600) == NOW + store.LEASE_CAP_SECONDS + 5600
        assert await gateway.take_lease("acme", "job", 600) == "cap"
        await gateway.release_lease("acme", "job")
        assert await gateway.take_lease("acme", "job", 600) == NOW + store.LEASE_CAP_SECONDS + 5600

    as_both(redis_server, test)


def test_a_lease_that_was_let_lapse_starts_anew(redis_server: Valkey) -> None:
    async def test(gateway: Activity, suspender: Activity) -> None:
        await gateway.take_lease("acme", "nightly", 60)
        redis_server.set_clock(NOW + store.LEASE_CAP_SECONDS + 1)
        assert isinstance(await gateway.take_lease("acme", "nightly", 60), float)

    as_both(redis_server, test)


def test_a_machine_holds_no_more_than_32_leases(redis_server: Valkey) -> None:
    async def test(gateway: Activity, suspender: Activity) -> None:
        for number in range(32):
            assert isinstance(await gateway.take_lease("acme", f"job-{number}", 60), float)
        assert await gateway.take_lease("acme", "job-32", 60) == "many"
        assert isinstance(await gateway.take_lease("acme", "job-0", 60), float)

    as_both(redis_server, test)


@pytest.mark.parametrize(
    ("key", "value"),
    [("activity:acme", "yesterday"), ("activity:acme", "nan"), ("activity:acme:generation", "x")],
)
def test_what_does_not_parse_is_no_idleness(redis_server: Valkey, key: str, value: str) -> None:
    async def test(gateway: Activity, suspender: Activity) -> None:
        operator = redis_server.operator()
        if key.endswith("generation"):
            operator.set(key, value)
        else:
            operator.hset(key, "seen", value)
        found = await suspender.claim(IDLE, "one")
        assert found.kind == "unreadable"
        assert key in found.who
        assert (await judge(suspender, Machine(tenant="other", limit=1, since=0))).kind == "idle"

    as_both(redis_server, test)


def test_a_key_of_another_type_is_no_idleness(redis_server: Valkey) -> None:
    async def test(gateway: Activity, suspender: Activity) -> None:
        redis_server.operator().set("activity:acme:holds", "1")
        found = await judge(suspender)
        assert found.kind == "unreadable"
        assert "WRONGTYPE" in found.who

    as_both(redis_server, test)


def test_without_a_gateway_that_reports_nothing_is_idle(redis_server: Valkey) -> None:
    async def test(gateway: Activity, suspender: Activity) -> None:
        assert (await judge(suspender)).kind == "no gateway"
        assert (await suspender.claim(IDLE, "one")).kind == "no gateway"

    as_both(redis_server, test, reported=False)


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_after_a_jump_of_the_clock_nothing_is_idle_until_the_gateways_have_reported(
    redis_server: Valkey, jump: int
) -> None:
    async def test(gateway: Activity, suspender: Activity) -> None:
        await gateway.enter([("acme", "gateway-7f/stream")])
        redis_server.set_clock(NOW + jump)
        assert (await judge(suspender)).kind in ("no gateway", "new gateway", "hold")
        await gateway.alive()
        redis_server.set_clock(NOW + jump + 29)
        assert (await judge(suspender)).kind in ("new gateway", "hold")

    as_both(redis_server, test)


def test_a_sign_ahead_of_the_clock_is_no_idleness(redis_server: Valkey) -> None:
    async def test(gateway: Activity, suspender: Activity) -> None:
        redis_server.operator().hset("activity:acme", "ssh", NOW + 3600)
        assert await judge(suspender) == Judged(kind="future", who="ssh", seconds=3600)

    as_both(redis_server, test)


def test_a_server_that_has_just_started_may_have_forgotten() -> None:
    async def run(redis_server: Valkey) -> None:
        async with redis_server.client("gateway") as ours, redis_server.client("idle-suspender") as theirs:
            redis_server.operator().hset("activity::gateway", mapping={"since": 0, "until": 2**33})
            (found,) = await Activity(theirs).judge([IDLE])
            assert found.kind == "new server"
            assert await Activity(ours).now() <= await Activity(theirs).now()

    with serve() as new:
        asyncio.run(run(new))


def test_a_verdict_replaces_the_one_before(redis_server: Valkey) -> None:
    async def test(gateway: Activity, suspender: Activity) -> None:
        seen = Published(tenant="acme", decision="awake", reason="young")
        assert await suspender.publish([seen, seen]) == ["", "awake"]
        redis_server.set_clock(NOW + 60)
        stopped = Published(tenant="acme", decision="suspended", reason="idle 17 min")
        await suspender.publish([stopped])
        found = (await gateway.verdicts(["acme", "other"])).get("acme")
        assert found == store.Verdict(decision="suspended", reason="idle 17 min", at=NOW + 60)

    as_both(redis_server, test)


def test_the_time_awake_of_a_month_is_kept_by_day(redis_server: Valkey) -> None:
    async def test(gateway: Activity, _: Activity) -> None:
        async with redis_server.client("accounting") as theirs:
            accounting = Activity(theirs)
            told = {
                "acme": Usage(awake_seconds={1: 60.0, 2: 5.0}, last_awake=NOW),
                "quiet": Usage(awake_seconds={}),
            }
            await accounting.record_usage("2027-01", told)
            await accounting.record_usage("2027-01", {"acme": Usage(awake_seconds={2: 7.5})})
        found = await gateway.usage(["acme", "quiet", "other"], "2027-01")
        assert found["acme"] == Usage(awake_seconds={1: 60.0, 2: 7.5}, last_awake=NOW)
        assert (found["acme"].total, found["quiet"].total, found["other"].total) == (67.5, 0, 0)
        assert (await gateway.usage(["acme"], "2027-02"))["acme"].total == 0

    as_both(redis_server, test)


def test_the_last_wake_and_the_last_sweep_are_kept(redis_server: Valkey) -> None:
    async def test(gateway: Activity, suspender: Activity) -> None:
        await gateway.record_wake("acme", {"seconds": 4.5, "boot": 3})
        assert await gateway.wakes(["acme", "other"]) == {"acme": {"at": NOW, "seconds": 4.5, "boot": 3}}
        await suspender.record_sweep({"at": NOW, "suspended": 2})
        assert await gateway.last_sweep() == {"at": NOW, "suspended": 2}

    as_both(redis_server, test)


def test_neither_side_writes_what_is_the_others(redis_server: Valkey) -> None:
    async def run() -> None:
        async with redis_server.client("gateway") as ours, redis_server.client("idle-suspender") as theirs:
            with pytest.raises(NoPermissionError):
                await ours.hset("suspension:acme", "generation", "1")
            with pytest.raises(NoPermissionError):
                await theirs.hset("activity:acme", "seen", "1")
            for client in (ours, theirs):
                with pytest.raises(NoPermissionError):
                    await client.get("other")
                with pytest.raises(NoPermissionError):
                    await client.keys()

    asyncio.run(run())


def test_a_server_that_forgets_its_scripts_is_told_again(redis_server: Valkey) -> None:
    async def test(gateway: Activity, suspender: Activity) -> None:
        await gateway.standing("acme")
        redis_server.operator().script_flush()
        assert (await gateway.standing("acme")).generation == 0

    as_both(redis_server, test)
