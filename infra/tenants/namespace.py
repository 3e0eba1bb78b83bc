"""A tenant's namespace, and the identity of what runs in it."""

from collections.abc import Mapping

import pulumi
import pulumi_kubernetes as k8s

from infra.tenants.lifecycle import protected
from infra.tenants.quota import MEMORY_LIMIT_RATIO
from infra.tenants.roster import TenantEntry
from infra.tenants.secrets import SERVICE_ACCOUNT


def labels(tenant: TenantEntry) -> Mapping[str, str]:
    """What every Kubernetes object of the tenant is labelled with."""
    return {"tenant-id": tenant.id, "tier": tenant.tier, "app.kubernetes.io/part-of": "agent-platform"}


def agents(tenant: TenantEntry) -> Mapping[str, str]:
    """What the pods are selected by in which the tenant's agents run, a machine's pod being one."""
    return {"tenant-id": tenant.id}


def declare_namespace(tenant: TenantEntry, opts: pulumi.ResourceOptions) -> list[pulumi.Resource]:
    """Declare the namespace, and the service account if anything runs in it."""
    name, marked = tenant.id, labels(tenant)
    # A machine's pod adds NET_BIND_SERVICE and sets no seccomp profile: `restricted` refuses it, `baseline`
    # lets it in, and with it no host path, host network or privileged pod.
    level = "baseline" if tenant.parts.machine else "restricted"
    # KubeVirt would let a machine's pod grow to twice its memory, and the quota would have to, too.
    growth = (
        {"alpha.kubevirt.io/auto-memory-limits-ratio": MEMORY_LIMIT_RATIO} if tenant.parts.machine else {}
    )
    namespace = k8s.core.v1.Namespace(
        f"{name}-namespace",
        metadata={
            "name": tenant.dashed,
            "labels": {
                **marked,
                "pod-security.kubernetes.io/enforce": level,
                "pod-security.kubernetes.io/enforce-version": "latest",
                "pod-security.kubernetes.io/warn": level,
                **growth,
            },
        },
        # Its volume goes with it.
        opts=protected(opts, tenant, "workspace") if tenant.has_workspace else opts,
    )
    if not tenant.parts.namespace:
        return [namespace]
    account = k8s.core.v1.ServiceAccount(
        f"{name}-agent",
        metadata={"name": SERVICE_ACCOUNT, "namespace": tenant.dashed, "labels": marked},
        # KubeVirt asks for the token where a machine's disk is to carry it; no other pod gets one unasked.
        automount_service_account_token=False,
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[namespace])),
    )
    return [namespace, account]
