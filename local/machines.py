"""The tenants' machines as KubeVirt reports them, next to what the program declared."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from kubernetes import client as kubernetes_client

from local.servers import kubernetes

Tenant = Mapping[str, Any]
"""What the program's `tenants` output tells of one; here `vm` is KubeVirt's printable status."""

_SETTLED = {"Running", "Stopped", "Paused", "CrashLoopBackOff", "ErrorUnschedulable", "ErrorPvcNotFound"}
_PATIENCE = 60.0
_PAUSE = 0.5


def observe(declared: Sequence[Tenant]) -> list[dict[str, Any]]:
    """The declared tenants, each with the state of its machine (`absent` where the cluster has none)."""
    objects = kubernetes_client.CustomObjectsApi(kubernetes.client())
    found: Any = objects.list_cluster_custom_object(
        "kubevirt.io", "v1", "virtualmachines", label_selector="tenant-id"
    )
    status = {
        machine["metadata"]["labels"]["tenant-id"]: machine.get("status", {}).get(
            "printableStatus", "Unknown"
        )
        for machine in found["items"]
    }
    return [{**tenant, "vm": status.get(tenant["id"], "absent")} for tenant in declared]


def settle(declared: Sequence[Tenant]) -> None:
    """Wait up to a minute until no machine is on its way up or down; what has not settled shows as it is."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if all(tenant["vm"] in _SETTLED for tenant in observe(declared)):
            return
        time.sleep(_PAUSE)
