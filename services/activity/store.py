"""What is kept in Redis of tenants' activity and of suspensions, and the steps that change it.

Each step is one script in `lua/` and so happens at once or not at all. All times are seconds since 1970 by
Redis' clock, the only one. Every method raises one of `connection.UNREACHABLE` if Redis is away or refuses.

Keys: `activity:TENANT…` is written by the gateway alone, `suspension:TENANT…` by the suspender alone, and
`usage:TENANT…`, a copy of figures from the ledger in PostgreSQL, by the accounting alone.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

Kind = Literal["request", "stream"]
Signal = Literal["ssh", "load", "network"]
Refused = Literal["suspending", "cap", "many"]
Decision = Literal["awake", "suspended", "left", "failed"]

HOLD_SECONDS = 30
"""How long a hold lasts unless it is renewed (`HOLD_SECONDS` of common.lua)."""

LEASE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""What a lease may be called."""

LEASE_SECONDS = 600
"""The longest that a lease is given at a time."""

LEASE_CAP_SECONDS = 4 * 3600
"""How long one lease can keep its machine awake in all."""

_LEASES = 32
_FOLDER = Path(__file__).parent / "lua"
_SWEEP = "suspension::sweep"
_UNTIL = "until"
_USAGE_KEPT_SECONDS = 70 * 86_400
_DAYS = 31
_LARGEST = 10**11
"""Seconds: no time or span that the platform writes is as large, or below nothing."""


