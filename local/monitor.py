"""`make monitor`: starts Prometheus, Alertmanager and the logs' collector, and tells what they know."""

import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from infra.platform.monitoring.dashboards import DASHBOARDS, Panel
from local import servers, toolchain
from local.servers import log_collector, monitoring

_PATIENCE = 60
"""Seconds in which each target is to have been scraped twice, which a rate takes."""
_ALL = ".+"
_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The answer of Prometheus to one query of a panel."""

    dashboard: str
    panel: Panel
    query: str
    series: list[dict[str, Any]]
    """As Prometheus' API has them: `metric`, its labels, and `value`, a time and a number as text."""


def start(console: Console) -> None:
    """Start what does not run yet, and wait until every target has told its figures. Raises LocalError."""
    toolchain.ensure(console, *monitoring.PROGRAMS, log_collector.PROGRAM)
    servers.start_monitoring(console)
    with console.status("prometheus: waits for its first figures"):
        _settle()


def targets() -> list[dict[str, str]]:
    """Return Prometheus' targets: `job`, `url`, `health` and `error`."""
    return sorted(
        (
            {
                "job": target["labels"]["job"],
                "url": target["scrapeUrl"],
                "health": target["health"],
                "error": target["lastError"],
            }
            for target in monitoring.ask("targets?state=active")["activeTargets"]
        ),
        key=lambda target: (target["job"], target["url"]),
    )


def jobs() -> set[str]:
    """Return the names of the jobs that have a target."""
    return {target["job"] for target in targets()}


def answers() -> Iterator[Answer]:
    """Ask Prometheus what each panel of each dashboard shows, for all tenants."""
    known = jobs()
    for dashboard in DASHBOARDS.values():
        for panel in dashboard.shown(known):
            for query in panel.queries.values():
                yield Answer(
                    dashboard=dashboard.title,
                    panel=panel,
                    query=query,
                    series=ask(query.replace("$tenant", _ALL)),
                )


def ask(query: str) -> list[dict[str, Any]]:
    """Return what Prometheus answers to PromQL now."""
    found: list[dict[str, Any]] = monitoring.ask(f"query?{urllib.parse.urlencode({'query': query})}")[
        "result"
    ]
    return found


def firing() -> list[dict[str, Any]]:
    """Return the alerts that fire now, as Prometheus has them."""
    return [alert for alert in monitoring.ask("alerts")["alerts"] if alert["state"] == "firing"]


def report() -> dict[str, Any]:
    """Return targets, what each panel shows, and the alerts that fire, for scripts."""
    panels = [
        {
            "dashboard": answer.dashboard,
            "panel": answer.panel.title,
            "quiet": answer.panel.quiet,
            "query": answer.query,
            "series": [{"labels": one["metric"], "value": one["value"][1]} for one in answer.series],
        }
        for answer in answers()
    ]
    urls = {name: monitoring.url(name) for name in ("prometheus", "alertmanager")}
    return {"urls": urls, "targets": targets(), "panels": panels, "alerts": firing()}


def tell(console: Console) -> None:
    """Print addresses, targets, what the dashboards show, and the alerts that fire."""
    console.print(
        f"Prometheus: {monitoring.url('prometheus')}   Alertmanager: {monitoring.url('alertmanager')}"
    )
    console.print(f"Alerts arrive in {monitoring.ALERTS}", soft_wrap=True)
    table = Table("job", "target", "health", title="Targets")
    for target in targets():
        table.add_row(target["job"], target["url"], f"{target['health']} {target['error']}".strip())
    console.print(table)
    table = Table("dashboard", "panel", "series", "such as", title="Dashboards")
    for answer in answers():
        table.add_row(
            answer.dashboard,
            answer.panel.title,
            str(len(answer.series)),
            "; ".join(map(_brief, answer.series[:_SHOWN])),
        )
    console.print(table)
    table = Table("severity", "alert", "since", "summary", title="Alerts that fire")
    for alert in firing():
        labels, annotations = alert["labels"], alert["annotations"]
        table.add_row(labels["severity"], labels["alertname"], alert["activeAt"][:19], annotations["summary"])
    console.print(table)


def _settle() -> None:
    """Wait until every target has been scraped twice or is down for good."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        known = monitoring.ask("targets?state=active")["activeTargets"]
        scraped = ask("min(count_over_time(up[5m])) and on () ALERTS")  # and rules have been evaluated
        if (
            known
            and scraped
            and float(scraped[0]["value"][1]) >= 2
            and not any(target["health"] == "unknown" for target in known)
        ):
            return
        time.sleep(2)


def _brief(series: dict[str, Any]) -> str:
    labels = [
        value
        for name, value in sorted(series["metric"].items())
        if name not in ("__name__", "instance", "job", "pod")
    ]
    return f"{' '.join(labels)} {float(series['value'][1]):.4g}".strip()
