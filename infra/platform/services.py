"""What the platform's layer hands to the tenants: declared by this stack or by another one."""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s

from infra.cluster.access import KubernetesApi
from infra.cluster.foundations import Nodes, enter
from infra.cluster.object_storage import ObjectStorage
from infra.outputs import Reference
from infra.platform.database import Database, database_of
from infra.platform.gateway import Gateway
from infra.platform.redis import Redis
from infra.platform.vault import Vault, vault_of


@dataclass(frozen=True, kw_only=True)
class Services:
    """What a tenant is built on."""

    kubernetes: k8s.Provider
    api: KubernetesApi
    nodes: Nodes
    object_storage: ObjectStorage
    database: Database
    redis: Redis
    vault: Vault
    domain: str
    """Each tenant is reached under its id as a name below this one."""
    gateway: Gateway
    storage_class: str
    """For workspaces."""
    encrypted_storage_class: str
    """For workspaces that are encrypted under a key of their own."""
    machine_image: str
    """The system disk of machines whose entry names no other."""
    machine_kernel: Mapping[str, str] | None
    """`path` and `initrd` on that disk, and `arguments`; None: its own boot loader knows."""
    prices: Mapping[str, float | None] | None
    """`unit_hour` for a CPU with 4 GiB and `disk_gib_hour`, in CHF; None: nobody says what things cost."""
    runtime_image: str
    """The image of agents' containers."""
    ready: list[pulumi.Resource]
    """What a tenant's objects have to wait for: KubeVirt, Longhorn and its storage classes, the gateway."""


async def services_of(base: Reference) -> Services:
    """What the stack `base` has published, entered by providers of this stack's own."""
    told = await base.read("services", Services)
    home = pulumi.ComponentResource("agent-platform:platform:PlatformReference", "platform")
    inside = pulumi.ResourceOptions(parent=home)
    return Services(
        **{
            **told,
            "kubernetes": enter("cluster", told["api"], inside),
            "database": database_of("platform-database", told["database"], inside),
            "vault": vault_of("platform-vault", told["vault"], inside),
            "ready": [],
        }
    )
