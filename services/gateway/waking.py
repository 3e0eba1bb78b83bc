"""One wake: looks at what is, and does the next thing about it, until the tenant's agents say they are ready.

So it makes no difference who else starts or stops the machine meanwhile, how often it crashes, or whether the
API server or Redis is away for a while.
"""

import asyncio
import contextlib
import time
from collections import defaultdict
from dataclasses import dataclass
from http import HTTPStatus

import aiohttp

from services import kube
from services.activity import connection
from services.activity.store import Activity, Claim
from services.gateway import metrics
from services.gateway.cluster import Cluster, Machine, Trouble
from services.gateway.routes import Route, Routes
from services.gateway.states import Kind, Phase

_LOOK_SECONDS = 1.0
_RETRY_SECONDS = 0.5
# What comes before the guest's network is up is lost, and TCP says it again only after a second: so we do.
# But a guest that is slow has the less to do with us, the slower it is.
_KNOCK_SECONDS = (0.1, 1.0)
_BOOT_PER_KNOCK = 25
_KNOCKS_AT_ONCE = 5
# Controllers need a moment to act upon a start; one refused (a stop is under way) may soon be taken.
_ASK_AGAIN_SECONDS = {True: 5.0, False: 1.0}
_OF_A_RUN: tuple[Phase, ...] = ("start", "boot", "ready")
_CRASHES = 3
_MISSING_SECONDS = 5.0


