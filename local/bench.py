"""Figures, each as a ratio within one run, so that a slow or busy machine moves both sides alike.

A preview of N tenants through the program is set against the same resources (same types, same inputs, same
providers) registered in a flat loop with the same engine and plugins: what is left is the program's own cost.
The same preview with the policy pack is set against it without: what is left is the price of the guard rails.
The production stack is planned from nothing each time, so neither side waits for a server.
"""

import asyncio
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import pulumi
import yaml
from pulumi import automation as auto
from pulumi.runtime.rpc import UNKNOWN
from rich.console import Console

from local import (
    bench_database,
    bench_floods,
    bench_gateway,
    bench_ledger,
    bench_runtime,
    bench_slices,
    bench_soak,
    bench_sweep,
    bench_wake,
    bench_watching,
    engine,
    toolchain,
)
from local.errors import LocalError
from local.paths import DATA, ROOT
from local.providers.schema import Schema
from local.soak import figures as soaked

_ROUNDS = 3
_LONG = 1000
_PACK = ROOT / "policy"
_TIERS = ("starter", "professional", "enterprise", "private-cloud")
_PROVIDER = "pulumi:providers:"
_SCHEMAS = {
    "exoscale": Schema("pulumiverse_exoscale"),
    "kubernetes": Schema("pulumi_kubernetes"),
    "postgresql": Schema("pulumi_postgresql"),
    "vault": Schema("pulumi_vault"),
}


class Figure(TypedDict):
    """One measured value and whether it meets its goal (an upper bound)."""

    name: str
    value: float
    unit: str
    goal: float
    met: bool


class UnmetError(LocalError):
    """A bench that missed its goals; the error carries its figures."""

    def __init__(self, message: str, figures: Sequence[Figure]) -> None:
        """Take what is wrong, and all figures."""
        super().__init__(message)
        self.figures = figures


@dataclass(frozen=True)
class Registration:
    """A custom resource as the engine saw it in a preview."""

    type: str
    name: str
    urn: str
    provider: str
    inputs: Mapping[str, Any]


def run(console: Console, names: Sequence[str]) -> tuple[list[Figure], list[str]]:
    """Measure what is named, or everything; a figure's spread is told on the console.

    Returns:
        The figures, and for each bench that could not be run here, or found what must not be, what that is.
    """
    toolchain.ensure(console)
    figures: list[Figure] = []
    failures: list[str] = []
    for name in names or BENCHES:
        try:
            figures += BENCHES[name](console)
        except LocalError as error:
            if isinstance(error, UnmetError):
                figures += error.figures
            failures.append(str(error))
    return figures, failures


def _previews(console: Console) -> list[Figure]:
    """Previews of a hundred tenants; every figure is the median of the rounds."""
    engine.install_plugins("prod", official_only=False)
    recorded: list[Registration] = []
    _preview(100, record=recorded)  # also the warm-up
    whole, quarter, flat, guarded = [], [], [], []
    for turn in range(_ROUNDS):
        whole.append(_preview(100))
        flat.append(_preview(100, program=lambda: _register_flat(recorded)))
        quarter.append(_preview(25))
        guarded.append(_preview(100, policies=True))
        console.print(
            f"round {turn + 1}: program 100 tenants {whole[-1]:.1f} s, with policies {guarded[-1]:.1f} s, "
            f"flat loop of {len(recorded)} resources {flat[-1]:.1f} s, program 25 tenants {quarter[-1]:.1f} s"
        )
    return [
        _figure("preview of 100 tenants / the same resources in a flat loop", whole, flat, 1.25, console),
        _figure("preview of 100 tenants / of 25 tenants", whole, quarter, 4.4, console),
        _figure("preview of 100 tenants with the policy pack / without", guarded, whole, 1.3, console),
    ]


def _one_slice(console: Console) -> list[Figure]:
    """One slice of a long roster against all of it in one stack, once: the whole takes minutes."""
    engine.install_plugins("prod", official_only=False)
    roster = bench_slices.sliced(_roster(_LONG))
    tenants, part = bench_slices.preview_slice(roster)
    whole = _preview(_LONG)
    console.print(
        f"one slice of {bench_slices.SLICES}, {tenants} tenants, {part:.1f} s; "
        f"all {_LONG} tenants in one stack {whole:.1f} s"
    )
    name = f"preview of one slice of {bench_slices.SLICES} / of {_LONG} tenants in one stack"
    return [_figure(name, [part], [whole], 0.15, console)]


