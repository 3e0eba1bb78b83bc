"""Gateways, sweeps, an agent and a machine, each step of theirs at any time: all interleavings, one by one.

The steps in Redis are the store's own scripts on a real server; as a script's outcome depends on nothing but
what is kept and its arguments, each is run once per case. What is around them (machine, network, processes)
is simulated. Time passes in ticks of 7.5 s and is kept relative to now, so that the states are finitely many.

A gateway is a process that judges requests, and an Envoy that carries those which are let through. Where both
are disturbed, Envoys die, processes are restarted, and what an Envoy logs of a request comes late or never.

What is taken for granted: a stop that was sent arrives within 15 s or never; a process renews the hold of
each request that it knows of; what a watch tells of a machine is at most a tick old; nothing is declared anew
between a gateway's last look and its start. Of a request that goes on, a process hears within 15 s of a
restart, however many follow it, and otherwise within 15 s of letting go of it. Here it lets go after 15 s of
silence, not 60 (`SILENT_SECONDS`). That and the limit are shorter than a hold, so that nothing but holds
protects a request: with a limit longer than a hold, Envoy may be silent for as much longer.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import redis

from tests.services.valkey import NOW, PASSWORD, Valkey

TICK = 7.5
LIMIT = 15
_SEND_TICKS = 1
_ARRIVE_TICKS = 2
_LEASE_SECONDS = 15
_SILENT_TICKS = 2
"""Until a process lets go of a request of which it hears nothing."""
_LEARN_TICKS = 2
_LOST_TICKS = _SILENT_TICKS + 2
"""The longest that nothing is heard of a request that goes on, after a restart and otherwise."""
_OLD = -LIMIT - TICK
"""Anything older is as good as this old."""

_JUDGED = ("waiting", "looked", "off", "begun")
"""How far a request has got while the process judges it, and Envoy waits for its word."""
_GIVING_UP = ("gives up", "'s Envoy dies", "'s process is restarted")

Phase = Literal["off", "starting", "running", "stopping"]


class Kept(NamedTuple):
    """What Redis keeps of the tenant; times relative to now."""

    seen: float = _OLD
    holds: tuple[tuple[str, float], ...] = ()
    leases: tuple[tuple[str, float], ...] = ()
    taken: tuple[tuple[str, float], ...] = ()
    generation: int = 0
    claim: tuple[int, str, str, float] | None = None

    def later(self) -> "Kept":
        """What it is a tick later."""
        return Kept(
            seen=max(self.seen - TICK, _OLD),
            holds=_lasting(self.holds),
            leases=_lasting(self.leases),
            taken=self.taken,
            generation=self.generation,
            claim=(*self.claim[:3], self.claim[3] - TICK) if self.claim and self.claim[3] > TICK else None,
        )


class Request(NamedTuple):
    """A request, and how far its gateway has got with it."""

    gateway: str
    phase: Literal["new", "waiting", "looked", "off", "begun", "proxied", "done"] = "new"
    generation: int = 0
    known: bool = False
    """True if the process takes it for one that Envoy carries; it may be over."""
    silent: int = 0
    """Ticks since Envoy was heard of it; more after a restart, so that it is heard in time."""


class Sweep(NamedTuple):
    """A sweep that has come to the machine, and its stop on the wire."""

    phase: Literal["new", "listed", "claimed", "asked", "accepted", "refused", "done"] = "new"
    since: float = 0
    ticks: int = 0
    """Since the claim, until the stop is sent."""
    generation: int = 0
    wire: int | None = None
    """Ticks since the stop was sent, while it may arrive."""


class State(NamedTuple):
    """Everything at one moment."""

    requests: tuple[Request, ...]
    sweeps: tuple[Sweep, ...]
    kept: Kept = Kept()
    machine: Phase = "running"
    told: Phase = "running"
    """What a slow watch tells of the machine."""
    since: float = _OLD
    lease: int | None = None
    """Ticks that the agent's lease lasts yet."""
    agent: Literal["new", "done"] = "new"
    suspends: bool = False
    """True if the tenant is yet to be suspended."""
    declared: bool = True
    """True if the tenant is active and its machine declared to run."""
    disturbed: bool = False
    """True if Envoys may die, processes be restarted, and words of Envoy's be late or lost."""


