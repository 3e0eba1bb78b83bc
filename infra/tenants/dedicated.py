"""The Deployment in which a tenant's agents run that has a namespace and no machine."""

import pulumi
import pulumi_kubernetes as k8s

from infra.platform.agent_pods import AgentPod
from infra.platform.services import Services
from infra.tenants.identity import identity_files
from infra.tenants.namespace import agents, labels
from infra.tenants.roster import TenantEntry
from infra.tenants.secrets import SERVICE_ACCOUNT

_NAME = "agent"


def declare_agent(tenant: TenantEntry, platform: Services, opts: pulumi.ResourceOptions) -> pulumi.Resource:
    """Declare the agent's pod, of the size that was sold, and what it is told of itself.

    Its workspace is the folder `workspace/` of the prefix; what it keeps on disk is gone with the pod.
    """
    name, marked = tenant.id, labels(tenant)
    configuration = k8s.core.v1.ConfigMap(
        f"{name}-configuration",
        metadata={"name": _NAME, "namespace": tenant.dashed, "labels": marked},
        data=identity_files(tenant, platform),
        opts=opts,
    )
    pod = AgentPod(
        image=platform.runtime_image,
        service_account=SERVICE_ACCOUNT,
        configuration=_NAME,
        cpu=tenant.size.cpu,
        memory_gib=tenant.size.memory_gib,
    )
    return k8s.apps.v1.Deployment(
        f"{name}-deployment",
        metadata={
            "name": _NAME,
            "namespace": tenant.dashed,
            "labels": marked,
            # As with a machine: that it is declared is this program's business, that it runs is observed.
            "annotations": {"pulumi.com/skipAwait": "true"},
        },
        spec={
            "replicas": 1 if tenant.state == "active" else 0,
            "revision_history_limit": 2,
            # The old one ends before the new one starts: no agent does its work twice, and the quota is
            # what was sold and not the double of it.
            "strategy": {"type": "Recreate"},
            "selector": {"match_labels": agents(tenant)},
            "template": {"metadata": {"labels": marked}, "spec": pod.spec(platform.vault)},
        },
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[configuration])),
    )
