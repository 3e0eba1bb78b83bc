"""Each tenant's availability against its objective, by how fast the month's allowance of failures burns.

The objective is the tenant's own, from its tier or contract.
Several windows, long and short, as in <https://sre.google/workbook/alerting-on-slos/>, "Multiwindow,
Multi-Burn-Rate Alerts": the long one shows that it matters, the short one that it still goes on.
"""

from typing import Any

_WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
_LEAST = 10
"""Failures in the long window below which nobody is told: of a few requests, one is a large share."""

_OF_EXPORTER = [
    {
        "record": f"tenant:{name}",
        "expr": f"max by (tenant) (last_over_time({metric}[1d]))",
    }
    for name, metric in (
        ("availability_objective:ratio", "agent_platform_availability_objective_ratio"),
        ("wake_objective:seconds", "agent_platform_wake_objective_seconds"),
        ("awake_seconds:total", "agent_platform_awake_seconds_total"),
    )
]

Window = tuple[float, str, str]
"""A factor by which failures exceed the allowance, the long window, and the short window."""


def recorded() -> list[dict[str, Any]]:
    """Return the rules that record the share of failed requests by tenant, for each window.

    Failed is what the platform itself could not do: neither an agent's own 5xx, nor an answer that says to
    come again while a machine wakes, for which there is an objective of its own. Requests that were refused
    do not count at all: anybody can send any number of them.

    What the exporter tells is recorded without its pod, which changes, and for a day after it has gone.
    """
    return [*_OF_EXPORTER, *(rule for window in _WINDOWS for rule in _recorded(window))]


def _recorded(window: str) -> list[dict[str, Any]]:
    failed = f'sum by (tenant) (increase(gateway_requests_total{{status="unavailable"}}[{window}]))'
    asked = (
        f'sum by (tenant) (increase(gateway_requests_total{{status!~"refused|limited|waking"}}[{window}]))'
    )
    failures = f"tenant:gateway_failures:increase{window}"
    return [
        # Whom nobody has failed yet has no such series.
        {"record": failures, "expr": f"{failed} or 0 * {asked}"},
        {"record": f"tenant:gateway_failures:ratio{window}", "expr": f"{failures} / ({asked} > 0)"},
    ]


def burns(*windows: Window) -> str:
    """Return the expression for tenants whose allowance burns so fast over any of these pairs of windows."""
    return " or ".join(
        f"(tenant:gateway_failures:ratio{long} > on (tenant) "
        f"{factor} * (1 - tenant:availability_objective:ratio) "
        f"and tenant:gateway_failures:ratio{short} > on (tenant) "
        f"{factor} * (1 - tenant:availability_objective:ratio) "
        f"and tenant:gateway_failures:increase{long} >= {_LEAST})"
        for factor, long, short in windows
    )