class Unreadable(RedisError):  # noqa: N818 - it is a state of one tenant, not of the connection
    """A value in Redis that the platform does not write for a tenant; the message names key and value."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The suspender is about to stop this run of the machine, or has."""

    state: Literal["claimed", "sent"]
    """`sent`: KubeVirt has taken the stop, so none can arrive any more that is not seen in the machine."""
    seconds: float
    """When it lapses; by then no stop can arrive any more."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a machine stands between gateway and suspender."""

    generation: int
    """How often it was started."""
    claim: Claim | None


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Whether a machine is idle, and if not, why it is left running."""

    kind: Literal[
        "idle",
        "recent",
        "hold",
        "lease",
        "claimed",
        "unreadable",
        "future",
        "no gateway",
        "new gateway",
        "new server",
    ]
    who: str = ""
    """The signal, holder or lease; what is unreadable."""
    seconds: float = 0
    """How long ago the last sign was; how far off a clock is."""
    at: float = 0
    """When a lease ends."""
    generation: int = 0


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine to be judged."""

    tenant: str
    limit: int
    """Seconds without any sign after which it is idle."""
    since: float
    """When it began to run."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the suspender decided last about a tenant's machine."""

    decision: Decision
    reason: str
    at: float

    def told(self) -> str:
        """Return the reason, after what it has led to if that is neither sleep nor activity."""
        return {"left": "left running: ", "failed": "not suspended: "}.get(self.decision, "") + self.reason


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The running time of a machine or pod in a month, by the ledger."""

    awake_seconds: Mapping[int, float]
    """The time awake by day of the month (UTC); a day without any is absent."""
    last_awake: float | None = None
    """The last time that it was seen running; None: never."""

    @property
    def total(self) -> float:
        """The seconds of the month so far."""
        return sum(self.awake_seconds.values())


@dataclass(frozen=True, kw_only=True)
class Published:
    """A verdict as the suspender hands it in."""

    tenant: str
    decision: Decision
    reason: str


class Activity:
    """The store, for either side; what a side may not do, its Redis user is refused."""

    def __init__(self, redis: Redis, scripts: Mapping[str, str] | None = None) -> None:
        """Use a client that decodes answers (`connection.connect`)."""
        self._redis = redis
        self._scripts = scripts or compose()
        self._digests: dict[str, str] = {}

    # The gateway's side.

    async def enter(self, holders: Sequence[tuple[str, str]]) -> list[Standing | Unreadable]:
        """Hold machines, each given as tenant and holder (`INSTANCE/KIND`), for `HOLD_SECONDS`.

        One that is unreadable is not held, and never found idle.
        """
        if not holders:
            return []
        found = await self._json("enter", *(part for holder in holders for part in holder))
        return [Unreadable(each["unreadable"]) if "unreadable" in each else _standing(each) for each in found]

    async def standing(self, tenant: str) -> Standing:
        """Where the machine stands now."""
        return _standing(await self._json("standing", tenant))

    async def started(self, tenant: str, generation: int) -> bool:
        """Begin a new run of a machine seen stopped at that generation; only then may it be started.

        False: somebody else has begun one since, or a stop can still arrive. Look again.
        """
        return bool(await self._run("started", tenant, generation))

    async def take_lease(self, tenant: str, name: str, seconds: int) -> float | Refused:
        """Take or renew a work lease; return when it ends, or why there is none."""
        answer = await self._json(
            "lease", tenant, name, min(seconds, LEASE_SECONDS), LEASE_CAP_SECONDS, _LEASES
        )
        refused: Refused | None = answer.get("refused")
        return refused or float(answer["until"])

    async def release_lease(self, tenant: str, name: str) -> None:
        """Give a lease back; that there is none is no error."""
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.zrem(f"activity:{tenant}:leases", name)
            pipeline.hdel(f"activity:{tenant}:leases:taken", name)
            await pipeline.execute()

    async def report(self, tenant: str, signals: Iterable[Signal]) -> None:
        """Note what the guest reports of itself."""
        await self._run("report", tenant, *signals)

    async def record_wake(self, tenant: str, phases: Mapping[str, float]) -> None:
        """Keep how many seconds the phases of the last wake took, and `seconds` in all."""
        await self._run("wake", tenant, *(part for phase in phases.items() for part in phase))

    async def alive(self) -> None:
        """Tell that a gateway reports; without, the suspender leaves every machine running."""
        await self._run("alive")

    # The suspender's side.

    async def now(self) -> float:
        """The time."""
        return float(await self._run("now"))

    async def judge(self, machines: Sequence[Machine]) -> list[Judged]:
        """Judge machines, and change nothing."""
        if not machines:
            return []
        told = (part for machine in machines for part in (machine.tenant, machine.limit, machine.since))
        return [Judged(**each) for each in await self._json("judge", *told)]

    async def claim(self, machine: Machine, by: str) -> Judged:
        """Judge a machine, and if it is idle, claim it for `by`, a name that no other attempt has."""
        return Judged(**await self._json("claim", machine.tenant, machine.limit, machine.since, by))

    async def sent(self, tenant: str, by: str) -> None:
        """Say that KubeVirt has taken the stop."""
        await self._run("settle", tenant, by, "sent")

    async def withdraw(self, tenant: str, by: str) -> None:
        """Give the claim back; only if it is certain that no stop will arrive."""
        await self._run("settle", tenant, by, "withdrawn")

    async def publish(self, verdicts: Sequence[Published]) -> list[str]:
        """Publish verdicts; return the decision before each, empty where there was none."""
        if not verdicts:
            return []
        told = (part for each in verdicts for part in (each.tenant, each.decision, each.reason))
        return [str(before) for before in await self._json("publish", *told)]

    async def record_sweep(self, counts: Mapping[str, float]) -> None:
        """Keep the summary of a sweep, with `at`."""
        await self._run("summary", *(part for pair in counts.items() for part in pair))

    # The accounting's side.

    async def record_usage(self, month: str, usage: Mapping[str, Usage]) -> None:
        """Keep how long tenants' machines ran in `month` (YYYY-MM); days that are not named stay."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for tenant, told in usage.items():
                key = _usage_key(tenant, month)
                fields: dict[Any, Any] = {str(day): value for day, value in told.awake_seconds.items()}
                if told.last_awake is not None:
                    fields[_UNTIL] = told.last_awake
                if fields:
                    pipeline.hset(key, mapping=fields)
                    pipeline.expire(key, _USAGE_KEPT_SECONDS)
            await pipeline.execute()

    # For whoever shows it.

    async def last_sweep(self) -> dict[str, float] | None:
        """The summary of the last sweep; empty if there was none, None if it is unreadable."""
        (found,) = await self._hashes([_SWEEP])
        figures = _figures(found)
        return None if isinstance(found, RedisError) or len(figures) < len(found) else figures

    async def verdicts(self, tenants: Sequence[str]) -> dict[str, Verdict]:
        """The last verdict on each tenant's machine, if there is one."""
        found = await self._hashes(f"suspension:{tenant}:verdict" for tenant in tenants)
        return {tenant: _verdict(each) for tenant, each in zip(tenants, found, strict=True) if each}

    async def usage(self, tenants: Sequence[str], month: str) -> dict[str, Usage]:
        """Return how long each machine ran in `month` (YYYY-MM); whose record is unreadable is absent."""
        found = await self._hashes(_usage_key(tenant, month) for tenant in tenants)
        read = {tenant: _usage(each) for tenant, each in zip(tenants, found, strict=True)}
        return {tenant: usage for tenant, usage in read.items() if usage is not None}

    async def wakes(self, tenants: Sequence[str]) -> dict[str, dict[str, float]]:
        """The last wake of each tenant's machine, if there was one: `at`, and what was recorded."""
        found = await self._hashes(f"activity:{tenant}:wake" for tenant in tenants)
        wakes = {tenant: _figures(each) for tenant, each in zip(tenants, found, strict=True)}
        return {tenant: wake for tenant, wake in wakes.items() if wake}

    async def _hashes(self, keys: Iterable[str]) -> list[dict[str, str] | RedisError]:
        """Return the contents of the hashes, or the error of Redis for a key that is no hash."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.hgetall(key)
            found: list[dict[str, str] | RedisError] = await pipeline.execute(raise_on_error=False)
        return found

    async def _json(self, script: str, *arguments: str | float) -> Any:
        return json.loads(await self._run(script, *arguments))

    async def _run(self, script: str, *arguments: str | float) -> Any:
        """Run a script by its digest; a server that does not know it, or has forgotten it, is told."""
        try:
            if script in self._digests:
                return await self._redis.evalsha(self._digests[script], 0, *arguments)
        except NoScriptError:
            pass
        self._digests[script] = await self._redis.script_load(self._scripts[script])
        return await self._redis.evalsha(self._digests[script], 0, *arguments)


def compose(folder: Path = _FOLDER) -> dict[str, str]:
    """The scripts by their names, each with what it shares with others before it."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.lua")}
    common, rule = texts.pop("common"), texts.pop("rule")
    return {
        name: common + (rule if name in ("judge", "claim") else "") + text for name, text in texts.items()
    }


