"""A PostgreSQL database of a tenant's own, on the platform's servers.

Nobody else can connect to it: besides its owner, Vault alone may, and hands that right on to the logins that
it makes for this tenant.
"""

from dataclasses import dataclass, replace

import pulumi
import pulumi_postgresql as postgresql

from infra.platform.database import Database
from infra.platform.vault import Vault, database_connection
from infra.tenants.lifecycle import protected
from infra.tenants.roster import TenantEntry


@dataclass(frozen=True, kw_only=True)
class OwnDatabase:
    """The database, and Vault's way into it."""

    database: Database
    """As the shared one, under its own name."""
    connection: pulumi.Output[str]
    declared: list[pulumi.Resource]
    """What a login has to wait for."""


def declare_database(
    tenant: TenantEntry,
    role: postgresql.Role,
    database: Database,
    vault: Vault,
    opts: pulumi.ResourceOptions,
) -> OwnDatabase:
    """Declare the tenant's database on the server of `database`, owned by `role`."""
    name = tenant.id
    inside = pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(provider=database.provider))
    own = postgresql.Database(
        f"{name}-database",
        name=tenant.underscored,
        owner=role.name,
        opts=protected(inside, tenant, "database"),
    )
    closed = postgresql.Grant(
        f"{name}-database-closed",
        database=own.name,
        role="public",
        object_type="database",
        privileges=[],
        opts=inside,
    )
    issuing = postgresql.Grant(
        f"{name}-database-issuer",
        database=own.name,
        role=database.issuer_role,
        object_type="database",
        privileges=["CONNECT"],
        with_grant_option=True,
        opts=inside,
    )
    connection = database_connection(
        f"{name}-database-connection",
        vault.database_server,
        mount=vault.database_mount,
        name=tenant.dashed,
        database=own.name,
        roles=[tenant.dashed],
        opts=pulumi.ResourceOptions.merge(
            opts,
            pulumi.ResourceOptions(provider=vault.provider, depends_on=[*vault.furnished, closed, issuing]),
        ),
    )
    return OwnDatabase(
        database=replace(database, name=own.name), connection=connection.name, declared=[connection]
    )
