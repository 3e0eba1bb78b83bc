"""Grants: what a role may do with objects that there are."""

from collections.abc import Iterator
from contextlib import AbstractContextManager

from psycopg.sql import SQL, Composable, Composed, Identifier

from local.providers.bridged import Property, set_order, table
from local.providers.postgresql import privileges
from local.providers.postgresql.server import (
    PUBLIC,
    PostgresResource,
    Transaction,
    identifiers,
    keywords,
    listed,
)
from local.providers.provider import Call, ProviderError
from local.providers.values import Properties

_WITHOUT_SCHEMA = ("database", "foreign_data_wrapper", "foreign_server")
_ROUTINES = ("function", "procedure", "routine")
_TYPES = ("database", *_ROUTINES, "schema", "sequence", "table", *_WITHOUT_SCHEMA[1:], "column")
_KINDS = {"table": "r", "sequence": "S"}

_ON_ONE = {
    "database": "SELECT privilege_type FROM pg_database CROSS JOIN aclexplode(datacl)"
    " WHERE datname = %s AND grantee = %s",
    "schema": "SELECT privilege_type FROM pg_namespace CROSS JOIN aclexplode(nspacl)"
    " WHERE nspname = %s AND grantee = %s",
    "foreign_data_wrapper": "SELECT privilege_type FROM pg_foreign_data_wrapper CROSS JOIN aclexplode(fdwacl)"
    " WHERE fdwname = %s AND grantee = %s",
    "foreign_server": "SELECT privilege_type FROM pg_foreign_server CROSS JOIN aclexplode(srvacl)"
    " WHERE srvname = %s AND grantee = %s",
}
_ON_RELATIONS = """
SELECT relname, array_remove(array_agg(privilege_type), NULL)
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
LEFT JOIN LATERAL (SELECT * FROM aclexplode(relacl) WHERE grantee = %s) AS granted ON true
WHERE nspname = %s AND relkind = %s GROUP BY relname
"""
_ON_ROUTINES = """
SELECT proname, array_remove(array_agg(privilege_type), NULL)
FROM pg_proc JOIN pg_namespace ON pg_namespace.oid = pronamespace
LEFT JOIN LATERAL (SELECT * FROM aclexplode(proacl) WHERE grantee = %s) AS granted ON true
WHERE nspname = %s GROUP BY proname
"""
_ON_COLUMNS = """
SELECT attname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
JOIN pg_attribute ON attrelid = pg_class.oid CROSS JOIN LATERAL aclexplode(attacl)
WHERE grantee = %s AND nspname = %s AND relname = %s AND relkind = 'r' AND privilege_type = %s
"""


class Grant(PostgresResource):
    """`postgresql:index/grant:Grant`: all the privileges of one role on one kind of objects."""

    delete_before_replace = True
    properties = table(
        role=Property(replaces=True),
        database=Property(replaces=True),
        schema=Property(replaces=True),
        objectType=Property(replaces=True, choices=_TYPES),
        objects=Property(replaces=True, unordered=True),
        columns=Property(replaces=True, unordered=True),
        privileges=Property(unordered=True),
        withGrantOption=Property(default=False, replaces=True),
    )

    def make(self, call: Call, inputs: Properties) -> str:  # noqa: D102
        self.change(call, "", inputs, inputs)
        kind, schema = inputs["objectType"], inputs.get("schema") or ""
        parts = [inputs["role"], inputs["database"], *([] if kind in _WITHOUT_SCHEMA else [schema]), kind]
        return "_".join([*parts, *_members(inputs, "objects"), *_members(inputs, "columns")])

    def find(self, id: str, known: Properties) -> Properties | None:  # noqa: D102
        del id
        if not known:
            return None  # on import: the id does not tell which part of it is what
        known, database = {"privileges": [], **known}, known["database"]
        with self.server.transaction() as transaction:
            if not transaction.has("SELECT 1 FROM pg_database WHERE datname = %s", database):
                return None
        with self.server.transaction(database) as transaction:
            if not _all_exist(transaction, known):
                return None
            return {**known, **_drift(transaction, known)}

    def change(self, call: Call, id: str, old: Properties, new: Properties) -> None:  # noqa: D102
        del call, id
        _refuse_contradictions(new)
        with self.server.transaction(new["database"]) as transaction:
            privileges.refuse_unknown(transaction, new["objectType"], new["privileges"])
            with _permitted(transaction, new):
                # Those that are no longer wanted go in the same transaction: nobody is without for a moment.
                _revoke(transaction, {**new, "privileges": old.get("privileges", [])})
                _grant(transaction, new)

    def drop(self, id: str, known: Properties) -> None:  # noqa: D102
        del id
        with self.server.transaction(known["database"]) as transaction, _permitted(transaction, known):
            _revoke(transaction, {"privileges": [], **known})


def _members(inputs: Properties, name: str) -> list[str]:
    return set_order(inputs.get(name) or ())


