"""The platform's own schema in a database that tenants enter: what it records, and how a login ends.

`ControlSchemaProvider` runs in Pulumi's host for dynamic resources; what is serialised of it is its name. The
contents are `control_schema.sql` and, in the database that tenants share, `ledger.sql`. Their hash is an
input, so a preview shows when they change.
"""

import hashlib
from pathlib import Path
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, ResourceProvider, UpdateResult

from infra.platform.administrator import connect

NAME = "agent_platform"
TENANTS = "tenants"
"""The role whose members may connect to the database that tenants share."""
_SQL = Path(__file__).with_suffix(".sql")
_LEDGER = Path(__file__).with_name("ledger.sql")


class ControlSchemaProvider(ResourceProvider):
    """Makes the schema, and makes it anew when its contents change."""

    serialize_as_secret_always = False

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """Another database is another schema."""
        changed = any(olds.get(key) != value for key, value in news.items() if not key.startswith("__"))
        replaces = ["database"] if olds.get("database") != news.get("database") else []
        return DiffResult(changes=changed, replaces=replaces)

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Make what is missing, be it nothing."""
        _furnish(props)
        return CreateResult(f"{props['database']}.{NAME}", props)

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """Gone if the schema is."""
        with connect(props) as connection:
            found = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [NAME]).fetchone()
        return ReadResult(id_, props) if found else ReadResult("", {})

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Bring it to the contents of this checkout."""
        _furnish(news)
        return UpdateResult(news)

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Nothing: it goes with its database, and what it records must not be lost before."""


class ControlSchema(Resource, module="agent-platform", name="ControlSchema"):
    """The platform's own schema in a database."""

    schema: pulumi.Output[str]

    def __init__(
        self,
        resource_name: str,
        *,
        entrance: dict[str, Any],
        issuer: pulumi.Input[str],
        members: pulumi.Input[str] | None = None,
        keeper: pulumi.Input[str] | None = None,
        observer: pulumi.Input[str] | None = None,
        accountant: pulumi.Input[str] | None = None,
        opts: pulumi.ResourceOptions,
    ) -> None:
        """Declare it in the database that `entrance` (host, port, database, user, …) leads to.

        `issuer` is the role with which Vault ends logins. `members`, in the database that tenants share, is
        the role whose members may connect to it: logins from before there was one become members. `keeper`,
        there, too, is the role that holds tenants to their limits each minute, `observer` the one that tells
        monitoring what they have, and `accountant` the one that keeps the ledger of what they use.
        """
        super().__init__(
            _PROVIDER,
            resource_name,
            {
                **entrance,
                "schema": NAME,
                "issuer": issuer,
                "members": members,
                "keeper": keeper,
                "observer": observer,
                "accountant": accountant,
                "contents": hashlib.sha256(_SQL.read_bytes() + _LEDGER.read_bytes()).hexdigest(),
            },
            pulumi.ResourceOptions.merge(
                opts, pulumi.ResourceOptions(additional_secret_outputs=["password"])
            ),
        )


_PROVIDER = ControlSchemaProvider()

_OF_TENANTS = """
SELECT DISTINCT member.rolname FROM pg_auth_members
JOIN pg_roles AS tenant ON tenant.oid = roleid JOIN pg_roles AS member ON member.oid = member
WHERE starts_with(tenant.rolname, 'tenant_') AND member.rolcanlogin AND NOT member.rolcreaterole
"""


def _furnish(props: dict[str, Any]) -> None:
    from psycopg import sql

    issuer, database = sql.Identifier(props["issuer"]), sql.Identifier(props["database"])
    with connect(props) as connection, connection.transaction():
        connection.execute(_SQL.read_bytes())
        connection.execute(sql.SQL("GRANT USAGE ON SCHEMA agent_platform TO {}").format(issuer))
        connection.execute(
            sql.SQL(
                "GRANT EXECUTE ON FUNCTION agent_platform.end_login, agent_platform.shut_out TO {}"
            ).format(issuer)
        )
        if not props.get("members"):
            # A tenant that owned its database could set what the administrator's names mean there.
            connection.execute(sql.SQL("ALTER DATABASE {} RESET ALL").format(database))
            connection.execute(sql.SQL("ALTER DATABASE {} SET search_path = pg_catalog").format(database))
            return
        connection.execute(_LEDGER.read_bytes())
        # However many connections tenants hold, there is one for whoever makes their logins.
        reserved = sql.SQL("GRANT pg_use_reserved_connections TO {} WITH INHERIT TRUE")
        connection.execute(reserved.format(issuer))
        for role, function in (
            ("keeper", "hold_to_limits"),
            ("observer", "figures"),
            ("accountant", "count_usage"),
        ):
            if props.get(role):
                name = sql.Identifier(props[role])
                connection.execute(reserved.format(name))
                connection.execute(sql.SQL("GRANT USAGE ON SCHEMA agent_platform TO {}").format(name))
                connection.execute(
                    sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(
                        sql.Identifier("agent_platform", function), name
                    )
                )
        if props.get("accountant"):
            connection.execute(
                sql.SQL(
                    "GRANT SELECT ON agent_platform.ledger, agent_platform.meter, agent_platform.metered "
                    "TO {}"
                ).format(sql.Identifier(props["accountant"]))
            )
        for (login,) in connection.execute(_OF_TENANTS).fetchall():
            connection.execute(
                sql.SQL("GRANT {} TO {} WITH INHERIT TRUE, SET FALSE").format(
                    sql.Identifier(props["members"]), sql.Identifier(login)
                )
            )
