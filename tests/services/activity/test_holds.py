"""The holds of a process: never a request without one, and seldom a round trip."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from redis.exceptions import ConnectionError as NoConnection

from services.activity import holds
from services.activity.holds import Holds
from services.activity.store import Activity, Machine, Standing, Unreadable
from tests.services.valkey import NOW, Valkey, scripts


@dataclass
class Counting(Activity):
    """The store, with its round trips counted."""

    server: Valkey
    taken: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(self.server.client("gateway"), scripts())

    async def enter(self, holders: Sequence[tuple[str, str]]) -> list[Standing | Unreadable]:
        """Enter, and remember who."""
        self.taken.append([f"{tenant}:{holder}" for tenant, holder in holders])
        return await super().enter(holders)


def held(server: Valkey) -> list[str]:
    return sorted(map(str, server.operator().zrange("activity:acme:holds", 0, -1)))


def test_a_thousand_requests_take_one_round_trip(redis_server: Valkey) -> None:
    async def run() -> None:
        activity = Counting(redis_server)
        ours = Holds(activity, "gateway-7f")
        await asyncio.gather(*(ours.enter("acme") for _ in range(1000)))
        for _ in range(1000):
            ours.leave("acme")
        await ours.enter("acme")
        assert activity.taken == [["acme:gateway-7f/request"]]
        await ours.enter("acme", "stream")
        assert held(redis_server) == ["gateway-7f/request", "gateway-7f/stream"]

    asyncio.run(run())


def test_a_claim_is_looked_at_again_by_each_request(redis_server: Valkey) -> None:
    async def run() -> None:
        activity = Counting(redis_server)
        ours = Holds(activity, "gateway-7f")
        suspender = Activity(redis_server.client("idle-suspender"), scripts())
        redis_server.set_clock(NOW - 40)
        await activity.alive()
        redis_server.set_clock(NOW)
        await suspender.claim(Machine(tenant="acme", limit=1, since=0), "sweep")
        assert (await ours.enter("acme")).claim is not None
        await suspender.withdraw("acme", "sweep")
        assert (await ours.enter("acme")).claim is None
        assert len(activity.taken) == 2

    asyncio.run(run())


def test_holds_in_use_are_renewed_and_the_gateway_reports(
    redis_server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holds, "_RENEW_SECONDS", 0.01)

    async def run() -> None:
        activity = Counting(redis_server)
        ours = Holds(activity, "gateway-7f")
        await ours.enter("acme")
        await ours.enter("other")
        ours.leave("other")
        redis_server.set_clock(NOW + 25)
        task = asyncio.create_task(ours.run())
        operator = redis_server.operator()
        while operator.zscore("activity:acme:holds", "gateway-7f/request") != NOW + 55:
            await asyncio.sleep(0.01)
        while not operator.exists("activity::gateway"):
            await asyncio.sleep(0.01)
        assert operator.zscore("activity:other:holds", "gateway-7f/request") == NOW + 30
        assert operator.hget("activity:acme", "seen") == f"{NOW + 25}.000"
        task.cancel()

    asyncio.run(run())


def test_without_redis_a_hold_still_good_serves_and_others_are_told(
    redis_server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        activity = Counting(redis_server)
        ours = Holds(activity, "gateway-7f")
        await ours.enter("acme")

        async def away(_: Sequence[tuple[str, str]]) -> list[Standing | Unreadable]:
            raise NoConnection("refused")

        monkeypatch.setattr(activity, "enter", away)
        assert (await ours.enter("acme")).claim is None
        found = await asyncio.gather(*(ours.enter("other") for _ in range(5)), return_exceptions=True)
        assert [type(each) for each in found] == [NoConnection] * 5
        monkeypatch.undo()
        await ours.enter("other")

    asyncio.run(run())
