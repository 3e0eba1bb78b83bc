"""The operators' page: every tenant, awake or asleep, since when, why, at what cost, and its last wake.

Whoever gets here has signed in as an operator; the page and `/tenants.json` show and change nothing else.
"""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as Endpoint

from services.activity.connection import UNREACHABLE
from services.activity.store import Activity, Usage, Verdict
from services.gateway import pages
from services.gateway.routes import Route, Routes
from services.gateway.states import State
from services.gateway.wake import Wakes

log = logging.getLogger(__name__)

_RELOAD_SECONDS = 10
_NOTHING = "\N{EN DASH}"
_THOUSANDS = "\N{RIGHT SINGLE QUOTATION MARK}"
_PHASES = {"queued": "queued", "start": "machine start", "boot": "boot", "ready": "agents ready"}

Standing = Literal["failed", "waking", "stopping", "awake", "asleep", "off"]
_ORDER: tuple[Standing, ...] = ("failed", "waking", "stopping", "awake", "asleep", "off")


@dataclass(frozen=True, kw_only=True)
class _Published:
    """What is known from Redis; empty while it is away."""

    verdicts: dict[str, Verdict]
    usage: dict[str, Usage]
    wakes: dict[str, dict[str, float]]
    sweep: dict[str, float]
    problem: str = ""


def application(routes: Routes, wakes: Wakes, activity: Activity) -> Starlette:
    """Return what answers on the operators' host."""

    async def look() -> tuple[list[dict[str, Any]], _Published]:
        known = routes.all()
        published = await _published(known, activity)
        return [_tenant(route, wakes.state(route), published) for route in known], published

    async def page(_: Request) -> Response:
        return _page(*await look())

    async def document(_: Request) -> Response:
        tenants, published = await look()
        found = {"tenants": tenants, "sweep": published.sweep, "problem": published.problem or None}
        return JSONResponse(found, headers={"Cache-Control": "no-store"})

    return Starlette(routes=[Endpoint("/", page), Endpoint("/tenants.json", document)])


async def _published(routes: Sequence[Route], activity: Activity) -> _Published:
    tenants = [route.tenant for route in routes]
    month = datetime.now(UTC).strftime("%Y-%m")
    try:
        return _Published(
            verdicts=await activity.verdicts(tenants),
            usage=await activity.usage(tenants, month),
            wakes=await activity.wakes(tenants),
            sweep=await activity.last_sweep() or {},
        )
    except UNREACHABLE as error:
        log.warning("the console goes without Redis: %s", error)
        problem = "Redis does not answer: reasons, usage and last wakes are not known right now."
        return _Published(verdicts={}, usage={}, wakes={}, sweep={}, problem=problem)


def _tenant(route: Route, state: State, published: _Published) -> dict[str, Any]:
    """Return what is told of a tenant, as `/tenants.json` has it."""
    usage = published.usage.get(route.tenant) if route.served_by == "machine" else None
    hours = None if usage is None else usage.total / 3600
    return {
        "tenant": route.tenant,
        "tier": route.tier,
        "servedBy": route.served_by,
        "state": standing(route, state),
        "phase": state.phase,
        "sinceSeconds": state.seconds,
        "why": _why(route, state, published.verdicts.get(route.tenant)),
        "awakeHours": hours,
        "awakeHoursByDay": None if usage is None else _by_day(usage),
        "costChf": _cost(route, hours),
        "lastWake": published.wakes.get(route.tenant),
    }


def _by_day(usage: Usage) -> list[float]:
    """Return the hours awake of each day of the month up to today (UTC)."""
    return [usage.awake_seconds.get(day, 0) / 3600 for day in range(1, datetime.now(UTC).day + 1)]


def standing(route: Route, state: State) -> Standing:
    """Return what a tenant's state is called."""
    if route.state != "active":
        return "off"
    if state.phase in ("queued", "start", "boot", "ready"):
        return "waking"
    standings: dict[str, Standing] = {"awake": "awake", "failed": "failed", "stopping": "stopping"}
    return standings.get(state.phase, "asleep")


