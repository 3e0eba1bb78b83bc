"""A tenant's schema, and the role that owns it and that nobody can log in as.

Vault issues short-lived logins that act as this role (`secrets.py`), so no password of it exists.
"""

import pulumi
import pulumi_postgresql as postgresql

from infra.platform.database import Database
from infra.tenants.migration import Migration
from infra.tenants.roster import TenantEntry


def declare_schema(tenant: TenantEntry, database: Database, parent: pulumi.Resource) -> list[pulumi.Resource]:
    """Declare role, schema, rights and tables.

    Returns:
        What a login of the tenant has to wait for.
    """
    name = tenant.id
    opts = pulumi.ResourceOptions(parent=parent, provider=database.provider)
    role = postgresql.Role(
        f"{name}-role",
        name=tenant.underscored,
        login=False,
        superuser=False,
        create_database=False,
        create_role=False,
        bypass_row_level_security=False,
        opts=opts,
    )
    # The owner has every right to its functions; PostgreSQL would let everybody else run them, too.
    functions = postgresql.DefaultPrivileges(
        f"{name}-functions",
        database=database.name,
        owner=role.name,
        role="public",
        object_type="function",
        privileges=[],
        opts=opts,
    )
    schema = postgresql.Schema(
        f"{name}-schema",
        name=tenant.underscored,
        database=database.name,
        owner=role.name,
        # A removed tenant leaves nothing behind, whatever it made in its schema.
        drop_cascade=True,
        opts=opts,
    )
    closed = postgresql.Grant(
        f"{name}-closed",
        database=database.name,
        schema=schema.name,
        role="public",
        object_type="schema",
        privileges=[],
        opts=opts,
    )
    issuer = postgresql.GrantRole(
        f"{name}-issuer",
        role=database.issuer_role,
        grant_role=role.name,
        with_admin_option=True,
        # Granted first and revoked then, a replaced membership would be gone.
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(delete_before_replace=True)),
    )
    tables = Migration(
        f"{name}-tables",
        schema=schema.name,
        database=database,
        opts=pulumi.ResourceOptions(parent=parent, depends_on=[functions, closed]),
    )
    return [issuer, tables]