class Failed(Exception):  # noqa: N818 - the outcome of an attempt
    """The attempt has failed."""

    def __init__(self, kind: Kind, detail: str) -> None:
        """Tell what stands in the way."""
        super().__init__(detail)
        self.kind: Kind = kind
        self.detail = detail


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What all wakes share."""

    cluster: Cluster
    activity: Activity
    routes: Routes
    http: aiohttp.ClientSession
    slots: asyncio.Semaphore
    limit: float
    """Seconds after which an attempt has failed, not counting the wait for a slot."""


class Waking:
    """An attempt to have a tenant's machine up and its agents ready."""

    def __init__(self, route: Route, tools: Tools) -> None:
        """Begin with nothing known; `run` does it."""
        self.phase: Phase = "queued"
        self.waiting = 0
        """Requests that wait for it."""
        self.started = False
        """True if KubeVirt took the start of the machine's present run from this gateway."""
        self._route = route
        self._tools = tools
        self._began = self._entered = time.monotonic()
        self._took: defaultdict[Phase, float] = defaultdict(float)
        self._claimed_until = 0.0
        self._has_slot = False
        self._waited_for_slot = 0.0
        self._ask_again = 0.0
        self._obstacle = ""
        self._instances: list[str] = []
        self._knocks = _Knocks(tools.http)
        self._trouble: tuple[str, float] = ("", 0.0)

    @property
    def seconds(self) -> float:
        """Return how long it has taken so far."""
        return time.monotonic() - self._began

    def phases(self) -> dict[str, float]:
        """Return how long each phase has taken, in seconds."""
        self._enter(self.phase)
        return {phase: self._took[phase] for phase in ("queued", "start", "boot", "ready")}

    def heed(self, claim: Claim) -> None:
        """Take the machine for one that is about to be stopped, until the claim is done with or lapses."""
        self._claimed_until = time.monotonic() + claim.seconds

    async def run(self) -> Machine:
        """Return the machine once its agents are ready. Raises `Failed`."""
        try:
            while True:
                machine = self._tools.cluster.machine(self._route)
                self._judge(machine)
                if await self._act(machine):
                    return machine
        finally:
            self._knocks.end()
            if self._has_slot:
                self._tools.slots.release()

    async def _act(self, machine: Machine) -> bool:
        """Do the next thing, or wait for it; returns whether that was the last."""
        match machine.status:
            case "running" if await self._is_claimed():
                self._enter("queued")
            case "running":
                return await self._knock(machine)
            case "off" if time.monotonic() >= self._ask_again:
                await self._start()
                return False
            case "starting":
                self._enter("start")
            case "stopping":
                self._enter("queued")
        await self._change(_LOOK_SECONDS)
        return False

    def _judge(self, machine: Machine) -> None:
        """Raise `Failed` if waiting on makes no sense."""
        _refuse_inactive(self._tools.routes.find(self._route.tenant))
        if machine.status in ("starting", "running") and machine.instance not in ("", *self._instances):
            self._instances.append(machine.instance)
        if len(self._instances) > _CRASHES:
            raise Failed("crash-loop", f"the machine ended {_CRASHES} times before its agents were ready")
        if (trouble := self._lasting(machine.trouble)) is not None:
            raise Failed(trouble.kind, trouble.detail)
        active = self.seconds - self._waited_for_slot
        if machine.status == "halted":
            raise self._halted()
        if machine.status == "missing" and active > _MISSING_SECONDS:
            raise Failed("unknown", f"there is no machine {self._route.namespace}")
        if active > self._tools.limit:
            raise self._late(machine)

    def _lasting(self, trouble: Trouble | None) -> Trouble | None:
        kind = trouble.kind if trouble else ""
        if kind != self._trouble[0]:
            self._trouble = (kind, time.monotonic())
        if trouble and time.monotonic() - self._trouble[1] >= trouble.patience:
            return trouble
        return None

    def _late(self, machine: Machine) -> Failed:
        after = f"after {self._tools.limit:.0f} s"
        if machine.trouble:
            return Failed(machine.trouble.kind, machine.trouble.detail)
        if machine.status == "running":
            return Failed("not-ready", f"the machine runs, and its agents are not ready {after}")
        return Failed("unknown", f"{after} the machine is {machine.status}. {self._obstacle}".strip())

    async def _is_claimed(self) -> bool:
        """Return whether the suspender may still stop the machine that runs."""
        if time.monotonic() >= self._claimed_until:
            return False
        try:
            standing = await self._tools.activity.standing(self._route.tenant)
        except connection.UNREACHABLE as error:
            self._obstacle = f"Redis: {error}"
        else:
            self._claimed_until = time.monotonic() + standing.claim.seconds if standing.claim else 0.0
        return time.monotonic() < self._claimed_until

    async def _start(self) -> None:
        """Start the machine, if no stop of its last run can still arrive and nobody else has started it."""
        if not self._has_slot:
            await self._take_slot()
            return
        route, activity, cluster = self._route, self._tools.activity, self._tools.cluster
        try:
            standing = await activity.standing(route.tenant)
            if standing.claim and standing.claim.state == "claimed":
                await self._change(min(_RETRY_SECONDS, standing.claim.seconds))
                return
            # The first look is for the generation, which may be of an earlier run. The second is for what has
            # been declared since: KubeVirt takes the start of a halted machine, and runs it for ever.
            if not (
                await self._may_start()
                and await activity.started(route.tenant, standing.generation)
                and await self._may_start()
            ):
                await self._change(_RETRY_SECONDS)
                return
            took = await cluster.start(route)
        except connection.UNREACHABLE as error:
            await self._hindered(f"Redis: {error}")
        except kube.ApiError as error:
            if error.status < HTTPStatus.INTERNAL_SERVER_ERROR and error.status not in kube.TRY_AGAIN:
                raise Failed("unknown", f"the Kubernetes API refuses to start it: {error}") from None
            await self._hindered(f"the Kubernetes API: {error}")
        except kube.UNREACHABLE as error:
            await self._hindered(f"the Kubernetes API: {error or 'timeout'}")
        else:
            self._forget_last_run()
            self._enter("start")
            self._ask_again = time.monotonic() + _ASK_AGAIN_SECONDS[took]
            self.started = took
            if took:
                metrics.STARTS.labels(route.tenant).inc()

    async def _may_start(self) -> bool:
        """Return whether it is off and to run, by the API server's word: a watch may be behind.

        Raises `Failed` if it is not to run.
        """
        route = await self._tools.routes.latest(self._route.tenant)
        _refuse_inactive(route)
        machine = await self._tools.cluster.latest(self._route)
        if machine.status == "halted":
            raise self._halted()
        return machine.status == "off"

    def _halted(self) -> Failed:
        return Failed("not-active", f"the machine {self._route.namespace} is declared not to run")

    def _forget_last_run(self) -> None:
        """Count from here on the run that begins: what an earlier one took is no part of its wake."""
        self._enter(self.phase)
        self._began += sum(self._took.pop(phase, 0.0) for phase in _OF_A_RUN)

    async def _take_slot(self) -> None:
        began = time.monotonic()
        await self._tools.slots.acquire()
        self._has_slot = True
        self._waited_for_slot += time.monotonic() - began

    async def _hindered(self, obstacle: str) -> None:
        self._obstacle = obstacle
        await asyncio.sleep(_RETRY_SECONDS)

    async def _knock(self, machine: Machine) -> bool:
        """Ask the guest for a second whether it is ready."""
        if self.phase not in ("boot", "ready"):
            self._enter("boot")
        ready = await self._knocks.go_on(machine, _LOOK_SECONDS)
        if self._knocks.heard and self.phase == "boot":
            self._enter("ready")
        return ready

    async def _change(self, seconds: float) -> None:
        await self._tools.cluster.change(self._route, seconds)

    def _enter(self, phase: Phase) -> None:
        now = time.monotonic()
        self._took[self.phase] += now - self._entered
        self.phase, self._entered = phase, now


