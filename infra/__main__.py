"""The program, from top to bottom: the cluster, the platform on it, a tenant for each entry of the roster.

Everything a user can get wrong is checked before the first resource is registered.
"""

import asyncio
from pathlib import Path

import pulumi

from infra.cluster.cluster import Cluster
from infra.platform.platform import Platform
from infra.platform.preflight import require_given_services
from infra.settings import load_settings
from infra.tenants.roster import load_roster
from infra.tenants.tenant import Tenant

settings = load_settings()
roster = load_roster(Path(__file__).resolve().parents[1] / settings.roster)
require_given_services(settings)


async def main() -> pulumi.Inputs:
    """Declare everything; returns the stack's outputs."""
    foundations = Cluster("cluster", settings).foundations
    services = Platform("platform", settings, foundations).services
    tenants = []
    for entry in roster.tenants:
        tenants.append(Tenant(entry, services))
        # Lets the engine begin with this one; held back to the end, a long roster costs the SDK dearly.
        await asyncio.sleep(0)
    return {"cluster": services.api.server, "tenants": [tenant.summary for tenant in tenants]}


pulumi.run(main)
