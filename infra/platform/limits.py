"""Quotas and limits of the namespaces in which agents run.

<https://kubernetes.io/docs/concepts/policy/resource-quotas/>, <https://kubernetes.io/docs/concepts/policy/limit-range/>
"""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pulumi
import pulumi_kubernetes as k8s

NOTHING_BUT_WHAT_IS_NAMED: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(
        (
            "pods",
            "persistentvolumeclaims",
            "requests.storage",
            "services.loadbalancers",
            "services.nodeports",
            "count/deployments.apps",
            "count/statefulsets.apps",
            "count/daemonsets.apps",
            "count/replicationcontrollers",
            "count/jobs.batch",
            "count/cronjobs.batch",
            "count/virtualmachines.kubevirt.io",
            "count/virtualmachineinstancereplicasets.kubevirt.io",
            "count/virtualmachinepools.pool.kubevirt.io",
        ),
        "0",
    )
)
"""A quota that lets nothing run, be stored or be reached: each namespace adds what it is for."""

SMALLEST: Mapping[str, str] = MappingProxyType({"cpu": "100m", "memory": "128Mi"})
"""What a container gets that names nothing, where the quota demands that each names something."""


def at_most(cpu: str, memory: str, **others: str) -> k8s.core.v1.LimitRangeItemArgsDict:
    """Limits of a container."""
    return {
        "type": "Container",
        "default": SMALLEST,
        "default_request": SMALLEST,
        "max": {"cpu": cpu, "memory": memory, **others},
    }


def declare_limits(
    prefix: str,
    namespace: str,
    *,
    hard: Mapping[str, str],
    limits: Sequence[k8s.core.v1.LimitRangeItemArgsDict],
    labels: Mapping[str, str],
    opts: pulumi.ResourceOptions,
    counted: str | None = None,
) -> list[pulumi.Resource]:
    """Declare the namespace's quota, of what `hard` names and nothing else, and its limits.

    `counted` is an entry of `hard` that counts a custom resource and is in force when the quota is declared:
    Kubernetes refuses each such object until it has learnt to count them, which takes up to five minutes from
    the installation of their definition.
    """
    metadata: k8s.meta.v1.ObjectMetaArgsDict = {"name": "quota", "namespace": namespace, "labels": labels}
    if counted:
        entry = counted.replace(".", r"\.")
        in_force = [
            f"jsonpath={{.status.hard.{entry}}}={hard[counted]}",
            f"jsonpath={{.status.used.{entry}}}",
        ]
        metadata["annotations"] = {
            "pulumi.com/waitFor": json.dumps(in_force),
            "pulumi.com/timeoutSeconds": "600",
        }
    quota = k8s.core.v1.ResourceQuota(
        f"{prefix}-quota",
        metadata=metadata,
        spec={"hard": {**NOTHING_BUT_WHAT_IS_NAMED, **hard}},
        opts=opts,
    )
    ranges = k8s.core.v1.LimitRange(
        f"{prefix}-limits",
        metadata={"name": "limits", "namespace": namespace, "labels": labels},
        spec={"limits": limits},
        opts=opts,
    )
    return [quota, ranges]
