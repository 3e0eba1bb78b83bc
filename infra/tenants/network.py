"""The NetworkPolicies of a tenant's namespace: closed in both directions, but for what its agents need."""

import pulumi

from infra.platform.database import Database
from infra.platform.network_policies import TO_GATEWAY, agent_openings, declare_network
from infra.platform.services import Services
from infra.tenants import vpn
from infra.tenants.namespace import agents, labels
from infra.tenants.roster import TenantEntry


def close_network(
    tenant: TenantEntry, platform: Services, database: Database, opts: pulumi.ResourceOptions
) -> list[pulumi.Resource]:
    """Declare the policies; a namespace in which nothing runs has no opening.

    Returns:
        What a pod of the tenant has to wait for.
    """
    openings = []
    if tenant.parts.namespace:
        openings = agent_openings(
            platform.vault.destination, database.destination, platform.object_storage.endpoint
        )
    if tenant.parts.machine:
        openings.append(TO_GATEWAY)
    if tenant.vpn:
        openings.append(vpn.OPENING)
    return declare_network(
        tenant.id, tenant.dashed, openings, agents=agents(tenant), labels=labels(tenant), opts=opts
    )
