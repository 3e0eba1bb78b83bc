"""A tenant's schema, and the role that owns it and that nobody can log in as.

Vault issues short-lived logins that act as this role (`secrets.py`), so no password of it exists.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_postgresql as postgresql

from infra.platform.database import Database
from infra.platform.vault import Vault
from infra.tenants.lifecycle import protected
from infra.tenants.migration import Migration
from infra.tenants.own_database import declare_database
from infra.tenants.roster import TenantEntry
from infra.tenants.size_limit import SizeLimit


@dataclass(frozen=True, kw_only=True)
class Schema:
    """Where a tenant's tables are."""

    connection: pulumi.Input[str]
    """Vault's connection to their database."""
    declared: list[pulumi.Resource]
    """What a login of the tenant has to wait for."""


def declare_schema(
    tenant: TenantEntry, database: Database, vault: Vault, opts: pulumi.ResourceOptions
) -> Schema:
    """Declare role, schema, rights and tables, in a database of the tenant's own if it is to have one."""
    name = tenant.id
    inside = pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(provider=database.provider))
    role = postgresql.Role(
        f"{name}-role",
        name=tenant.underscored,
        login=False,
        superuser=False,
        create_database=False,
        create_role=False,
        bypass_row_level_security=False,
        # It could act as any other role that it were a member of, and have that one own what is the tenant's.
        roles=[],
        # What hangs on it in other databases the provider does not see; the registration ends it (0062).
        skip_drop_role=True,
        skip_reassign_owned=True,
        opts=protected(inside, tenant),
    )
    issuer = postgresql.GrantRole(
        f"{name}-issuer",
        role=database.issuer_role,
        grant_role=tenant.underscored,
        with_admin_option=True,
        opts=pulumi.ResourceOptions.merge(
            # Granted first and revoked then, a replaced membership would be gone.
            inside,
            pulumi.ResourceOptions(depends_on=[role], delete_before_replace=True),
        ),
    )
    limit = SizeLimit(
        f"{name}-size-limit",
        schema=tenant.underscored,
        gib=tenant.parts.database_gib,
        database=database,
        opts=opts,
    )
    if not tenant.own_database:
        entrance = postgresql.Grant(
            f"{name}-entrance",
            database=database.name,
            role=tenant.underscored,
            object_type="database",
            privileges=["CONNECT", "TEMPORARY"],
            opts=pulumi.ResourceOptions.merge(inside, pulumi.ResourceOptions(depends_on=[role])),
        )
        tables = _declare_tables(tenant, name, role, database, opts, [entrance])
        return Schema(connection=vault.database_connection, declared=[issuer, limit, *tables])
    own = declare_database(tenant, role, database, vault, opts)
    # Other names than in the shared database: a move makes these and deletes those.
    tables = _declare_tables(tenant, f"{name}-own", role, own.database, opts, own.entrance)
    return Schema(connection=own.connection, declared=[issuer, limit, *own.declared, *tables])


def _declare_tables(
    tenant: TenantEntry,
    prefix: str,
    role: postgresql.Role,
    database: Database,
    opts: pulumi.ResourceOptions,
    after: Sequence[pulumi.Resource] = (),
) -> list[pulumi.Resource]:
    """Declare the schema in `database`, its rights, and, once there is a way in, the tables in it."""
    inside = pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(provider=database.provider))
    # The owner has every right to its functions; PostgreSQL would let everybody else run them, too.
    functions = postgresql.DefaultPrivileges(
        f"{prefix}-functions",
        database=database.name,
        owner=role.name,
        role="public",
        object_type="function",
        privileges=[],
        opts=inside,
    )
    schema = postgresql.Schema(
        f"{prefix}-schema",
        name=tenant.underscored,
        database=database.name,
        # By the name that it has, so that who owns it is in every plan.
        owner=tenant.underscored,
        # A removed tenant leaves nothing behind, whatever it made in its schema.
        drop_cascade=True,
        opts=pulumi.ResourceOptions.merge(
            protected(inside, tenant, "database"), pulumi.ResourceOptions(depends_on=[role])
        ),
    )
    closed = postgresql.Grant(
        f"{prefix}-closed",
        database=database.name,
        schema=schema.name,
        role="public",
        object_type="schema",
        privileges=[],
        opts=inside,
    )
    tables = Migration(
        f"{prefix}-tables",
        schema=schema.name,
        database=database,
        opts=pulumi.ResourceOptions.merge(
            protected(opts, tenant, "database"),
            pulumi.ResourceOptions(depends_on=[functions, closed, *after]),
        ),
    )
    return [tables]
