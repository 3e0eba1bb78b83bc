"""Gateways' counters of tenants' requests, as they show them to Prometheus."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from services.gateway.settings import HEALTH_PORT
from services.kube import Api, Object, Watched

log = logging.getLogger(__name__)

_LABELS = "app.kubernetes.io/name=gateway"
_TIMEOUT = aiohttp.ClientTimeout(total=10)
_STARTED = "process_start_time_seconds"
_COUNTERS = {
    "gateway_received_bytes_total": "received_bytes",
    "gateway_sent_bytes_total": "sent_bytes",
}
AWAY = (aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError, OverflowError, KeyError)
"""The exceptions for a gateway that does not answer, or talks nonsense."""


class Gateways:
    """The gateways' pods, kept in step by a watch."""

    def __init__(self, api: Api, namespace: str) -> None:
        """Follow the gateways' pods in `namespace`."""
        self._watched = Watched(api, f"/api/v1/namespaces/{namespace}/pods", _address, selector=_LABELS)
        self._away: set[str] = set()

    async def follow(self) -> None:
        """Stay in step until cancelled."""
        await self._watched.follow()

    async def counts(self) -> Sequence[dict[str, Any]]:
        """Ask every gateway. What one that does not answer has counted, it tells the next time."""
        pods = {name: address for (_, name), address in self._watched.items() if address}
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            answers = await asyncio.gather(
                *(self._ask(session, name, address) for name, address in pods.items())
            )
        return [row for rows in answers for row in rows]

    async def _ask(self, session: aiohttp.ClientSession, name: str, address: str) -> list[dict[str, Any]]:
        host = f"[{address}]" if ":" in address else address
        try:
            async with session.get(f"http://{host}:{HEALTH_PORT}/metrics") as response:
                response.raise_for_status()
                found = counted(name, await response.text())
        except AWAY as error:
            if name not in self._away:
                log.warning("%s is not counted: %s", name, str(error) or "no answer in time")
            self._away.add(name)
            return []
        self._away.discard(name)
        return found


def counted(pod: str, text: str) -> list[dict[str, Any]]:
    """Read a gateway's figures, a row for each tenant. Raises `ValueError`.

    A gateway that starts anew counts from 0 again, so its start is part of its name.
    """
    # The others are many, and take long to read.
    wanted = "\n".join(line for line in text.splitlines() if line.startswith((*_COUNTERS, _STARTED)))
    started = None
    rows: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(_COUNTERS.values(), 0))
    for family in text_string_to_metric_families(wanted + "\n"):
        for sample in family.samples:
            if sample.name == _STARTED:
                started = sample.value
            elif field := _COUNTERS.get(sample.name):
                rows[sample.labels["tenant"]][field] = int(sample.value)
    if started is None:
        raise ValueError(f"it does not say when it started ({_STARTED})")
    return [{"source": f"{pod} {started:.2f}", "tenant": tenant, **row} for tenant, row in rows.items()]


def _address(pod: Object) -> str | None:
    status = pod.get("status") or {}
    return status.get("podIP") if status.get("phase") == "Running" else None