class _Knocks:
    """Asks a guest whether it is ready, a few times at once: the longer it boots, the more patiently."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        """Ask nobody yet."""
        self._http = http
        self._instance = ""
        self._began = self._next = 0.0
        self._open: set[asyncio.Task[None]] = set()
        self._ready = asyncio.Event()
        self.heard = False
        """Whether the guest has answered at all."""

    async def go_on(self, machine: Machine, seconds: float) -> bool:
        """Go on asking for so long at most; return whether it is ready.

        What was asked stays asked, or a guest that takes longer than that to answer would never be heard.
        """
        if machine.instance != self._instance:
            self.end()
            self._instance, self._ready, self.heard = machine.instance, asyncio.Event(), False
            self._began = self._next = time.monotonic()
        until = time.monotonic() + seconds
        while not self._ready.is_set() and (now := time.monotonic()) < until:
            if now >= self._next:
                shortest, longest = _KNOCK_SECONDS
                interval = min(max((now - self._began) / _BOOT_PER_KNOCK, shortest), longest)
                self._next = now + interval
                self._ask(machine, interval * _KNOCKS_AT_ONCE)
            await _at_most(self._ready, min(self._next, until) - now)
        return self._ready.is_set()

    def end(self) -> None:
        """Ask no more."""
        for task in self._open:
            task.cancel()

    def _ask(self, machine: Machine, patience: float) -> None:
        task = asyncio.create_task(self._knock(machine, patience, self._ready))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _knock(self, machine: Machine, patience: float, ready: asyncio.Event) -> None:
        limit = aiohttp.ClientTimeout(total=patience)
        address = f"{machine.address}/readyz"
        with contextlib.suppress(*kube.UNREACHABLE):
            async with self._http.get(address, timeout=limit, allow_redirects=False) as response:
                self.heard = True
                if response.status == HTTPStatus.OK:
                    ready.set()


def _refuse_inactive(route: Route | None) -> None:
    """Raise `Failed` for a tenant whose machine is not to run."""
    if route is None:
        raise Failed("not-active", "the tenant is declared no more")
    if route.state != "active":
        raise Failed("not-active", f"the tenant is {route.state}")
    if route.served_by != "machine":
        raise Failed("not-active", f"the tenant is served by a {route.served_by} now")


async def _at_most(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
