"""A PostgreSQL database of a tenant's own, on the platform's servers.

Nobody else can connect to it: besides its tenant, Vault alone may, and hands that right on to the logins that
it makes for this tenant. It is the administrator's: an owner sets what names mean to whoever connects.
"""

from dataclasses import dataclass, replace

import pulumi
import pulumi_postgresql as postgresql

from infra.platform.control_schema import ControlSchema
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
    entrance: list[pulumi.Resource]
    """The tenant's rights there."""
    declared: list[pulumi.Resource]
    """What a login has to wait for."""


def declare_database(
    tenant: TenantEntry,
    role: postgresql.Role,
    database: Database,
    vault: Vault,
    opts: pulumi.ResourceOptions,
) -> OwnDatabase:
    """Declare the tenant's database on the server of `database`, open to `role` alone."""
    name = tenant.id
    inside = pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(provider=database.provider))
    own = postgresql.Database(
        f"{name}-database",
        name=tenant.underscored,
        owner=database.admin_user,
        opts=protected(inside, tenant, "database"),
    )
    entrance = postgresql.Grant(
        f"{name}-database-tenant",
        database=own.name,
        # By the name that it has, so that who gets what is in every plan.
        role=tenant.underscored,
        object_type="database",
        # To make extensions, too.
        privileges=["CONNECT", "CREATE", "TEMPORARY"],
        opts=pulumi.ResourceOptions.merge(inside, pulumi.ResourceOptions(depends_on=[role])),
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
    control = ControlSchema(
        f"{name}-database-control",
        entrance=database.entrance(own.name),
        issuer=database.issuer_role,
        opts=opts,
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
            pulumi.ResourceOptions(
                provider=vault.provider, depends_on=[*vault.furnished, closed, issuing, control]
            ),
        ),
    )
    return OwnDatabase(
        database=replace(database, name=own.name, control_schema=control.schema),
        connection=connection.name,
        entrance=[entrance],
        declared=[connection],
    )
