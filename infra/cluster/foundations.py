"""What the cluster's layer hands to those above it: declared by this stack or by another one."""

from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s

from infra.cluster.access import KubernetesApi, kubeconfig
from infra.cluster.object_storage import ObjectStorage
from infra.outputs import Reference


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """What a tenant's own nodes share with all others, and which of those stand behind load balancers."""

    cluster_id: pulumi.Output[str]
    cluster_name: str
    zone: str
    security_group_id: pulumi.Output[str]
    private_network_id: pulumi.Output[str]
    count: int
    """How many nodes the cluster's own pools have."""
    shared_pool: str
    """The first of those pools, by name."""
    shared_instance_pool_id: pulumi.Output[str]
    """The same pool, as load balancers know it."""


@dataclass(frozen=True, kw_only=True)
class Foundations:
    """What the platform is built on."""

    kubernetes: k8s.Provider
    api: KubernetesApi
    nodes: Nodes
    object_storage: ObjectStorage


async def foundations_of(base: Reference) -> Foundations:
    """What the stack `base` has published, entered by this stack itself."""
    told = await base.read("foundations", Foundations)
    home = pulumi.ComponentResource("agent-platform:cluster:ClusterReference", "cluster")
    return Foundations(kubernetes=enter("cluster", told["api"], pulumi.ResourceOptions(parent=home)), **told)


def enter(name: str, api: KubernetesApi, opts: pulumi.ResourceOptions) -> k8s.Provider:
    """Declare a way of this stack's own into a cluster that another stack declares."""
    drawn = kubeconfig(
        name,
        cluster=api.cluster,
        zone=api.zone,
        days=api.kubeconfig_days,
        renewal_days=api.kubeconfig_renewal_days,
        opts=opts,
    )
    return drawn.provider(name, opts)
