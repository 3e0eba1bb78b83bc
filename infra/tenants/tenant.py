"""One customer: everything that makes its own computer, as one component."""

from typing import Any

import pulumi

from infra.platform.services import Services
from infra.tenants.database import declare_schema
from infra.tenants.dedicated import declare_agent
from infra.tenants.final_backup import FinalBackup
from infra.tenants.handover import Handover
from infra.tenants.lifecycle import protected
from infra.tenants.machine import declare_machine
from infra.tenants.namespace import declare_namespace, labels
from infra.tenants.network import close_network
from infra.tenants.node_pool import place
from infra.tenants.quota import declare_quota
from infra.tenants.registration import Registration
from infra.tenants.roster import TenantEntry
from infra.tenants.route import declare_access_key, declare_route, served_by
from infra.tenants.secrets import declare_secrets
from infra.tenants.storage import declare_storage
from infra.tenants.vpn import declare_vpn
from infra.tenants.workspace import declare_workspace


class Tenant(pulumi.ComponentResource):
    """An entry of the roster, made real; what holds data is protected until the entry says `offboarding`.

    Not managed here: whether an active tenant's machine runs, what the tenant itself keeps in its schema,
    secrets and prefix, and backups, which Longhorn and PostgreSQL take of everybody.
    """

    summary: dict[str, Any]
    """What is exported of it: its names everywhere."""

    def __init__(
        self, entry: TenantEntry, platform: Services, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        """Declare the tenant on `platform`; its resource is named by its id."""
        super().__init__("agent-platform:tenants:Tenant", entry.id, None, opts)
        registration = Registration(
            f"{entry.id}-registration",
            tenant=entry,
            platform=platform,
            opts=protected(pulumi.ResourceOptions(parent=self), entry),
        )
        # Whatever else the tenant has comes after its registration, and goes before it.
        own = pulumi.ResourceOptions(parent=self, depends_on=[registration])
        on_cluster = pulumi.ResourceOptions.merge(
            own, pulumi.ResourceOptions(provider=platform.kubernetes, depends_on=platform.ready)
        )
        objects = platform.object_storage

        schema = declare_schema(entry, platform.database, platform.vault, own)
        storage = declare_storage(entry, objects, own)
        before_agents = declare_secrets(
            entry, platform.vault, storage, objects.endpoint, objects.region, schema, own
        )
        key = declare_access_key(entry, platform.vault, _after(own, before_agents))
        if entry.has_namespace:
            namespace = declare_namespace(entry, on_cluster)
            inside = _after(on_cluster, namespace)
            guards = [
                *close_network(entry, platform, platform.database, inside),
                *declare_quota(entry, labels(entry), inside),
            ]
            before_agents += guards
        workspace = None
        if entry.has_workspace:
            workspace = declare_workspace(entry, platform, _after(inside, guards))
            before_agents.append(workspace.declared)
        if entry.state != "active":
            # Before its machine is stopped for good, the gateway is told not to start it.
            before_agents.append(declare_route(entry, platform, key, _after(on_cluster, before_agents)))
        running: list[pulumi.Resource] = []
        vpn: dict[str, Any] = {}
        if entry.parts.machine:
            placement = place(entry, platform.nodes, own)
            before_agents += placement.declared
            if entry.vpn:
                entrance = declare_vpn(
                    entry,
                    platform,
                    placement.instance_pool,
                    _after(own, before_agents),
                    _after(inside, guards),
                )
                vpn, before_agents = entrance.told, [*before_agents, entrance.key]
            running.append(declare_machine(entry, platform, placement, _after(inside, before_agents)))
        if entry.parts.dedicated_agent:
            running.append(declare_agent(entry, platform, _after(inside, before_agents)))
        if entry.state == "active":
            # And it is told where to send requests once somebody is there who may be woken.
            declare_route(entry, platform, key, _after(on_cluster, before_agents + running))
        if entry.state == "moving":
            Handover(
                f"{entry.id}-handover",
                tenant=entry,
                platform=platform,
                opts=_after(own, before_agents + running),
            )
        if entry.offboarding and entry.offboarding.backup == "final":
            FinalBackup(
                f"{entry.id}-final-backup",
                tenant=entry,
                platform=platform,
                workspace_key=workspace.key if workspace else None,
                opts=_after(own, before_agents + running),
            )

        self.summary = {
            "id": entry.id,
            "name": entry.name,
            "tier": entry.tier,
            "state": entry.state,
            "served_by": served_by(entry),
            "namespace": entry.dashed if entry.has_namespace else "",
            "vm": entry.dashed if entry.parts.machine else "",
            "schema": entry.underscored,
            "prefix": storage.prefix,
            "vpn": vpn,
        }
        self.register_outputs(self.summary)


def _after(opts: pulumi.ResourceOptions, resources: list[pulumi.Resource]) -> pulumi.ResourceOptions:
    return pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=resources))
