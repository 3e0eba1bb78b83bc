"""The accounting itself: each minute, what is known of tenants is counted, and what is counted is shown."""

import asyncio
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from prometheus_client import Gauge

from services.accounting.backups import Backups
from services.accounting.gateways import Gateways
from services.accounting.ledger import Ledger
from services.accounting.machines import Machines, Run
from services.accounting.objects import Objects
from services.accounting.tenants import Tenant
from services.activity import connection
from services.activity.store import Activity
from services.kube import SILENT_SECONDS, Watched

log = logging.getLogger(__name__)

_EVERY_SECONDS = 60.0
_ALWAYS = "1970-01-01T00:00:00Z"

COUNTED = Gauge(
    "accounting_counted_timestamp_seconds", "Up to when the ledger counts, in seconds since 1970."
)
SHOWN = Gauge("accounting_shown_timestamp_seconds", "When Redis was last told what the ledger counts.")


class Accounting:
    """Counts what tenants use."""

    def __init__(
        self,
        tenants: Watched[Tenant],
        machines: Machines,
        gateways: Gateways,
        objects: Objects,
        backups: Backups,
        ledger: Ledger,
        activity: Activity,
    ) -> None:
        """Count into `ledger` what the others know, and show it in `activity`."""
        self._tenants = tenants
        self._machines = machines
        self._gateways = gateways
        self._objects = objects
        self._backups = backups
        self._ledger = ledger
        self._activity = activity
        self._shown: datetime | None = None

    async def run(self) -> None:
        """Count each minute until cancelled."""
        await asyncio.gather(self._tenants.synced.wait(), self._machines.synced.wait())
        while True:
            begun = time.monotonic()
            await self.once()
            await asyncio.sleep(max(1.0, begun + _EVERY_SECONDS - time.monotonic()))

    async def once(self) -> None:
        """Count and show; what cannot be done now is done by the next call."""
        silence = max(self._tenants.silence, self._machines.silence)
        if silence > SILENT_SECONDS:
            log.warning("nothing is counted: the Kubernetes API has said nothing for %.0f s", silence)
            return
        # What is heard later may have happened before now, but not before something else was heard.
        at = datetime.now(UTC) - timedelta(seconds=silence)
        runs, known = self._machines.runs(), [tenant for _, tenant in self._tenants.items()]
        counts = await self._gateways.counts()
        try:
            await self._ledger.count(at, [self._row(tenant, runs) for tenant in known], counts)
        except (psycopg.Error, OSError) as error:
            log.error("nothing is counted: PostgreSQL: %s", str(error).strip().splitlines()[0])
            return
        self._machines.counted(runs)
        COUNTED.set(at.timestamp())
        await self._show(at, [tenant.route.tenant for tenant in known])

    async def _show(self, at: datetime, tenants: Sequence[str]) -> None:
        """Copy what is counted to Redis: from the last copy's day on, and once an hour the whole month's."""
        whole = self._shown is None or self._shown.hour != at.hour
        since = at.replace(day=1) if whole else at
        since = min(since, self._shown or since).replace(hour=0, minute=0, second=0, microsecond=0)
        try:
            for month, usage in (await self._ledger.usage(since, at, tenants)).items():
                await self._activity.record_usage(month, usage)
        except (psycopg.Error, OSError, *connection.UNREACHABLE) as error:
            log.warning("what is counted is not shown: %s", str(error).strip())
            return
        self._shown = at
        SHOWN.set(at.timestamp())

    def _row(self, tenant: Tenant, runs: dict[str, Sequence[Run]]) -> dict[str, Any]:
        route = tenant.route
        ran: Sequence[Run] = ()
        if route.served_by == "machine":
            ran = runs.get(route.tenant, ())
        elif route.served_by == "deployment" and route.state == "active":
            ran = [(_ALWAYS, None)]
        return {
            "tenant": route.tenant,
            "since": tenant.since,
            "tier": route.tier,
            "cpu": int(route.size.cpu) if route.size else 0,
            "memory_gib": int(route.size.memory_gib) if route.size else 0,
            "workspace_gib": int(route.size.workspace_gib) if route.size else 0,
            "runs": ran,
            "object_bytes": self._objects.bytes(route.tenant),
            "backup_bytes": self._backups.bytes(route.tenant),
        }
