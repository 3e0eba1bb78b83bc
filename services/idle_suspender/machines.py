"""What the suspender sees of KubeVirt's machines, and which of them it leaves alone."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.activity.store import Machine

TENANT = "tenant-id"
"""The label that says whose machine it is."""

IDLE_SECONDS = "agent-platform/idle-seconds"
"""The annotation that says after how many seconds without a sign a machine is idle."""

DEFAULT_IDLE_SECONDS = 900

Object = dict[str, Any]

_STRATEGY = "RerunOnFailure"
"""That of machines that sleep and wake: `stop` and `start` leave it as the program declared it."""
_LIMIT_DIGITS = 9


@dataclass(frozen=True, kw_only=True)
class Running:
    """A machine that runs."""

    tenant: str
    namespace: str
    name: str
    uid: str
    since: float | None
    """Since when it is ready, in seconds since 1970; None: it is not."""
    limit: int
    left: str | None
    """Why it is not even judged."""

    def judged(self) -> Machine:
        """What the store judges by."""
        return Machine(tenant=self.tenant, limit=self.limit, since=self.since or 0)


def running(machine: Object) -> Running | None:
    """Read a VirtualMachine; None: it does not run. One that makes no sense is left running, and says why."""
    try:
        return _running(machine)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        metadata = machine["metadata"]
        return Running(
            tenant=metadata["labels"][TENANT],
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata["uid"],
            since=None,
            limit=0,
            left=f"what KubeVirt says of it cannot be read ({type(error).__name__}: {error})",
        )


def _running(machine: Object) -> Running | None:
    metadata, status = machine["metadata"], machine.get("status") or {}
    state = status.get("printableStatus")
    if not isinstance(state, str | None):
        raise TypeError(f"printableStatus is {state}")
    if state not in ("Running", "Migrating", "Paused"):
        return None
    tenant, namespace = metadata["labels"][TENANT], metadata["namespace"]
    ready: Object = next((each for each in status.get("conditions") or () if each["type"] == "Ready"), {})
    since = _time(ready.get("lastTransitionTime")) if ready.get("status") == "True" else None
    told = (metadata.get("annotations") or {}).get(IDLE_SECONDS, str(DEFAULT_IDLE_SECONDS))
    limit = int(told) if told.isascii() and told.isdecimal() and len(told) <= _LIMIT_DIGITS else 0
    strategy = (machine.get("spec") or {}).get("runStrategy")
    reasons = {
        f"it is not in its tenant's namespace but in {namespace}": namespace != f"tenant-{tenant}",
        f"its run strategy is {strategy}, not {_STRATEGY}": strategy != _STRATEGY,
        "it migrates to another node": state == "Migrating",
        "it is paused": state == "Paused",
        "it is being deleted": metadata.get("deletionTimestamp") is not None,
        "a snapshot of it is being taken": status.get("snapshotInProgress") is not None,
        "it is being restored": status.get("restoreInProgress") is not None,
        "a start or stop of it is under way": bool(status.get("stateChangeRequests")),
        "it is not ready": since is None,
        f'its {IDLE_SECONDS} is "{told[:40]}", which is no number of seconds': limit < 1,
    }
    return Running(
        tenant=tenant,
        namespace=namespace,
        name=metadata["name"],
        uid=metadata["uid"],
        since=since,
        limit=limit,
        left=next((reason for reason, holds in reasons.items() if holds), None),
    )


def _time(text: str | None) -> float | None:
    return datetime.fromisoformat(text).timestamp() if text else None
