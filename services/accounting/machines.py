"""The runs of tenants' machines, by their status in KubeVirt."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from services.kube import Api, Key, Object, Watched

_PATH = "/apis/kubevirt.io/v1/virtualmachines"
_TENANT = "tenant-id"

Run = tuple[str | None, str | None]
"""From when to when, as RFC 3339. Without a beginning it is the run that was going on when time was last
counted; without an end it is going on."""


@dataclass(frozen=True, kw_only=True)
class _Machine:
    tenant: str
    ready: bool
    since: str
    """The time of the last change between ready and not ready."""


class Machines:
    """The machines of all tenants, kept in step by a watch, and the runs that have ended under it."""

    def __init__(self, api: Api) -> None:
        """Follow all machines."""
        self._watched = Watched(api, _PATH, _read, self._changed, selector=_TENANT)
        self.synced = self._watched.synced
        self._before: dict[Key, _Machine] = {}
        self._ended: dict[str, list[Run]] = {}

    @property
    def silence(self) -> float:
        """Return for how many seconds nothing has been heard of machines."""
        return self._watched.silence

    def runs(self) -> dict[str, Sequence[Run]]:
        """Return each tenant's run that goes on, or the end of its last one, and what ended in between."""
        found: dict[str, list[Run]] = {tenant: list(ended) for tenant, ended in self._ended.items()}
        for machine in (machine for _, machine in self._watched.items()):
            if machine is not None:
                run = (machine.since, None) if machine.ready else (None, machine.since)
                found.setdefault(machine.tenant, []).append(run)
        return dict(found)

    def counted(self, runs: dict[str, Sequence[Run]]) -> None:
        """Forget those of `runs` that have ended: they are counted."""
        for tenant, counted in runs.items():
            left = [run for run in self._ended.pop(tenant, []) if run not in counted]
            if left:
                self._ended[tenant] = left

    async def follow(self) -> None:
        """Stay in step until cancelled."""
        await self._watched.follow()

    def _changed(self, key: Key) -> None:
        before, now = self._before.pop(key, None), self._watched.get(key)
        if now is not None:
            self._before[key] = now
        if before is None or not before.ready:
            return
        if now is None:
            ended = datetime.now(UTC).isoformat(timespec="seconds")
        elif now.ready:
            return  # still the same run, or one whose end nobody saw
        else:
            ended = now.since
        self._ended.setdefault(before.tenant, []).append((before.since, ended))


def _read(machine: Object) -> _Machine | None:
    """Read a VirtualMachine; None: it never ran, or is not where its tenant's machine is."""
    metadata, status = machine["metadata"], machine.get("status") or {}
    tenant = metadata["labels"][_TENANT]
    ready: Object = next((each for each in status.get("conditions") or () if each["type"] == "Ready"), {})
    since = ready.get("lastTransitionTime")
    if metadata["namespace"] != f"tenant-{tenant}" or not since:
        return None
    datetime.fromisoformat(since)  # or it is told, and left out
    return _Machine(tenant=tenant, ready=ready["status"] == "True", since=since)