class Broken(Exception):  # noqa: N818 - what the check is for
    """An interleaving that must not be."""


@dataclass
class Check:
    """Goes through all interleavings from a beginning."""

    server: Valkey
    scripts: Mapping[str, str]
    withdraws_when_unsure: bool = False
    """A broken suspender: it withdraws its claim when a stop was not answered."""
    looks_again: bool = True
    """True if a gateway looks at the declaration once more, right before it starts."""
    learns: bool = True
    """True if a process enters a request that it does not know when Envoy speaks of it."""
    silent_ticks: int = _SILENT_TICKS
    """After so many without a word of Envoy's a process lets go of a request."""
    _known: dict[tuple[Kept, str, tuple[object, ...]], tuple[object, Kept]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Connect as each side."""
        self._sides = {
            user: redis.Redis(port=self.server.port, username=user, password=PASSWORD, decode_responses=True)
            for user in ("gateway", "idle-suspender")
        }
        self._operator = self.server.operator()

    def run(self, begin: State) -> int:
        """Return how many states there are. Raises `Broken` with the way to what must not be."""
        came: dict[State, tuple[State, str] | None] = {begin: None}
        back: dict[State, list[State]] = {}
        queue = deque([begin])
        while queue:
            state = queue.popleft()
            for step, after in self._steps(state):
                if isinstance(after, str):
                    raise Broken(f"{after}: {_way(came, state)}, {step}")
                if not step.endswith(_GIVING_UP):
                    back.setdefault(after, []).append(state)
                if after not in came:
                    came[after] = (state, step)
                    queue.append(after)
        for index in range(len(begin.requests)):
            self._all_get_served(index, came, back)
        return len(came)

    @staticmethod
    def _all_get_served(
        index: int, came: dict[State, tuple[State, str] | None], back: dict[State, list[State]]
    ) -> None:
        """Nowhere is a request lost: from everywhere on there is a way to its answer without giving up."""
        served = {state for state in came if state.requests[index].phase in ("proxied", "done")}
        queue = deque(served)
        while queue:
            for before in back.get(queue.popleft(), ()):
                if before not in served:
                    served.add(before)
                    queue.append(before)
        for state in came:
            if state not in served:
                raise Broken(f"request {index} waits for ever: {_way(came, state)}")

    def _steps(self, state: State) -> Iterator[tuple[str, State | str]]:
        if not any(self._is_due(request) for request in state.requests):
            yield "time passes", self._later(state)
        if state.suspends:
            yield "the tenant is suspended", state._replace(suspends=False, declared=False)
        if not state.declared and state.machine in ("starting", "running"):
            yield "KubeVirt halts it", state._replace(machine="stopping", since=0, lease=None)
        if state.machine == "stopping":
            yield "the machine is off", state._replace(machine="off")
        if state.machine == "starting":
            yield "the machine runs", state._replace(machine="running", since=0)
        if state.machine == "running" and state.agent == "new":
            yield "the agent takes a lease", self._take_lease(state)
        for index, request in enumerate(state.requests):
            for step, after in self._request(state, index, request):
                yield f"{request.gateway} {step}", after
            if request.phase in _JUDGED:
                yield "gives up", _with(state, index, Request(request.gateway, "done"))
        for gateway in sorted({request.gateway for request in state.requests}) if state.disturbed else ():
            yield f"{gateway}'s Envoy dies", _each(state, gateway, _broken_off)
            yield f"{gateway}'s process is restarted", _each(state, gateway, _forgotten)
        for index, sweep in enumerate(state.sweeps):
            for step, after in self._sweep(state, index, sweep):
                yield f"sweep {index} {step}", after

    def _later(self, state: State) -> State:
        kept, requests = state.kept.later(), state.requests
        if state.disturbed:
            requests = tuple(map(self._unheard, requests))
        for request in requests:
            if request.known or request.phase in _JUDGED:
                _, kept = self._script("gateway", "enter", kept, "acme", f"{request.gateway}/request")
        return state._replace(
            requests=requests,
            kept=kept,
            told=state.machine,
            since=max(state.since - TICK, _OLD) if state.machine == "running" else 0,
            lease=state.lease - 1 if state.lease else None,
            sweeps=tuple(
                sweep._replace(
                    ticks=min(sweep.ticks + 1, _SEND_TICKS + 1) if sweep.phase == "claimed" else sweep.ticks,
                    since=max(sweep.since - TICK, _OLD) if sweep.phase == "listed" else 0,
                    wire=sweep.wire + 1 if sweep.wire is not None and sweep.wire < _ARRIVE_TICKS else None,
                )
                for sweep in state.sweeps
            ),
        )

    def _is_due(self, request: Request) -> bool:
        """Tell whether Envoy is heard of it before any more time passes."""
        heeded = request.known or self.learns
        return request.phase == "proxied" and request.silent == _LOST_TICKS and heeded

    def _unheard(self, request: Request) -> Request:
        """What becomes of a request in a tick in which Envoy is not heard of it."""
        if request.phase != "proxied" and not request.known:
            return request
        silent = min(request.silent + 1, _LOST_TICKS)
        known = request.known and silent < self.silent_ticks
        if request.phase == "done" and not known:
            return Request(request.gateway, "done")
        return request._replace(known=known, silent=silent)

    def _take_lease(self, state: State) -> State:
        answer, kept = self._script("gateway", "lease", state.kept, "acme", "job", _LEASE_SECONDS, 14400, 32)
        granted = "until" in json.loads(str(answer))
        return state._replace(kept=kept, agent="done", lease=int(_LEASE_SECONDS / TICK) if granted else None)

    def _request(self, state: State, index: int, request: Request) -> Iterator[tuple[str, State | str]]:
        match request.phase:
            case "new":
                holder = f"{request.gateway}/request"
                if dict(state.kept.holds).get(holder, 0) > 15 and not _claimed(state.kept):
                    # As `Holds` does: the hold of an earlier request is good for this one.
                    yield from self._serve(state, index, request, "enters by an earlier hold")
                answer, kept = self._script("gateway", "enter", state.kept, "acme", holder)
                entered = state._replace(kept=kept)
                if "claim" in json.loads(str(answer))[0]:
                    yield "enters and waits", _with(entered, index, Request(request.gateway, "waiting"))
                else:
                    yield from self._serve(entered, index, request, "enters")
            case "waiting":
                standing = json.loads(str(self._script("gateway", "standing", state.kept, "acme")[0]))
                claim = standing.get("claim")
                if not claim:
                    yield from self._serve(state, index, request, "looks")
                if not claim or claim["state"] == "sent":
                    looked = Request(request.gateway, "looked", standing["generation"])
                    yield "asks for the generation", _with(state, index, looked)
            case "looked":
                looked = Request(request.gateway, "waiting" if state.declared else "done")
                if state.declared and state.machine == "off":
                    looked = request._replace(phase="off")
                yield "looks whether it is off and to run", _with(state, index, looked)
            case "off":
                begun, kept = self._script("gateway", "started", state.kept, "acme", request.generation)
                after = state._replace(kept=kept)
                yield (
                    "begins a run",
                    _with(after, index, Request(request.gateway, "begun" if begun else "waiting")),
                )
            case "begun":
                yield "looks once more and starts it", self._start(state, index, request)
            case "proxied":
                yield "is answered", _with(state, index, Request(request.gateway, "done"))
                if state.disturbed:
                    yield from self._log(state, index, request)
            case "done" if request.known:
                yield "hears that it is over", _with(state, index, Request(request.gateway, "done"))

    def _log(self, state: State, index: int, request: Request) -> Iterator[tuple[str, State | str]]:
        """What Envoy says of a request that it carries, or fails to say of its end."""
        heard = request._replace(known=True, silent=0)
        if request.known:
            yield "is answered unheard", _with(state, index, request._replace(phase="done"))
            yield "hears that it goes on", _with(state, index, heard)
        elif self.learns:
            _, kept = self._script("gateway", "enter", state.kept, "acme", f"{request.gateway}/request")
            yield "hears of it and enters it", _with(state._replace(kept=kept), index, heard)

    def _start(self, state: State, index: int, request: Request) -> State | str:
        if self.looks_again and not state.declared:
            return _with(state, index, Request(request.gateway, "done"))
        if state.machine == "off" and not state.declared:
            return "a machine was started that is declared not to run"
        started = state._replace(machine="starting") if state.machine == "off" else state
        return _with(started, index, Request(request.gateway, "waiting"))

    def _serve(
        self, state: State, index: int, request: Request, step: str
    ) -> Iterator[tuple[str, State | str]]:
        """Proxy the request if the machine runs, as far as the gateway knows."""
        for machine in {state.machine, state.told}:
            if machine != "running":
                yield f"{step} and waits", _with(state, index, Request(request.gateway, "waiting"))
            elif state.machine == "running":
                yield (
                    f"{step} and proxies",
                    _with(state, index, Request(request.gateway, "proxied", known=True)),
                )
            elif state.machine == "stopping" and state.declared:
                yield f"{step} and proxies", "a request was proxied to a machine that was being stopped"
            else:
                yield (
                    f"{step}, is refused and waits",
                    _with(state, index, Request(request.gateway, "waiting")),
                )

    def _sweep(self, state: State, index: int, sweep: Sweep) -> Iterator[tuple[str, State | str]]:
        match sweep.phase:
            case "new" if state.machine == "running":
                yield "lists it", _swept(state, index, Sweep(phase="listed", since=state.since))
            case "listed":
                answer, kept = self._script(
                    "idle-suspender", "claim", state.kept, "acme", LIMIT, NOW + sweep.since, f"sweep-{index}"
                )
                found = json.loads(str(answer))
                claimed = Sweep(phase="claimed", generation=found.get("generation", 0))
                after = claimed if found["kind"] == "idle" else _done(sweep)
                yield "claims it", _swept(state._replace(kept=kept), index, after)
            case "claimed":
                yield "dies", _swept(state, index, _done(sweep))
                if sweep.ticks <= _SEND_TICKS:
                    yield (
                        "sends a stop",
                        _swept(state, index, Sweep(phase="asked", generation=sweep.generation, wire=0)),
                    )
                else:
                    yield "is too late", self._settle(state, index, "withdrawn")
            case "asked":
                unsure = _swept(state, index, _done(sweep))
                if self.withdraws_when_unsure:
                    unsure = self._settle(state, index, "withdrawn")
                yield "gets no answer", unsure
            case "accepted":
                yield "says so", self._settle(state, index, "sent")
            case "refused":
                yield "withdraws", self._settle(state, index, "withdrawn")
        if sweep.wire is not None:
            yield from self._arrive(state, index, sweep)

    def _arrive(self, state: State, index: int, sweep: Sweep) -> Iterator[tuple[str, State | str]]:
        yield "is refused", _swept(state, index, Sweep(phase=_answered(sweep, "refused")))
        if state.machine not in ("running", "starting"):
            return
        yield (
            "stops the machine",
            _harm(state, sweep)
            or _swept(
                state._replace(machine="stopping", since=0, lease=None),
                index,
                Sweep(phase=_answered(sweep, "accepted")),
            ),
        )

    def _settle(self, state: State, index: int, outcome: str) -> State:
        _, kept = self._script("idle-suspender", "settle", state.kept, "acme", f"sweep-{index}", outcome)
        sweep = state.sweeps[index]
        return _swept(state._replace(kept=kept), index, _done(sweep))

    def _script(self, user: str, name: str, kept: Kept, *arguments: object) -> tuple[object, Kept]:
        case = (kept, name, arguments)
        if case not in self._known:
            self._restore(kept)
            answer = self._sides[user].eval(self.scripts[name], 0, *map(str, arguments))
            self._known[case] = (answer, self._dump())
        return self._known[case]

    def _restore(self, kept: Kept) -> None:
        with self._operator.pipeline(transaction=False) as pipe:
            pipe.flushdb()
            pipe.set("clock", NOW)
            pipe.hset("activity::gateway", mapping={"since": NOW - 1000, "until": NOW + 1000})
            pipe.hset("activity:acme", "seen", str(NOW + kept.seen))
            pipe.set("activity:acme:generation", kept.generation)
            if kept.holds:
                pipe.zadd("activity:acme:holds", {name: NOW + at for name, at in kept.holds})
            if kept.leases:
                pipe.zadd("activity:acme:leases", {name: NOW + at for name, at in kept.leases})
            if kept.taken:
                pipe.hset("activity:acme:leases:taken", mapping={name: NOW + at for name, at in kept.taken})
            if kept.claim:
                generation, state, by, until = kept.claim
                claim: list[str | float] = [
                    "generation",
                    generation,
                    "state",
                    state,
                    "by",
                    by,
                    "until",
                    NOW + until,
                ]
                pipe.hset("suspension:acme", items=claim)
            pipe.execute()

    def _dump(self) -> Kept:
        with self._operator.pipeline(transaction=False) as pipe:
            pipe.hget("activity:acme", "seen")
            pipe.zrange("activity:acme:holds", 0, -1, withscores=True)
            pipe.zrange("activity:acme:leases", 0, -1, withscores=True)
            pipe.hgetall("activity:acme:leases:taken")
            pipe.get("activity:acme:generation")
            pipe.hgetall("suspension:acme")
            seen, holds, leases, taken, generation, claim = pipe.execute()
        return Kept(
            seen=float(seen) - NOW,
            holds=tuple((name, at - NOW) for name, at in holds),
            leases=tuple((name, at - NOW) for name, at in leases),
            # When it was taken matters for its cap only, which is hours away.
            taken=tuple((name, 0) for name in taken),
            generation=int(generation),
            claim=(int(claim["generation"]), claim["state"], claim["by"], float(claim["until"]) - NOW)
            if claim
            else None,
        )


def _harm(state: State, sweep: Sweep) -> str | None:
    """Why the machine must not be stopped now by this sweep."""
    if any(request.phase == "proxied" for request in state.requests):
        return "a machine was stopped with a request in flight"
    if sweep.generation != state.kept.generation:
        return "a machine was stopped that had been woken since it was found idle"
    if state.lease:
        return "a machine was stopped under a work lease"
    return None


def _broken_off(request: Request) -> Request:
    """What is left of a request when its Envoy dies: whoever asked is told so, the process is not."""
    if request.phase == "new":
        return request
    return request._replace(phase="done") if request.known else Request(request.gateway, "done")


def _forgotten(request: Request) -> Request:
    """What is left of a request when its process is restarted: Envoy carries on what it was let through."""
    if request.phase == "proxied":
        return request._replace(known=False, silent=max(request.silent, _LOST_TICKS - _LEARN_TICKS))
    return request if request.phase == "new" else Request(request.gateway, "done")


def _done(sweep: Sweep) -> Sweep:
    """Its process has ended; what is on the wire stays there."""
    return Sweep(phase="done") if sweep.wire is None else sweep._replace(phase="done")


def _claimed(kept: Kept) -> bool:
    return kept.claim is not None and kept.claim[0] == kept.generation


def _answered(sweep: Sweep, answer: Literal["accepted", "refused"]) -> Literal["accepted", "refused", "done"]:
    return answer if sweep.phase == "asked" else "done"


def _lasting(times: tuple[tuple[str, float], ...]) -> tuple[tuple[str, float], ...]:
    return tuple((name, at - TICK) for name, at in times if at > TICK)


def _with(state: State, index: int, request: Request) -> State:
    requests = (*state.requests[:index], request, *state.requests[index + 1 :])
    return state._replace(requests=requests)


def _each(state: State, gateway: str, change: Callable[[Request], Request]) -> State:
    requests = (change(request) if request.gateway == gateway else request for request in state.requests)
    return state._replace(requests=tuple(requests))


def _swept(state: State, index: int, sweep: Sweep) -> State:
    return state._replace(sweeps=(*state.sweeps[:index], sweep, *state.sweeps[index + 1 :]))


def _way(came: dict[State, tuple[State, str] | None], state: State) -> str:
    steps = []
    while (before := came[state]) is not None:
        state, step = before
        steps.append(step)
    return ", ".join(reversed(steps))