def _refuse_contradictions(inputs: Properties) -> None:
    kind = inputs["objectType"]
    objects, columns = _members(inputs, "objects"), _members(inputs, "columns")
    rules = {
        "parameter 'schema' is mandatory for postgresql_grant resource": (
            not inputs.get("schema") and kind not in _WITHOUT_SCHEMA
        ),
        "cannot specify `objects` when `object_type` is `database` or `schema`": (
            bool(objects) and kind in ("database", "schema")
        ),
        "cannot specify `columns` when `object_type` is not `column`": bool(columns) and kind != "column",
        "must specify `columns` when `object_type` is `column`": not columns and kind == "column",
        "must specify exactly 1 `privileges` when `object_type` is `column`": (
            kind == "column" and len(set(inputs["privileges"])) != 1
        ),
        "must specify exactly 1 table in the `objects` field when `object_type` is `column`": (
            kind == "column" and len(objects) != 1
        ),
        "one element must be specified in `objects` when `object_type` is `foreign_data_wrapper` or "
        "`foreign_server`": kind in _WITHOUT_SCHEMA[1:] and len(objects) != 1,
    }
    for message, broken in rules.items():
        if broken:
            raise ProviderError(message)


def _all_exist(transaction: Transaction, known: Properties) -> bool:
    if known["role"] != PUBLIC and not transaction.role_exists(known["role"]):
        return False
    if known["objectType"] in _WITHOUT_SCHEMA:
        return True
    return transaction.schema_exists(known["schema"])


def _drift(transaction: Transaction, known: Properties) -> Properties:
    """What is granted now where that is not what was wanted."""
    kind, wanted = known["objectType"], known["privileges"]
    role = transaction.role_oid(known["role"])
    if kind == "column":
        (table,), (privilege,) = _members(known, "objects"), wanted
        rows = transaction.rows(_ON_COLUMNS, role, known["schema"], table, privilege)
        held = {row[0] for row in rows} & set(known["columns"])
        return {} if held == set(known["columns"]) else {"columns": set_order(held)}
    for granted in _granted(transaction, known, role):
        if not privileges.same(transaction, kind, granted, wanted):
            return {"privileges": set_order(granted)}
    return {}


def _granted(transaction: Transaction, known: Properties, role: int) -> Iterator[list[str]]:
    kind, objects = known["objectType"], _members(known, "objects")
    if kind in _ON_ONE:
        name = known[kind] if kind in ("database", "schema") else objects[0]
        yield [row[0] for row in transaction.rows(_ON_ONE[kind], name, role)]
        return
    if kind in _ROUTINES:
        rows = transaction.rows(_ON_ROUTINES, role, known["schema"])
    else:
        rows = transaction.rows(_ON_RELATIONS, role, known["schema"], _KINDS[kind])
    for name, granted in rows:
        if not objects or name in objects:
            yield granted


def _permitted(transaction: Transaction, inputs: Properties) -> AbstractContextManager[None]:
    """Lock what two grants would meet on, and act for the objects' owners."""
    transaction.lock_role(inputs["role"])
    if inputs["objectType"] == "database":
        transaction.lock_database(inputs["database"])
    return transaction.as_member_of(_owners(transaction, inputs))


def _owners(transaction: Transaction, inputs: Properties) -> list[str]:
    if inputs["objectType"] in _WITHOUT_SCHEMA:
        return []
    schema = inputs["schema"]
    owners = [transaction.owner_of_schema(schema)]
    if inputs["objectType"] != "schema":
        query = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = %s"
        owners += [row[0] for row in transaction.rows(query, schema)]
    if "pg_database_owner" in owners:
        owners.append(transaction.owner_of_database(inputs["database"]))
    return [owner for owner in dict.fromkeys(owners) if owner != "pg_database_owner"]


def _grant(transaction: Transaction, inputs: Properties) -> None:
    if not inputs["privileges"]:
        return
    statement = SQL("GRANT {} ON {} TO {}{}").format(
        _privileges(inputs),
        _objects(inputs),
        Identifier(inputs["role"]),
        SQL(" WITH GRANT OPTION" if inputs["withGrantOption"] else ""),
    )
    transaction.run("could not execute grant query", statement)


def _revoke(transaction: Transaction, inputs: Properties) -> None:
    named = bool(_members(inputs, "objects")) and inputs["objectType"] not in _WITHOUT_SCHEMA
    if inputs["objectType"] == "column" and not (inputs["privileges"] and inputs.get("columns")):
        return
    # On named objects only those privileges that were granted: grants on columns are somebody else's.
    what = _privileges(inputs) if named and inputs["privileges"] else SQL("ALL PRIVILEGES")
    statement = SQL("REVOKE {} ON {} FROM {}").format(what, _objects(inputs), Identifier(inputs["role"]))
    transaction.run("could not execute revoke query", statement)


def _privileges(inputs: Properties) -> Composed:
    words = keywords(set_order(inputs["privileges"]))
    if inputs["objectType"] != "column":
        return words
    return SQL("{} ({})").format(words, identifiers(_members(inputs, "columns")))


def _objects(inputs: Properties) -> Composable:
    kind, objects = inputs["objectType"], _members(inputs, "objects")
    if kind in ("database", "schema"):
        return SQL(kind.upper() + " {}").format(Identifier(inputs[kind]))
    if kind in _WITHOUT_SCHEMA:
        return SQL(kind.upper().replace("_", " ") + " {}").format(Identifier(objects[0]))
    word = "TABLE" if kind == "column" else kind.upper()
    schema = Identifier(inputs["schema"])
    if not objects:
        return SQL(f"ALL {word}S IN SCHEMA {{}}").format(schema)
    return SQL(word + " {}").format(listed([_named(schema, name) for name in objects]))


def _named(schema: Identifier, name: str) -> Composed:
    """`schema.name`; what follows a parenthesis are the types of a function's arguments."""
    bare, parenthesis, arguments = name.partition("(")
    return SQL("{}.{}{}").format(schema, Identifier(bare), SQL(parenthesis + arguments))
