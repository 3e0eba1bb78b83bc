"""A tenant's own nodes: an SKS node pool that only its machine is let onto.

The taint keeps everybody else's pods away, the label is what the machine selects, and Exoscale keeps the
nodes on different hypervisors (<https://community.exoscale.com/documentation/compute/anti-affinity-groups/>).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumiverse_exoscale as exoscale

from infra.cluster.foundations import Nodes
from infra.platform.tenant_nodes import TENANT_TAINT
from infra.tenants.roster import TenantEntry
from infra.tenants.tiers import TIERS, Size

NODES = 2
"""How many: the machine moves to the other one while its node is upgraded or has failed."""
DISK_GIB = 50
"""Of each node: the system, container images, and what the machine writes to its system disk."""
_RESERVED_GIB = 3
"""Memory of a node that no guest gets: the system's, KubeVirt's, Longhorn's and the launcher's own."""

# <https://www.exoscale.com/pricing/>: CPUs and GiB.
_INSTANCE_TYPES = {
    "standard.medium": (2, 4),
    "standard.large": (4, 8),
    "standard.extra-large": (4, 16),
    "standard.huge": (8, 32),
    "standard.mega": (12, 64),
    "standard.titan": (16, 128),
    "standard.jumbo": (24, 225),
}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a tenant's machine may run."""

    node_selector: Mapping[str, str]
    tolerations: Sequence[Mapping[str, str]]
    instance_pool: pulumi.Output[str]
    """The nodes' instance pool, before which a load balancer to the machine stands."""
    declared: list[pulumi.Resource]
    """What the machine has to wait for."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """The part of the machine's specification.

        What is empty is left out: of a map that an update empties, the API server makes null, and refuses it.
        """
        found = {"nodeSelector": self.node_selector, "tolerations": self.tolerations}
        return {key: value for key, value in found.items() if value}


def place(tenant: TenantEntry, nodes: Nodes, opts: pulumi.ResourceOptions) -> Placement:
    """Choose the nodes for the tenant's machine; declare them if its tier has nodes of its own."""
    if TIERS[tenant.tier].node_pool:
        return _own_nodes(tenant, nodes, opts)
    # A load balancer stands before one pool only, so a machine that is to be reached has to stay in it.
    selector = {"pool": nodes.shared_pool} if tenant.vpn else {}
    return Placement(
        node_selector=selector, tolerations=(), instance_pool=nodes.shared_instance_pool_id, declared=[]
    )


def capacity(size: Size) -> tuple[int, int]:
    """CPUs and GiB of memory of each of the nodes for such a machine."""
    return _INSTANCE_TYPES[instance_type(size)]


def instance_type(size: Size) -> str:
    """The smallest type with the CPUs that were sold, and with their memory besides what a node needs."""
    return next(
        name
        for name, (cpu, memory_gib) in _INSTANCE_TYPES.items()
        if cpu >= size.cpu and memory_gib >= size.memory_gib + _RESERVED_GIB
    )


def _own_nodes(tenant: TenantEntry, nodes: Nodes, opts: pulumi.ResourceOptions) -> Placement:
    name, mark = tenant.id, {TENANT_TAINT: tenant.id}
    apart = exoscale.AntiAffinityGroup(
        f"{name}-apart",
        name=f"{nodes.cluster_name}-{tenant.dashed}",
        description=f"Nodes of tenant {name}",
        opts=opts,
    )
    pool = exoscale.SksNodepool(
        f"{name}-nodes",
        name=tenant.dashed,
        description=f"Nodes of tenant {name}",
        cluster_id=nodes.cluster_id,
        zone=nodes.zone,
        instance_type=instance_type(tenant.size),
        instance_prefix=tenant.dashed,
        size=NODES,
        disk_size=DISK_GIB,
        anti_affinity_group_ids=[apart.id],
        security_group_ids=[nodes.security_group_id],
        private_network_ids=[nodes.private_network_id],
        labels=mark,
        taints={key: f"{value}:NoSchedule" for key, value in mark.items()},
        opts=opts,
    )
    return Placement(
        node_selector=mark,
        tolerations=[
            {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}
            for key, value in mark.items()
        ],
        instance_pool=pool.instance_pool_id,
        declared=[pool],
    )
