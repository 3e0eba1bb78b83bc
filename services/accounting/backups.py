"""The size of Longhorn's backups of tenants' workspaces.

A `BackupVolume` stands for all backups of a volume, whose blocks they share:
<https://longhorn.io/docs/1.12.0/references/>.
"""

import json

from services.kube import Api, Object, Watched

_PATH = "/apis/longhorn.io/v1beta2/namespaces/longhorn-system/backupvolumes"
_OF_TENANT = "tenant-"


class Backups:
    """The volumes that have backups, kept in step by a watch."""

    def __init__(self, api: Api) -> None:
        """Follow Longhorn's backup volumes."""
        self._watched = Watched(api, _PATH, _read)

    async def follow(self) -> None:
        """Stay in step until cancelled."""
        await self._watched.follow()

    def bytes(self, tenant: str) -> int | None:
        """Return what is kept for the tenant; None: that is not known yet."""
        if not self._watched.synced.is_set():
            return None
        found = (volume for _, volume in self._watched.items() if volume is not None)
        return sum(size for whose, size in found if whose == tenant)


def _read(volume: Object) -> tuple[str, int] | None:
    status = volume.get("status") or {}
    claim = json.loads((status.get("labels") or {}).get("KubernetesStatus") or "{}")
    namespace = str(claim.get("namespace", ""))
    if not namespace.startswith(_OF_TENANT):
        return None
    return namespace.removeprefix(_OF_TENANT), int(status.get("dataStored") or 0)