def _standing(found: Mapping[str, Any]) -> Standing:
    claim = found.get("claim")
    return Standing(
        generation=int(found["generation"]),
        claim=Claim(state=claim["state"], seconds=float(claim["seconds"])) if claim else None,
    )


def _verdict(found: Mapping[str, str] | RedisError) -> Verdict:
    """Read a verdict; one that makes no sense is one to leave the machine running, and says so."""
    if isinstance(found, RedisError):
        return Verdict(decision="left", reason=f"its last verdict cannot be read: {found}", at=0)
    decision, at = found.get("decision"), _number(found.get("at"))
    known = next((each for each in get_args(Decision) if each == decision), None)
    if known is None or at is None or "reason" not in found:
        odd = ", ".join(f'{name} "{found.get(name, "")[:40]}"' for name in ("decision", "reason", "at"))
        return Verdict(decision="left", reason=f"its last verdict cannot be read: {odd}", at=0)
    return Verdict(decision=known, reason=found["reason"], at=at)


def _usage_key(tenant: str, month: str) -> str:
    return f"usage:{tenant}:{month}"


def _usage(found: Mapping[str, str] | RedisError) -> Usage | None:
    """Read a month's record; None if it is not as the platform writes it."""
    figures = _figures(found)
    if isinstance(found, RedisError) or len(figures) < len(found):
        return None
    until = figures.pop(_UNTIL, None)
    if not all(day.isdecimal() and 1 <= int(day) <= _DAYS for day in figures):
        return None
    return Usage(awake_seconds={int(day): value for day, value in figures.items()}, last_awake=until)


def _figures(found: Mapping[str, str] | RedisError) -> dict[str, float]:
    """Return the figures of a hash, without what is no number of ours."""
    if isinstance(found, RedisError):
        return {}
    read = {name: _number(text) for name, text in found.items()}
    return {name: value for name, value in read.items() if value is not None}


def _number(text: str | float | None) -> float | None:
    try:
        value = float(text if text is not None else math.nan)
    except ValueError:
        return None
    return value if 0 <= value < _LARGEST else None
