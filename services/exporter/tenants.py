"""The figures of tenants from their ConfigMaps and from Redis: state, terms, sleep, and cost.

Cost is an estimate by list prices while the month runs: a fixed part, and the hours awake.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from prometheus_client.core import CounterMetricFamily, Metric
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from services.activity.store import Activity
from services.exporter.figures import gauge
from services.gateway import routes
from services.kube import Api, Object, Watched

_TERMS = "terms.json"
_TERM_GAUGES = (
    (
        "agent_platform_availability_objective_ratio",
        "The share of the tenant's requests that the platform is not to fail.",
        "availability",
    ),
    (
        "agent_platform_wake_objective_seconds",
        "The time that a wake of the tenant is to take at most, on average.",
        "wake_seconds",
    ),
    (
        "agent_platform_list_price_chf",
        "What the tenant pays per month by the list, in CHF.",
        "list_price_chf",
    ),
    ("agent_platform_budget_chf", "What the tenant may cost per month, in CHF.", "budget_chf"),
)
_FIRST_SECONDS = 3 * 86_400
"""Of a month: too short to tell more from."""
_CHF = Annotated[float, Field(ge=0, le=1_000_000)]


class Terms(BaseModel):
    """The terms agreed with a tenant, as the program declares it beside the tenant's route."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, strict=True, allow_inf_nan=False, alias_generator=to_camel
    )
    availability: float = Field(gt=0, lt=1)
    """The share of requests that the platform is not to fail."""
    wake_seconds: float | None = Field(default=None, gt=0)
    """The time that a wake is to take at most, on average."""
    list_price_chf: _CHF | None = None
    budget_chf: _CHF | None = None
    """Both per month."""


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """A tenant as the program declares it."""

    route: routes.Route
    terms: Terms


class Tenants:
    """The tenants of all ConfigMaps in the gateway's namespace, kept in step by a watch."""

    def __init__(self, api: Api, namespace: str) -> None:
        """Follow the ConfigMaps of `namespace`."""
        path = f"/api/v1/namespaces/{namespace}/configmaps"
        self._watched = Watched(api, path, _read, selector=routes.LABEL)
        self.synced = self._watched.synced

    @property
    def silence(self) -> float:
        """Return for how many seconds nothing has been heard of tenants."""
        return self._watched.silence

    def all(self) -> list[Tenant]:
        """Return all tenants that can be read, by id."""
        return sorted((tenant for _, tenant in self._watched.items()), key=lambda one: one.route.tenant)

    async def follow(self) -> None:
        """Stay in step until cancelled."""
        await self._watched.follow()


def _read(config_map: Object) -> Tenant:
    try:
        terms = Terms.model_validate(json.loads(config_map["data"][_TERMS]))
        return Tenant(route=routes.parse(config_map), terms=terms)
    except ValueError as error:
        raise TypeError(str(error)) from None  # `Watched` tells it, and goes on with the others


def declared(tenants: Iterable[Tenant]) -> Iterable[Metric]:
    """Return what the program says of tenants."""
    known = list(tenants)
    yield gauge(
        "agent_platform_tenant",
        "1 for each tenant that the program declares.",
        ["tenant", "tier", "state", "served_by"],
        (((one.route.tenant, one.route.tier, one.route.state, one.route.served_by), 1) for one in known),
    )
    for name, text, term in _TERM_GAUGES:
        agreed = ((one.route.tenant, getattr(one.terms, term)) for one in known)
        yield gauge(
            name, text, ["tenant"], (((tenant,), value) for tenant, value in agreed if value is not None)
        )


async def activity(tenants: Iterable[Tenant], store: Activity, now: datetime) -> Iterable[Metric]:
    """Return what Redis keeps of tenants' machines, and what tenants cost by it.

    Raises one of `connection.UNREACHABLE`.
    """
    known = [one.route for one in tenants]
    machines = [route.tenant for route in known if route.served_by == "machine"]
    verdicts = await store.verdicts(machines)
    sweep = await store.last_sweep() or {}
    usage = await store.usage(machines, now.strftime("%Y-%m"))
    awake = {tenant: one.total for tenant, one in usage.items()}
    costs = {route.tenant: _cost(route, awake.get(route.tenant, 0.0), now) for route in known if route.price}
    return [
        gauge(
            "idle_suspender_verdict",
            "1 for what was last decided about the tenant's machine.",
            ["tenant", "decision"],
            (((tenant, verdict.decision), 1) for tenant, verdict in verdicts.items()),
        ),
        gauge(
            "idle_suspender_last_sweep",
            "The last sweep: `at` in seconds since 1970, how long it took, how many it decided what about.",
            ["figure"],
            (((figure,), value) for figure, value in sweep.items()),
        ),
        _awake(awake),
        gauge(
            "agent_platform_last_awake_timestamp_seconds",
            "When the tenant's machine was last seen running, in seconds since 1970.",
            ["tenant"],
            (((tenant,), one.last_awake) for tenant, one in usage.items() if one.last_awake),
        ),
        gauge(
            "agent_platform_cost_chf",
            "What the tenant has cost since the month began, in CHF by list prices.",
            ["tenant"],
            (((tenant,), so_far) for tenant, (so_far, _) in costs.items()),
        ),
        gauge(
            "agent_platform_cost_forecast_chf",
            "What the tenant will have cost when the month ends, if it goes on like this.",
            ["tenant"],
            (((tenant,), forecast) for tenant, (_, forecast) in costs.items()),
        ),
    ]


def _awake(seconds: Mapping[str, float]) -> CounterMetricFamily:
    family = CounterMetricFamily(
        "agent_platform_awake_seconds",
        "How long the tenant's machine has run; begins at 0 with each month (UTC).",
        labels=["tenant"],
    )
    for tenant, value in seconds.items():
        family.add_metric([tenant], value)
    return family


def _cost(route: routes.Route, awake_seconds: float, now: datetime) -> tuple[float, float]:
    """Return the cost of the month so far and at its end, in CHF."""
    price: Any = route.price
    begun = datetime(now.year, now.month, 1, tzinfo=UTC)
    ends = datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
    passed, whole = (now - begun).total_seconds(), (ends - begun).total_seconds()
    running = awake_seconds / 3600 * price.awake_hour_chf
    so_far = price.month_chf * passed / whole + running
    return so_far, price.month_chf + running * whole / max(passed, _FIRST_SECONDS)
