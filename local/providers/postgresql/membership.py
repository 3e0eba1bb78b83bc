"""Memberships: one role is granted to another."""

from psycopg.sql import SQL, Composed, Identifier

from local.providers.bridged import Property, table
from local.providers.postgresql.server import PostgresResource
from local.providers.provider import Call
from local.providers.values import Properties

_READ = """
SELECT admin_option FROM pg_auth_members
WHERE pg_get_userbyid(member) = %s AND pg_get_userbyid(roleid) = %s
"""


class GrantRole(PostgresResource):
    """`postgresql:index/grantRole:GrantRole`; its id is `role_grantRole_withAdminOption`."""

    properties = table(
        role=Property(replaces=True),
        grantRole=Property(replaces=True),
        withAdminOption=Property(default=False, replaces=True),
    )

    def make(self, call: Call, inputs: Properties) -> str:  # noqa: D102
        del call
        role, granted, admin = inputs["role"], inputs["grantRole"], inputs["withAdminOption"]
        with self.server.transaction() as transaction:
            transaction.run("could not execute revoke query", _revoke(role, granted))
            option = SQL(" WITH ADMIN OPTION" if admin else "")
            transaction.run(
                "could not execute grant query",
                SQL("GRANT {} TO {}{}").format(Identifier(granted), Identifier(role), option),
            )
        return f"{role}_{granted}_{str(admin).lower()}"

    def find(self, id: str, known: Properties) -> Properties | None:  # noqa: D102
        del id
        role, granted = known.get("role", ""), known.get("grantRole", "")
        with self.server.transaction() as transaction:
            admin = transaction.value(_READ, role, granted)
        return None if admin is None else {"role": role, "grantRole": granted, "withAdminOption": admin}

    def drop(self, id: str, known: Properties) -> None:  # noqa: D102
        del id
        with self.server.transaction() as transaction:
            transaction.run("could not execute revoke query", _revoke(known["role"], known["grantRole"]))


def _revoke(role: str, granted: str) -> Composed:
    return SQL("REVOKE {} FROM {}").format(Identifier(granted), Identifier(role))
