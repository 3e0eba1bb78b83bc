"""The answer to a scrape: the figures of every source that answers, and which sources do.

A source that is away costs its own figures and nobody else's.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping

import psycopg
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services import kube
from services.activity import connection

log = logging.getLogger(__name__)

_SECONDS = 20
"""The time that a source has, less than a scrape has."""

AWAY = (*connection.UNREACHABLE, *kube.UNREACHABLE, kube.ApiError, psycopg.Error)
"""The errors of a source that does not answer, or refuses."""

Source = Callable[[], Awaitable[Iterable[Metric]]]
"""Asks one server. Raises one of `AWAY`."""


async def collect(sources: Mapping[str, Source]) -> bytes:
    """Return the figures of all sources, by name, in Prometheus' text format."""
    answers = await asyncio.gather(*(_ask(name, source) for name, source in sources.items()))
    up = GaugeMetricFamily(
        "agent_platform_source_up", "1 if the source answered this scrape.", labels=["source"]
    )
    found: list[Metric] = [up]
    for name, answer in zip(sources, answers, strict=True):
        up.add_metric([name], 0 if answer is None else 1)
        found += answer or []
    registry = CollectorRegistry()
    registry.register(_Collected(found))
    return generate_latest(registry)


async def _ask(name: str, source: Source) -> list[Metric] | None:
    try:
        async with asyncio.timeout(_SECONDS):
            return list(await source())
    except AWAY as error:
        log.warning("%s: no figures: %s", name, str(error) or "no answer in time")
        return None


class _Collected(Collector):
    """Figures that are there already, as a registry takes them."""

    def __init__(self, found: Iterable[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        return self._found


def gauge(
    name: str, text: str, labels: Iterable[str], values: Iterable[tuple[Iterable[str], float]]
) -> GaugeMetricFamily:
    """Return a gauge with a value for each list of labels' values."""
    family = GaugeMetricFamily(name, text, labels=list(labels))
    for label_values, value in values:
        family.add_metric(list(label_values), value)
    return family
