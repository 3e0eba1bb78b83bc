"""The program, from top to bottom: the cluster, the platform on it, a tenant for each entry of the roster.

A stack may own only some of these layers, or only a slice of the tenants; what is below is then told by the
stack that owns it. Everything a user can get wrong is checked before the first resource is registered.
"""

import asyncio
from pathlib import Path

import pulumi

from infra.cluster.cluster import Cluster
from infra.cluster.foundations import Foundations, foundations_of
from infra.outputs import Reference, published
from infra.platform import envoy
from infra.platform.gateway import grafana
from infra.platform.platform import Platform
from infra.platform.preflight import require_given_services
from infra.platform.services import Services, services_of
from infra.registrations import all_registered
from infra.settings import load_settings
from infra.tenants.connections import advise_connections
from infra.tenants.roster import load_roster
from infra.tenants.slices import advise
from infra.tenants.tenant import Tenant

settings = load_settings()
roster = load_roster(Path(__file__).resolve().parents[1] / settings.roster)
entries = roster.owned_by(settings)
advise(len(entries))
if settings.owns("platform"):
    envoy.check(settings.domain, grafana(settings))
require_given_services(settings)


async def foundations() -> Foundations:
    """What the platform is built on, declared here or by the stack below."""
    if settings.owns("cluster"):
        return Cluster("cluster", settings).foundations
    return await foundations_of(Reference(settings.base_stack))


async def services() -> Services:
    """What tenants are built on, declared here or by the stack below."""
    if settings.owns("platform"):
        return Platform("platform", settings, await foundations()).services
    return await services_of(Reference(settings.base_stack))


async def declared() -> pulumi.Inputs:
    """Declare the layers that this stack owns; returns the stack's outputs."""
    if settings.layers == ("cluster",):
        return published("foundations", await foundations())
    offer = await services()
    if not settings.owns("tenants"):
        return published("services", offer)
    advise_connections(roster.tenants, offer.database.connections)
    tenants = []
    for entry in entries:
        tenants.append(Tenant(entry, offer))
        # Lets the engine begin with this one; held back to the end, a long roster costs the SDK dearly.
        await asyncio.sleep(0)
    return {"cluster": offer.api.server, "tenants": [tenant.summary for tenant in tenants]}


async def main() -> pulumi.Inputs:
    """Declare everything, and do not end before it is registered."""
    outputs = await declared()
    await all_registered()
    return outputs


pulumi.run(main)
