"""What the tenants' agents run in, as the cluster reports it, next to what the program declared."""

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from kubernetes import client as kubernetes_client

from local.servers import kubernetes

Tenant = Mapping[str, Any]
"""What the program's `tenants` output tells of one; observed, also the `status` of what serves it and, if the
cluster tells, `since` when, in seconds since the epoch."""

_SETTLED = {
    *("Running", "Stopped", "Paused", "CrashLoopBackOff", "ErrorUnschedulable", "ErrorPvcNotFound"),
    *("Available", "Unavailable", "NotServed"),
}
_RUNTIME = "runtime"
_PATIENCE = 60.0
_PAUSE = 0.5


class Seen(NamedTuple):
    """What the cluster says of a machine or a Deployment."""

    status: str
    since: float | None = None


_ABSENT = Seen("absent")


def observe(declared: Sequence[Tenant]) -> list[dict[str, Any]]:
    """The declared tenants, each with the status of its machine, its Deployment or the shared runtime.

    `absent` where the cluster has none; `NotServed` where the runtime serves others only.
    """
    machines, deployments = dict(_machines()), dict(_deployments())
    known = {"machine": machines, "deployment": deployments}

    def seen(tenant: Tenant) -> Seen:
        if tenant["served_by"] in known:
            return known[tenant["served_by"]].get(tenant["id"], _ABSENT)
        return deployments.get(_RUNTIME, _ABSENT) if tenant["state"] == "active" else Seen("NotServed")

    return [{**tenant, **seen(tenant)._asdict()} for tenant in declared]


def settle(declared: Sequence[Tenant]) -> None:
    """Wait up to a minute until nothing is on its way up or down; what has not settled shows as it is."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if all(tenant["status"] in _SETTLED for tenant in observe(declared)):
            return
        time.sleep(_PAUSE)


def _machines() -> Iterator[tuple[str, Seen]]:
    """The tenants' ids with what KubeVirt prints of their machines."""
    objects = kubernetes_client.CustomObjectsApi(kubernetes.client())
    found: Any = objects.list_cluster_custom_object(
        "kubevirt.io", "v1", "virtualmachines", label_selector="tenant-id"
    )
    for machine in found["items"]:
        status = machine.get("status", {})
        changed = {one["type"]: one.get("lastTransitionTime") for one in status.get("conditions", ())}
        seen = Seen(status.get("printableStatus", "Unknown"), _seconds(changed.get("Ready")))
        yield machine["metadata"]["labels"]["tenant-id"], seen


def _deployments() -> Iterator[tuple[str, Seen]]:
    """The tenants' ids with the state of their Deployments, and that of the shared runtime."""
    apps = kubernetes_client.AppsV1Api(kubernetes.client())
    found: Any = apps.list_deployment_for_all_namespaces(
        label_selector="app.kubernetes.io/part-of=agent-platform"
    )
    for one in found.items:
        changed = {item.type: item.last_transition_time for item in one.status.conditions or ()}
        available = changed.get("Available")
        seen = Seen(_state(one), available.timestamp() if available else None)
        yield one.metadata.labels.get("tenant-id", one.metadata.namespace), seen


def _seconds(moment: str | None) -> float | None:
    return datetime.fromisoformat(moment).timestamp() if moment else None


def _state(deployment: Any) -> str:
    """In KubeVirt's manner of speaking: `Stopped`, `Available`, `Starting`, or why it is not to come."""
    if not deployment.spec.replicas:
        return "Stopped" if not deployment.status.replicas else "Stopping"
    if (deployment.status.available_replicas or 0) >= deployment.spec.replicas:
        return "Available"
    progressing = {one.type: one.status for one in deployment.status.conditions or ()}.get("Progressing")
    return "Unavailable" if progressing == "False" else "Starting"
