"""The volume of a tenant's machine, which outlives it."""

from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s

from infra.platform.services import Services
from infra.tenants.encryption import declare_key
from infra.tenants.lifecycle import protected, workspace_may_go
from infra.tenants.namespace import labels
from infra.tenants.roster import TenantEntry


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The volume."""

    key: pulumi.Output[str]
    """What it is encrypted with; secret."""
    declared: pulumi.Resource
    """What the machine has to wait for."""


def claim_name(tenant: TenantEntry) -> str:
    """The name of the volume's claim."""
    return f"workspace-{tenant.id}"


def declare_workspace(tenant: TenantEntry, platform: Services, opts: pulumi.ResourceOptions) -> Workspace:
    """Declare the volume, encrypted with a key of its own."""
    key = declare_key(tenant, opts)
    volume = k8s.core.v1.PersistentVolumeClaim(
        f"{tenant.id}-workspace",
        metadata={
            "name": claim_name(tenant),
            "namespace": tenant.dashed,
            "labels": labels(tenant),
            # It is bound when the machine first starts, which comes later and needs it.
            "annotations": {"pulumi.com/skipAwait": "true"},
        },
        spec={
            "storage_class_name": platform.encrypted_storage_class,
            # A raw device for the guest, on two nodes at once while the machine moves from one to the other.
            "volume_mode": "Block",
            "access_modes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": f"{tenant.size.workspace_gib}Gi"}},
        },
        # The engine never deletes it, so it cannot replace it either: what cannot be changed in place fails.
        # It goes with its namespace when the tenant goes, or alone when the roster says that it may
        # (docs/decisions/0028).
        opts=pulumi.ResourceOptions.merge(
            protected(opts, tenant, "workspace"),
            pulumi.ResourceOptions(
                depends_on=[key.declared],
                retain_on_delete=not workspace_may_go(tenant),
            ),
        ),
    )
    return Workspace(key=key.value, declared=volume)
