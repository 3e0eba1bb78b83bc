"""Default privileges: what a role may do with the objects that another role will make."""

from typing import Any

from psycopg.sql import SQL, Composable, Composed, Identifier

from local.providers.bridged import Property, set_order, table
from local.providers.postgresql import privileges
from local.providers.postgresql.server import PUBLIC, PostgresResource, Transaction, keywords
from local.providers.provider import Call, ProviderError
from local.providers.values import Properties

_CODES = {"table": "r", "sequence": "S", "function": "f", "routine": "f", "type": "T", "schema": "n"}
_READ = """
SELECT privilege_type FROM pg_default_acl
CROSS JOIN LATERAL aclexplode(defaclacl) LEFT JOIN pg_namespace ON pg_namespace.oid = defaclnamespace
WHERE grantee = %s AND defaclobjtype = %s AND pg_get_userbyid(grantor) = %s AND coalesce(nspname, '') = %s
"""


class DefaultPrivileges(PostgresResource):
    """`postgresql:index/defaultPrivileges:DefaultPrivileges`."""

    properties = table(
        role=Property(replaces=True),
        database=Property(replaces=True),
        owner=Property(replaces=True),
        schema=Property(replaces=True),
        objectType=Property(replaces=True, choices=tuple(_CODES)),
        privileges=Property(unordered=True),
        withGrantOption=Property(default=False, replaces=True),
    )

    def make(self, call: Call, inputs: Properties) -> str:  # noqa: D102
        del call
        role, owner, kind = inputs["role"], inputs["owner"], inputs["objectType"]
        if inputs.get("schema") and kind == "schema":
            raise ProviderError("cannot specify `schema` when `object_type` is `schema`")
        if inputs["withGrantOption"] and role.lower() == PUBLIC:
            raise ProviderError("with_grant_option cannot be true for role 'public'")
        with self.server.transaction(inputs["database"]) as transaction:
            privileges.refuse_unknown(transaction, kind, inputs["privileges"])
            transaction.lock_role(owner)
            with transaction.as_member_of([owner]):
                _revoke(transaction, inputs)
                _grant(transaction, inputs)
        return "_".join([role, inputs["database"], inputs.get("schema") or "noschema", owner, kind])

    def find(self, id: str, known: Properties) -> Properties | None:  # noqa: D102
        del id
        if not known:
            return None  # on import: the id does not tell which part of it is what
        known, database = {"privileges": [], **known}, known["database"]
        with self.server.transaction() as transaction:
            if not transaction.has("SELECT 1 FROM pg_database WHERE datname = %s", database):
                return None
        with self.server.transaction(database) as transaction:
            granted = _granted(transaction, known)
            if granted is None or (known["privileges"] and not granted):
                return None
            if privileges.same(transaction, known["objectType"], granted, known["privileges"]):
                return known
            return {**known, "privileges": granted}

    def change(self, call: Call, id: str, old: Properties, new: Properties) -> None:  # noqa: D102
        del id, old
        self.make(call, new)

    def drop(self, id: str, known: Properties) -> None:  # noqa: D102
        del id
        owner = known["owner"]
        with self.server.transaction(known["database"]) as transaction:
            transaction.lock_role(owner)
            with transaction.as_member_of([owner]):
                _revoke(transaction, known)


def _granted(transaction: Transaction, known: Properties) -> list[str] | None:
    """What is granted now; None when there is no such role or schema any more."""
    role, schema = known["role"], known.get("schema") or ""
    if role != PUBLIC and not transaction.role_exists(role):
        return None
    if schema and not transaction.schema_exists(schema):
        return None
    parameters: list[Any] = [transaction.role_oid(role), _CODES[known["objectType"]], known["owner"], schema]
    return set_order(row[0] for row in transaction.rows(_READ, *parameters))


def _grant(transaction: Transaction, inputs: Properties) -> None:
    if not inputs["privileges"]:
        return
    what = SQL("GRANT {} ON {} TO {}{}").format(
        keywords(set_order(inputs["privileges"])),
        _objects(inputs),
        Identifier(inputs["role"]),
        SQL(" WITH GRANT OPTION" if inputs["withGrantOption"] else ""),
    )
    transaction.run("could not alter default privileges", _alter(inputs, what))


def _revoke(transaction: Transaction, inputs: Properties) -> None:
    what = SQL("REVOKE ALL ON {} FROM {}").format(_objects(inputs), Identifier(inputs["role"]))
    transaction.run("could not revoke default privileges", _alter(inputs, what))


def _alter(inputs: Properties, what: Composable) -> Composed:
    schema = inputs.get("schema")
    where = SQL("IN SCHEMA {} ").format(Identifier(schema)) if schema else SQL("")
    return SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {} {}{}").format(Identifier(inputs["owner"]), where, what)


def _objects(inputs: Properties) -> SQL:
    return SQL(f"{inputs['objectType'].upper()}S")
