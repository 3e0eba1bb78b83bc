"""Any value in any key of one tenant's changes nothing that is decided about another."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from services.activity import holds
from services.activity.holds import Holds
from services.activity.store import Activity, Judged, Machine, Published, Standing, Unreadable, Verdict
from tests.services.valkey import NOW, Valkey, scripts

MONTH = "2027-01"
ACME = Machine(tenant="acme", limit=900, since=NOW - 10_000)
OTHER = Machine(tenant="other", limit=900, since=NOW - 10_000)

_KEYS = (
    *("activity:acme", "activity:acme:holds", "activity:acme:leases", "activity:acme:leases:taken"),
    *("activity:acme:generation", "activity:acme:wake"),
    *("suspension:acme", "suspension:acme:verdict", f"usage:acme:{MONTH}"),
)
_FIELDS = ("seen", "ssh", "generation", "state", "until", "decision", "reason", "at", "boot", "job", MONTH)
_TEXTS = (
    "nan",
    "inf",
    "-inf",
    "-1",
    "",
    "0x10",
    "1e400",
    "soon",
    "9" * 14,
    "1.5",
    "007",
    "sent",
    f"{NOW + 9}",
)


@dataclass(frozen=True)
class Odd:
    """A value that somebody has written into a key: a text, or the entries of a list, hash or sorted set."""

    value: bytes | list[bytes] | dict[Any, Any]
    scores: dict[bytes, float] | None = None

    def put(self, server: Valkey, key: str) -> None:
        """Write it in the place of whatever is there."""
        operator = server.operator()
        operator.delete(key)
        if self.scores is not None:
            operator.zadd(key, self.scores)
        elif isinstance(self.value, dict):
            operator.hset(key, mapping=self.value)
        elif isinstance(self.value, list):
            operator.rpush(key, *self.value)
        else:
            operator.set(key, self.value)


_texts = st.sampled_from(_TEXTS).map(str.encode) | st.binary(max_size=8)
_fields = st.sampled_from(_FIELDS).map(str.encode) | st.binary(max_size=8)
_odd = st.one_of(
    _texts.map(Odd),
    st.lists(_texts, min_size=1, max_size=2).map(Odd),
    st.dictionaries(_fields, _texts, min_size=1, max_size=4).map(Odd),
    st.dictionaries(_texts, st.floats(allow_nan=False), min_size=1, max_size=2).map(lambda of: Odd(b"", of)),
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)
@given(key=st.sampled_from(_KEYS), odd=_odd)
@example(key="activity:acme:holds", odd=Odd(b"1"))
@example(key="activity:acme:generation", odd=Odd(b"soon"))
@example(key="activity:acme", odd=Odd({b"seen": b"inf"}))
@example(key="activity:acme:leases", odd=Odd(b"", {b"job": float("inf")}))
@example(key="suspension:acme", odd=Odd({b"until": b"inf", b"generation": b"0"}))
@example(key="suspension:acme:verdict", odd=Odd([b"left"]))
@example(key=f"usage:acme:{MONTH}", odd=Odd({b"1": b"nan"}))
@example(key="activity:acme:wake", odd=Odd({b"boot": b"soon"}))
@example(key="activity:acme", odd=Odd({b"\xff\xfe": b"\xff"}))
def test_what_one_tenants_keys_hold_decides_nothing_about_another(
    redis_server: Valkey, key: str, odd: Odd
) -> None:
    async def run() -> None:
        async with redis_server.client("gateway") as ours, redis_server.client("idle-suspender") as theirs:
            gateway, suspender = Activity(ours, scripts()), Activity(theirs, scripts())
            await gateway.record_wake("other", {"boot": 3})
            odd.put(redis_server, key)

            found, other = await suspender.judge([ACME, OTHER])
            assert other == Judged(kind="idle", seconds=10_000, generation=0)
            if found.kind == "idle":
                assert await suspender.claim(ACME, "sweep") == found
                await suspender.sent("acme", "sweep")
                standing = await gateway.standing("acme")
                assert await gateway.started("acme", standing.generation), "who is suspended can be woken"
            standings = await gateway.enter([("acme", "gateway-7f/stream"), ("other", "gateway-7f/stream")])
            assert standings[1] == Standing(generation=0, claim=None)
            assert not (isinstance(standings[0], Unreadable) and found.kind == "idle")
            await _publish(gateway, suspender)

    _begin(redis_server)
    asyncio.run(run())


async def _publish(gateway: Activity, suspender: Activity) -> None:
    """Publish what is decided of both tenants, and have it read."""
    both = ("acme", "other")
    decided = [Published(tenant=each, decision="awake", reason="so it is") for each in both]
    await gateway.verdicts(both)
    assert (await suspender.publish(decided))[1] == ""
    verdict = Verdict(decision="awake", reason="so it is", at=NOW)
    assert await gateway.verdicts(both) == dict.fromkeys(both, verdict), "the suspender's word replaces any"
    assert (await gateway.usage(both, MONTH))["other"].total == 0
    assert (await gateway.wakes(both))["other"] == {"at": NOW, "boot": 3}


def _begin(server: Valkey) -> None:
    """Have a gateway report for long enough, in an empty store."""
    operator = server.operator()
    operator.flushall()
    operator.hset("activity::gateway", mapping={"since": NOW - 40, "until": NOW + 60})
    server.set_clock(NOW)


def test_a_stream_is_held_while_another_tenants_holds_cannot_be(
    redis_server: Valkey, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(holds, "_RENEW_SECONDS", 0.01)

    async def run() -> None:
        ours = Holds(Activity(redis_server.client("gateway"), scripts()), "gateway-7f")
        operator = redis_server.operator()
        operator.set("activity:acme:holds", "1")
        with pytest.raises(Unreadable, match="activity:acme:holds"):
            await ours.enter("acme", "stream")
        await ours.enter("other", "stream")
        operator.delete("activity:acme:holds")
        await ours.enter("acme", "stream")
        operator.set("activity:acme:generation", "soon")
        redis_server.set_clock(NOW + 25)
        renewing = asyncio.create_task(ours.run())
        async with asyncio.timeout(30):
            while operator.zscore("activity:other:holds", "gateway-7f/stream") != NOW + 55:
                await asyncio.sleep(0.01)
            while "acme is not held" not in caplog.text or "soon" not in caplog.text:
                await asyncio.sleep(0.01)
        renewing.cancel()

    _begin(redis_server)
    asyncio.run(run())


@pytest.mark.parametrize("odd", [Odd(b"1"), Odd({b"until": b"nan"}), Odd({b"until": b"soon", b"since": b""})])
def test_that_gateways_report_is_unreadable_until_one_reports_again(redis_server: Valkey, odd: Odd) -> None:
    async def run() -> None:
        async with redis_server.client("gateway") as ours, redis_server.client("idle-suspender") as theirs:
            gateway, suspender = Activity(ours, scripts()), Activity(theirs, scripts())
            odd.put(redis_server, "activity::gateway")
            (found,) = await suspender.judge([ACME])
            assert found.kind == "unreadable"
            assert "activity::gateway" in found.who
            await gateway.alive()
            (found,) = await suspender.judge([ACME])
            assert found.kind == "new gateway"

    _begin(redis_server)
    asyncio.run(run())


def test_a_hold_that_never_ends_is_told(redis_server: Valkey) -> None:
    async def run() -> None:
        async with redis_server.client("idle-suspender") as theirs:
            redis_server.operator().zadd("activity:acme:holds", {"gateway-7f/request": float("inf")})
            (found,) = await Activity(theirs, scripts()).judge([ACME])
            assert found.kind == "unreadable"
            assert 'gateway-7f/request is "inf"' in found.who

    _begin(redis_server)
    asyncio.run(run())
