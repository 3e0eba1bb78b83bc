"""One customer: everything that makes its own computer, as one component."""

import pulumi

from infra.platform.platform import Platform
from infra.tenants.database import declare_schema
from infra.tenants.machine import declare_machine
from infra.tenants.roster import TenantEntry
from infra.tenants.secrets import declare_secrets
from infra.tenants.storage import declare_storage
from infra.tenants.workspace import declare_workspace


class Tenant(pulumi.ComponentResource):
    """An entry of the roster, made real; deleting it deletes all the tenant has.

    Not managed here: whether the machine runs, for which an entry's `state` counts nothing yet (it is only
    exported), what the tenant itself keeps in its schema, secrets and
    prefix, and backups, which Longhorn and PostgreSQL take of everybody.
    """

    summary: dict[str, str]
    """What is exported of it: its names everywhere."""

    def __init__(
        self, entry: TenantEntry, platform: Platform, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        """Declare the tenant on `platform`; its resource is named by its id."""
        super().__init__("agent-platform:tenants:Tenant", entry.id, None, opts)
        own = pulumi.ResourceOptions(parent=self)
        on_cluster = pulumi.ResourceOptions(
            parent=self, provider=platform.kubernetes, depends_on=platform.ready
        )
        objects = platform.object_storage

        schema = declare_schema(entry, platform.database, self)
        storage = declare_storage(entry, objects, own)
        login = declare_secrets(
            entry, platform.vault, storage, objects.endpoint, objects.region, schema, self
        )
        workspace = declare_workspace(entry, platform.storage_class, on_cluster)
        declare_machine(
            entry,
            platform,
            workspace,
            pulumi.ResourceOptions.merge(on_cluster, pulumi.ResourceOptions(depends_on=[login])),
        )

        self.summary = {
            "id": entry.id,
            "name": entry.name,
            "tier": entry.tier,
            "state": entry.state,
            "namespace": entry.dashed,
            "vm": entry.dashed,
            "schema": entry.underscored,
            "prefix": storage.prefix,
        }
        self.register_outputs(self.summary)