def _sweep(console: Console) -> list[Figure]:
    """One sweep of the idle suspender, once: to make its machines takes minutes."""
    found = bench_sweep.measure()
    name = f"sweep over {bench_sweep.MACHINES} machines"
    return [
        _bounded(name, found["seconds"], "s", 10, console),
        _bounded(f"{name}, peak memory", found["peak_mb"], "MB", 150, console),
        _figure(
            f"{name} / one after the other (from a sample)",
            [found["seconds"]],
            [found["sequential_seconds"]],
            1,
            console,
        ),
    ]


def _gateway(console: Console) -> list[Figure]:
    """What the gateway adds to a request of a machine that is awake."""
    found = bench_gateway.measure()
    p50, p99 = found["p50"], found["p99"]
    above = statistics.median(over - below for over, below in zip(p50["gateway"], p50["direct"], strict=True))
    figures = [_bounded("gateway: median over a direct connection's", above, "ms", 1.5, console)]
    if "nginx" in p99:
        ratios = [mine / peers for mine, peers in zip(p99["gateway"], p99["nginx"], strict=True)]
        figures.append(_bounded("p99, gateway / nginx", statistics.median(ratios), "ratio", 2, console))
    if "gateway" in found["most"]:
        each = 10**6 / found["most"]["gateway"]
        figures.append(_bounded("a request as fast as it can", each, "µs", 100, console))
    for name, way in (("download", found["down"]), ("upload", found["up"])):
        if "nginx" in way:
            slower = way["nginx"] / way["gateway"]
            figures.append(_bounded(f"{name} of a GiB, nginx' MB/s / gateway's", slower, "ratio", 2, console))
    return figures


def _floods(console: Console) -> list[Figure]:
    """Another client's p95 during one client's floods, and the memory that one tenant's token fills."""
    found = bench_floods.measure()
    return [
        *(
            _bounded(f"p95 of another client during {kind} / before", slower, "ratio", 2, console)
            for kind, slower in found["slower"].items()
        ),
        *(
            _bounded(f"Envoy and gateway with {kind}", mib, "MiB", 512, console)
            for kind, mib in found["mib"].items()
        ),
    ]


def _wake(console: Console) -> list[Figure]:
    """From a request to a sleeping machine to its answer."""
    found = bench_wake.measure(console)
    for name, seconds in {"wake": found["wakes"], "bare guest": found["bare"], **found["phases"]}.items():
        cuts = statistics.quantiles(seconds, n=20)
        console.print(f"{name}: p50 {statistics.median(seconds):.2f} s, p95 {cuts[18]:.2f} s")
    for line in bench_wake.profile(found):
        console.print(line, highlight=False)
    median = statistics.median(found["wakes"]) / statistics.median(found["bare"])
    return [
        _bounded(f"{bench_wake.WAKES} wakes / boots of a bare guest, medians", median, "ratio", 2, console)
    ]


def _database(console: Console) -> list[Figure]:
    """What one tenant at its limit costs the others."""
    found = bench_database.measure()
    name = f"p95 of a tenant beside one that holds {max(found['held'])} connections / without it"
    return [_figure(name, found["beside"], found["alone"], 1.2, console)]


def _runtime(console: Console) -> list[Figure]:
    """The cost to other starters of one at its limits."""
    found = bench_runtime.measure(console)
    console.print(f"the one at its limits: {found['answered']} answered, {found['refused']} refused")
    name = "p95 of nineteen starters' first word beside one at its limits / without it"
    return [_figure(name, found["beside"], found["alone"], 1.2, console)]


def _ledger(console: Console) -> list[Figure]:
    """The error of a month's ledger under kills, and what counting costs."""
    found = bench_ledger.measure()
    console.print(
        f"{found['rows']} rows in {found['seconds']:.0f} s, {found['kills']} kills; a call for 200 tenants "
        f"takes {statistics.median(found['call_ms']):.1f} ms"
    )
    console.print("\n".join(found["differences"][:20]))
    return [
        _bounded(
            "hours and counts of 200 tenants that differ", len(found["differences"]), "count", 0, console
        ),
        _figure("a count / an upsert of as many rows", found["call_ms"], found["upsert_ms"], 12, console),
    ]


def _soak(console: Console) -> list[Figure]:
    """Measure the effect of twenty tenants that do harm on the others and on updates."""
    found = bench_soak.measure(console)
    console.print(bench_soak.table(found))
    told = [
        *(
            _bounded(f"{name}, of {total}", count, "count", 0, console)
            for name, (count, total) in soaked.counts(found).items()
        ),
        *(
            _figure(
                f"p95 of others' work ({kind}) beside harm / without",
                [done["loud"]],
                [done["quiet"]],
                1.5,
                console,
            )
            for kind, done in found["work"].items()
        ),
    ]
    unmet = [f"{figure['name']}: {figure['value']}" for figure in told if not figure["met"]]
    if wrong := [*soaked.findings(found), *unmet]:
        raise UnmetError("\n".join(["soak: not everything is as it must be.", *wrong]), told)
    return told


