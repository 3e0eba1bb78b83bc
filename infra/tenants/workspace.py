"""A tenant's namespace, the identity of its machine, and the volume that outlives it."""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s

from infra.tenants.roster import TenantEntry
from infra.tenants.secrets import SERVICE_ACCOUNT


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """What a machine needs around it."""

    namespace: pulumi.Output[str]
    service_account: pulumi.Output[str]
    volume_claim: pulumi.Output[str]


def labels(tenant: TenantEntry) -> Mapping[str, str]:
    """What every Kubernetes object of the tenant is labelled with."""
    return {"tenant-id": tenant.id, "tier": tenant.tier, "app.kubernetes.io/part-of": "agent-platform"}


def declare_workspace(tenant: TenantEntry, storage_class: str, opts: pulumi.ResourceOptions) -> Workspace:
    """Declare namespace, service account and volume."""
    name, marked = tenant.id, labels(tenant)
    home = k8s.core.v1.Namespace(
        f"{name}-namespace",
        metadata={
            "name": tenant.dashed,
            "labels": {
                **marked,
                # A machine's pod adds NET_BIND_SERVICE and sets no seccomp profile: `restricted` refuses
                # it, `baseline` lets it in, and with it no host path, host network or privileged pod.
                "pod-security.kubernetes.io/enforce": "baseline",
                "pod-security.kubernetes.io/enforce-version": "latest",
            },
        },
        opts=opts,
    )
    namespace = home.metadata.apply(lambda metadata: str(metadata.name))
    account = k8s.core.v1.ServiceAccount(
        f"{name}-agent",
        metadata={"name": SERVICE_ACCOUNT, "namespace": namespace, "labels": marked},
        # KubeVirt asks for the token where a machine's disk is to carry it; no other pod gets one unasked.
        automount_service_account_token=False,
        opts=opts,
    )
    volume = k8s.core.v1.PersistentVolumeClaim(
        f"{name}-workspace",
        metadata={
            "name": f"workspace-{name}",
            "namespace": namespace,
            "labels": marked,
            # It is bound when the machine first starts, which comes later and needs it.
            "annotations": {"pulumi.com/skipAwait": "true"},
        },
        spec={
            "storage_class_name": storage_class,
            # A raw device for the guest, on two nodes at once while the machine moves from one to the other.
            "volume_mode": "Block",
            "access_modes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": f"{tenant.size.workspace_gib}Gi"}},
        },
        # The engine never deletes it, so it cannot replace it either: what cannot be changed in place fails.
        # It goes with its namespace when the tenant goes (docs/decisions/0028).
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(retain_on_delete=True)),
    )
    return Workspace(
        namespace=namespace,
        service_account=account.metadata.apply(lambda metadata: str(metadata.name)),
        volume_claim=volume.metadata.apply(lambda metadata: str(metadata.name)),
    )
