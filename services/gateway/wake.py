"""Who is awake, and waking those who are not: one task per tenant, however many requests wait for it."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass

import aiohttp

from services import parts
from services.activity.connection import UNREACHABLE
from services.activity.store import Activity, Claim
from services.gateway import metrics
from services.gateway.cluster import Cluster, Machine
from services.gateway.routes import Route, Routes
from services.gateway.states import CannotWake, Kind, Phase, State, StillWaking
from services.gateway.waking import Failed, Tools, Waking

__all__ = ["CannotWake", "Kind", "Phase", "State", "StillWaking", "Wakes"]

log = logging.getLogger(__name__)

_BACK_OFF_SECONDS = (5, 10, 20, 40, 60)
_NOT_ACTIVE_SECONDS = 60
_LOOK_SECONDS = 1.0
_PHASES: dict[str, Phase] = {"running": "awake", "stopping": "stopping", "starting": "start"}


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """An attempt that failed; there is no other before `until`."""

    times: int
    until: float
    kind: Kind
    detail: str

    def told(self) -> CannotWake:
        return CannotWake(self.kind, self.detail, max(1, round(self.until - time.monotonic())))


class Wakes:
    """Leads each request to where its tenant's agents are ready, and wakes them first if need be."""

    def __init__(
        self,
        cluster: Cluster,
        activity: Activity,
        routes: Routes,
        *,
        at_once: int = 32,
        waiting: int = 2000,
        limit: float = 300,
    ) -> None:
        """Wake `at_once` tenants at a time, let `waiting` requests wait for each; give up after `limit` s."""
        self._cluster = cluster
        self._activity = activity
        self._most = waiting
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        self._tools = Tools(
            cluster=cluster,
            activity=activity,
            routes=routes,
            http=aiohttp.ClientSession(connector=connector, auto_decompress=False),
            slots=asyncio.Semaphore(at_once),
            limit=limit,
        )
        self._ready: dict[str, str] = {}
        self._failures: dict[str, _Failure] = {}
        self._wakings: dict[str, Waking] = {}
        self._tasks: dict[Waking, asyncio.Task[str | _Failure]] = {}
        self._records: set[asyncio.Task[None]] = set()
        self._turns: Counter[str] = Counter()

    async def close(self) -> None:
        """End the wakes under way, without undoing what they have begun."""
        await parts.end([*self._tasks.values(), *self._records])
        await self._tools.http.close()

    def state(self, route: Route) -> State:
        """Return where the tenant stands, as far as is known here."""
        if waking := self._wakings.get(route.tenant):
            return State(phase=waking.phase, seconds=waking.seconds)
        if failure := self._failing(route):
            return State(phase="failed", failure=failure.told())
        if route.served_by != "machine":
            return State(phase="awake" if self._cluster.endpoints(route) else "start")
        machine = self._cluster.machine(route)
        seconds = time.time() - machine.since if machine.since else None
        return State(phase=_PHASES.get(machine.status, "asleep"), seconds=seconds)

    async def awake(self, route: Route, patience: float, claim: Claim | None = None) -> str:
        """Return the tenant's address (`http://ip:port`) once it is ready, waking it if need be.

        The caller has entered its request with `Holds` before; `claim` is what that answered, None if Redis
        is away. Raises `StillWaking` after `patience` seconds, `CannotWake` when an attempt has failed.
        """
        known = self._tools.routes.find(route.tenant)
        if known is None or known.state != "active":
            state = known.state if known else "declared no more"
            raise CannotWake("not-active", f"the tenant is {state}", _NOT_ACTIVE_SECONDS)
        if address := self.ready(route, claim):
            return address
        if route.served_by != "machine":
            return await self._endpoint(route, patience)
        waking = self._wakings.get(route.tenant)
        if waking is None:
            if failure := self._failing(route):
                raise failure.told()
            waking = self._begin(route)
        if claim is not None:
            waking.heed(claim)
        return await self._wait(waking, patience)

    def ready(self, route: Route, claim: Claim | None = None) -> str | None:
        """Return the address of an active tenant that need not be waited for; see `awake`."""
        if route.served_by != "machine":
            found = self._cluster.endpoints(route)
            if not found:
                return None
            # Another Pod each time.
            self._turns[route.tenant] += 1
            return found[self._turns[route.tenant] % len(found)]
        machine = self._cluster.machine(route)
        ready = machine.status == "running" and self._ready.get(route.tenant) == machine.instance
        return machine.address if ready and claim is None else None

    def invalidate(self, tenant: str) -> None:
        """Take back that the tenant is ready: a connection to it was refused."""
        self._ready.pop(tenant, None)

    def _failing(self, route: Route) -> _Failure | None:
        failure = self._failures.get(route.tenant)
        return failure if failure and failure.until > time.monotonic() else None

    def _begin(self, route: Route) -> Waking:
        waking = self._wakings[route.tenant] = Waking(route, self._tools)
        self._tasks[waking] = asyncio.create_task(self._bring_up(route, waking))
        metrics.WAKING.inc()
        return waking

    async def _wait(self, waking: Waking, patience: float) -> str:
        if waking.waiting >= self._most:
            raise StillWaking(waking.phase, waking.seconds)
        task = self._tasks[waking]
        waking.waiting += 1
        metrics.WAITING.inc()
        try:
            # Unlike `wait_for`, this leaves the task alone when a caller gives up or goes away.
            done, _ = await asyncio.wait((task,), timeout=patience)
        finally:
            metrics.WAITING.dec()
            waking.waiting -= 1
        if not done:
            raise StillWaking(waking.phase, waking.seconds)
        outcome = task.result()
        if isinstance(outcome, _Failure):
            raise outcome.told()
        return outcome

    async def _bring_up(self, route: Route, waking: Waking) -> str | _Failure:
        try:
            machine = await waking.run()
        except Failed as failure:
            return self._failed(route, failure)
        else:
            return self._succeeded(route, waking, machine)
        finally:
            metrics.WAKING.dec()
            del self._wakings[route.tenant], self._tasks[waking]

    def _succeeded(self, route: Route, waking: Waking, machine: Machine) -> str:
        self._ready[route.tenant] = machine.instance
        self._failures.pop(route.tenant, None)
        if waking.started:
            seconds, phases = waking.seconds, waking.phases()
            metrics.WAKE_SECONDS.labels(route.tenant).observe(seconds)
            for phase, took in phases.items():
                metrics.WAKE_PHASE_SECONDS.labels(phase).observe(took)
            told = ", ".join(f"{phase} {took:.1f} s" for phase, took in phases.items())
            about = {"tenant": route.tenant}
            log.info("%s is awake after %.1f s: %s", route.tenant, seconds, told, extra=about)
            self._later(self._record(route, {"seconds": seconds, **phases}))
            self._later(self._cluster.record(route, "Woken", f"a request woke it in {seconds:.1f} s: {told}"))
        return machine.address

    def _failed(self, route: Route, failure: Failed) -> _Failure:
        before = self._failures.get(route.tenant)
        times = before.times + 1 if before else 1
        pause = _BACK_OFF_SECONDS[min(times, len(_BACK_OFF_SECONDS)) - 1]
        metrics.WAKE_FAILURES.labels(route.tenant).inc()
        metrics.WAKE_FAILURE_KINDS.labels(failure.kind).inc()
        about = {"tenant": route.tenant}
        log.warning("%s cannot wake (%s): %s", route.tenant, failure.kind, failure.detail, extra=about)
        self._later(
            self._cluster.record(route, "WakeFailed", f"{failure.kind}: {failure.detail}", warning=True)
        )
        outcome = self._failures[route.tenant] = _Failure(
            times=times, until=time.monotonic() + pause, kind=failure.kind, detail=failure.detail
        )
        return outcome

    async def _record(self, route: Route, phases: dict[str, float]) -> None:
        try:
            await self._activity.record_wake(route.tenant, phases)
        except UNREACHABLE as error:
            about = {"tenant": route.tenant}
            log.warning("the wake of %s is not on record: %s", route.tenant, error, extra=about)

    def _later(self, work: Coroutine[None, None, None]) -> None:
        """Do what nobody who waits has to wait for."""
        task = asyncio.create_task(work)
        self._records.add(task)
        task.add_done_callback(self._records.discard)

    async def _endpoint(self, route: Route, patience: float) -> str:
        """Return the address of a Pod once one is ready."""
        began = time.monotonic()
        while not (address := self.ready(route)):
            left = patience - (time.monotonic() - began)
            if left <= 0:
                raise StillWaking("start", time.monotonic() - began)
            await self._cluster.change(route, min(_LOOK_SECONDS, left))
        return address