def _bounded(name: str, value: float, unit: str, goal: float, console: Console) -> Figure:
    value = round(value, 2)
    console.print(f"{name}: {value} {unit} (goal at most {goal})")
    return {"name": name, "value": value, "unit": unit, "goal": goal, "met": value <= goal}


def _figure(
    name: str, numerators: Sequence[float], denominators: Sequence[float], goal: float, console: Console
) -> Figure:
    ratios = [above / below for above, below in zip(numerators, denominators, strict=True)]
    value = round(statistics.median(ratios), 3)
    console.print(f"{name}: {value} (from {min(ratios):.3f} to {max(ratios):.3f}; goal at most {goal})")
    return {"name": name, "value": value, "unit": "ratio", "goal": goal, "met": value <= goal}


def _preview(
    tenants: int,
    *,
    program: Callable[[], None] | None = None,
    record: list[Registration] | None = None,
    policies: bool = False,
) -> float:
    """Seconds that a preview of that many tenants takes; `record` is filled with what was registered."""
    stack = engine.stack("prod", program=program, settings={"agent-platform:roster": str(_roster(tenants))})

    def on_event(event: auto.EngineEvent) -> None:
        step = event.resource_pre_event and event.resource_pre_event.metadata
        if record is None or not step or not step.new or not step.new.custom:
            return
        state = step.new
        name = state.urn.rpartition("::")[2]
        record.append(Registration(state.type, name, state.urn, state.provider, state.inputs or {}))

    start = time.perf_counter()
    stack.preview(
        on_event=on_event,
        policy_packs=[str(_PACK)] if policies else None,
        policy_pack_configs=[str(_PACK / "config.prod.json")] if policies else None,
    )
    return time.perf_counter() - start


def _roster(tenants: int) -> Path:
    path = DATA / f"bench-{tenants}.yaml"
    entries = [
        {
            "id": f"bench{number:03}",
            "name": f"Bench {number}",
            "tier": _TIERS[number % len(_TIERS)],
            "owner": f"owner{number}@bench.example",
        }
        for number in range(tenants)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"tenants": entries}), encoding="utf-8")
    return path


def _register_flat(recorded: Sequence[Registration]) -> None:
    """Each resource as recorded, with no component, no model and no computation around it."""
    providers: dict[str, pulumi.ProviderResource] = {}
    for resource in recorded:
        if resource.type.startswith(_PROVIDER) and not resource.name.startswith("default"):
            package = resource.type.removeprefix(_PROVIDER)
            providers[resource.urn] = pulumi.ProviderResource(
                package, resource.name, _unknowns(resource.inputs)
            )
    for resource in recorded:
        if not resource.type.startswith("pulumi:"):
            provider = providers.get(resource.provider.rpartition("::")[0])
            pulumi.CustomResource(
                resource.type,
                resource.name,
                {**_properties(resource.type), **_unknowns(resource.inputs)},
                pulumi.ResourceOptions(provider=provider),
            )


def _properties(token: str) -> dict[str, None]:
    """All that the SDK's class of a type has, given or not: each is an output that the SDK keeps track of."""
    schema = _SCHEMAS.get(token.partition(":")[0])
    if schema is None or not schema.knows(token):
        return {}
    return dict.fromkeys(schema.resource(token).outputs)


def _unknowns(value: Any) -> Any:
    """The recorded value with each unknown as an output that a preview never gets to know."""
    if value == UNKNOWN:
        resolved: asyncio.Future[Any] = asyncio.Future()
        resolved.set_result(None)
        known: asyncio.Future[bool] = asyncio.Future()
        known.set_result(False)
        return pulumi.Output(set(), resolved, known)
    if isinstance(value, Mapping):
        return {key: _unknowns(item) for key, item in value.items() if key != "__defaults"}
    if isinstance(value, list):
        return [_unknowns(item) for item in value]
    return value


def _watching(console: Console) -> list[Figure]:
    """The share of one core that scraping, counting and archiving take, for the sample roster."""
    found = bench_watching.measure(console)
    console.print(", ".join(f"{name} {share:.2%}" for name, share in sorted(found.items())))
    return [_bounded("watching: share of one core", 100 * sum(found.values()), "%", 5, console)]


BENCHES: Mapping[str, Callable[[Console], list[Figure]]] = {
    "previews": _previews,
    "slices": _one_slice,
    "sweep": _sweep,
    "gateway": _gateway,
    "floods": _floods,
    "wake": _wake,
    "database": _database,
    "ledger": _ledger,
    "runtime": _runtime,
    "soak": _soak,
    "watching": _watching,
}