def _why(route: Route, state: State, verdict: Verdict | None) -> str:
    if route.state != "active":
        return f"the tenant is {route.state}"
    if state.failure:
        return f"{state.failure.kind}: {state.failure.detail}"
    if route.served_by != "machine":
        return "has no machine, and does not sleep"
    if state.phase in ("queued", "start", "boot", "ready"):
        return "a request wakes it"
    return verdict.told() if verdict else ""


def _cost(route: Route, hours: float | None) -> float | None:
    """Return what the month has cost so far: the fixed part, and the hours awake; None if not known."""
    if route.price is None or (hours is None and route.served_by == "machine"):
        return None
    return round(route.price.month_chf + (hours or 0) * route.price.awake_hour_chf, 2)


def _page(tenants: Sequence[dict[str, Any]], published: _Published) -> Response:
    ordered = sorted(tenants, key=lambda tenant: (_ORDER.index(tenant["state"]), tenant["tenant"]))
    return pages.page(
        200,
        "console.html",
        now=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"),
        reload=_RELOAD_SECONDS,
        problem=published.problem,
        tiles=_tiles(tenants, published.sweep),
        rows=[_row(tenant) for tenant in ordered],
        legend=list(_PHASES.items()),
    )


def _tiles(tenants: Sequence[dict[str, Any]], sweep: dict[str, float]) -> list[tuple[str, str]]:
    counts = Counter(tenant["state"] for tenant in tenants)
    cost = sum(tenant["costChf"] or 0 for tenant in tenants)
    shown = ("awake", "waking", "asleep", "failed")
    return [
        ("tenants", str(len(tenants))),
        *((name, str(counts[name])) for name in shown),
        ("CHF this month", _amount(cost)),
        ("since the last sweep", _ago(sweep["at"]) if "at" in sweep else _NOTHING),
    ]


def _row(tenant: dict[str, Any]) -> dict[str, Any]:
    state, seconds = tenant["state"], tenant["sinceSeconds"]
    return {
        "tenant": tenant["tenant"],
        "tier": tenant["tier"],
        "served_by": tenant["servedBy"],
        "state": f"waking: {_PHASES[tenant['phase']]}" if state == "waking" else state,
        "badge": state,
        "since": f"for {_span(seconds)}" if seconds is not None else "",
        "why": tenant["why"],
        "awake": _NOTHING if tenant["awakeHours"] is None else f"{tenant['awakeHours']:.1f} h",
        "days": _days(tenant["awakeHoursByDay"] or []),
        "cost": _NOTHING if tenant["costChf"] is None else _amount(tenant["costChf"]),
        "wake": _wake(tenant["lastWake"]) if tenant["lastWake"] else None,
    }


def _days(hours: Sequence[float]) -> list[tuple[float, float, str]]:
    """Return a bar for each day: where it begins, its height out of 24, and what it stands for."""
    month = datetime.now(UTC).strftime("%Y-%m")
    return [
        (day - 1, round(min(value, 24), 2), f"{month}-{day:02}: {value:.1f} h awake")
        for day, value in enumerate(hours, start=1)
    ]


def _wake(wake: dict[str, float]) -> dict[str, Any]:
    phases = [(phase, wake.get(phase, 0.0)) for phase in _PHASES]
    total = sum(seconds for _, seconds in phases) or 1
    bars, x = [], 0.0
    for phase, seconds in phases:
        width = 100 * seconds / total
        bars.append((phase, round(x, 2), round(width, 2)))
        x += width
    return {
        "seconds": f"{wake.get('seconds', 0):.1f}",
        "at": f"{_ago(wake['at'])} ago" if "at" in wake else "",
        "told": ", ".join(f"{_PHASES[phase]} {seconds:.1f} s" for phase, seconds in phases),
        "bars": bars,
    }


def _ago(at: float) -> str:
    return _span(max(0.0, time.time() - at))


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _amount(chf: float) -> str:
    return f"{chf:,.2f}".replace(",", _THOUSANDS)
