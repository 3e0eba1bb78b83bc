"""The time of Longhorn's last backup of each tenant's workspace.

A `Backup` is labelled with the claim of its volume: <https://longhorn.io/docs/1.12.0/references/>.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from prometheus_client.core import Metric

from services.exporter.figures import gauge
from services.kube import Api, Object, Watched

_PATH = "/apis/longhorn.io/v1beta2/namespaces/longhorn-system/backups"
_OF_TENANT = "tenant-"


@dataclass(frozen=True, slots=True)
class _Backup:
    tenant: str
    at: float


class Backups:
    """The backups that are complete, kept in step by a watch."""

    def __init__(self, api: Api) -> None:
        """Follow Longhorn's backups."""
        self._watched = Watched(api, _PATH, _read)

    @property
    def silence(self) -> float:
        """Return for how many seconds nothing has been heard of backups."""
        return self._watched.silence

    async def follow(self) -> None:
        """Stay in step until cancelled."""
        await self._watched.follow()

    def figures(self) -> Iterable[Metric]:
        """Return when the last one of each tenant was made."""
        latest: dict[str, float] = {}
        found = [backup for _, backup in self._watched.items()]
        for backup in found:
            if backup is not None:
                latest[backup.tenant] = max(backup.at, latest.get(backup.tenant, 0))
        yield gauge(
            "agent_platform_workspace_backup_timestamp_seconds",
            "When the last complete backup of the tenant's workspace was made, in seconds since 1970.",
            ["tenant"],
            (((tenant,), at) for tenant, at in latest.items()),
        )


def _read(backup: Object) -> _Backup | None:
    status = backup.get("status") or {}
    if status.get("state") != "Completed":
        return None
    claim = json.loads((status.get("labels") or {}).get("KubernetesStatus") or "{}")
    namespace = str(claim.get("namespace", ""))
    if not namespace.startswith(_OF_TENANT):
        return None
    at = datetime.fromisoformat(status["backupCreatedAt"])
    return _Backup(namespace.removeprefix(_OF_TENANT), at.timestamp())
