"""Roles: users and groups of the whole server."""

from typing import Any

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from local.providers.bridged import Property, set_order, table
from local.providers.postgresql.server import PostgresResource, Transaction, identifiers
from local.providers.provider import Call, ProviderError
from local.providers.values import Properties

_FLAGS = {
    "superuser": "SUPERUSER",
    "createDatabase": "CREATEDB",
    "createRole": "CREATEROLE",
    "inherit": "INHERIT",
    "login": "LOGIN",
    "bypassRowLevelSecurity": "BYPASSRLS",
    "replication": "REPLICATION",
}
_SETTINGS = {
    "statementTimeout": "statement_timeout",
    "idleInTransactionSessionTimeout": "idle_in_transaction_session_timeout",
    "assumeRole": "role",
}
_READ = """
SELECT rolname, rolconnlimit, rolcreatedb, rolcreaterole, rolinherit, rolcanlogin, rolsuper, rolreplication,
       rolbypassrls, coalesce(rolvaliduntil::text, 'infinity'), coalesce(rolconfig, '{}'),
       ARRAY(SELECT pg_get_userbyid(roleid)::text FROM pg_auth_members WHERE member = pg_roles.oid)
FROM pg_roles WHERE rolname = %s
"""


class Role(PostgresResource):
    """`postgresql:index/role:Role`; its id is its name."""

    properties = table(
        name=Property(),
        password=Property(secret=True),
        roles=Property(unordered=True),
        searchPaths=Property(),
        encryptedPassword=Property(default=True),
        validUntil=Property(default="infinity"),
        connectionLimit=Property(default=-1, at_least=-1),
        **{name: Property(default=name == "inherit") for name in _FLAGS},
        statementTimeout=Property(at_least=0),
        idleInTransactionSessionTimeout=Property(at_least=0),
        assumeRole=Property(),
        skipDropRole=Property(default=False),
        skipReassignOwned=Property(default=False),
    )

    def make(self, call: Call, inputs: Properties) -> str:  # noqa: D102
        del call
        name: str = inputs["name"]
        options = [
            *_password(inputs),
            _valid_until(inputs),
            _connection_limit(inputs),
            *(_flag(flag, inputs[flag]) for flag in _FLAGS),
        ]
        with self.server.transaction() as transaction:
            transaction.run(
                f"error creating role {name}",
                SQL("CREATE ROLE {} WITH {}").format(Identifier(name), SQL(" ").join(options)),
            )
            _grant_roles(transaction, name, inputs)
            _set_search_path(transaction, name, inputs)
            for setting in _SETTINGS:
                if inputs.get(setting):
                    _set(transaction, name, setting, inputs[setting])
        return name

    def find(self, id: str, known: Properties) -> Properties | None:  # noqa: D102
        with self.server.transaction() as transaction:
            row = transaction.row(_READ, known.get("name", id))
            if row is None:
                return None
            settings = dict(item.split("=", 1) for item in row[10])
            found = {
                "name": row[0],
                "connectionLimit": row[1],
                "createDatabase": row[2],
                "createRole": row[3],
                "inherit": row[4],
                "login": row[5],
                "superuser": row[6],
                "replication": row[7],
                "bypassRowLevelSecurity": row[8],
                "validUntil": row[9],
                "roles": set_order(row[11]),
                "searchPaths": _search_path(settings),
                "statementTimeout": int(settings.get("statement_timeout", 0)),
                "idleInTransactionSessionTimeout": int(
                    settings.get("idle_in_transaction_session_timeout", 0)
                ),
                "assumeRole": settings.get("role", ""),
                "encryptedPassword": True,
                "skipDropRole": known.get("skipDropRole", False),
                "skipReassignOwned": known.get("skipReassignOwned", False),
            }
            if known.get("password"):
                found["password"] = self._password(transaction, found, known["password"])
            return found

    def _password(self, transaction: Transaction, found: Properties, known: str) -> str:
        """The known password while the server has one; only an administrator can see whether it does."""
        if not found["login"] or not self.server.settings.superuser:
            return known
        if not transaction.is_superuser(str(transaction.value("SELECT current_user"))):
            raise ProviderError(
                "could not read role password from Postgres as connected user "
                f"{self.server.settings.database_username} is not a SUPERUSER. You can set "
                "`superuser = false` in the provider configuration so it will not try to read the password "
                "from Postgres"
            )
        kept = transaction.value("SELECT passwd FROM pg_shadow WHERE usename = %s", found["name"])
        return known if kept else ""

    def change(self, call: Call, id: str, old: Properties, new: Properties) -> None:  # noqa: D102
        del call, id
        name: str = new["name"]
        changed = {key for key in self.properties if (old.get(key) or None) != (new.get(key) or None)}
        with self.server.transaction() as transaction:
            transaction.lock_role(old["name"])
            if "name" in changed:
                transaction.run(
                    "error updating role NAME",
                    SQL("ALTER ROLE {} RENAME TO {}").format(Identifier(old["name"]), Identifier(name)),
                )
            if changed & {"name", "password"} and new.get("password"):
                _alter(transaction, name, "password", *_password({**new, "encryptedPassword": True}))
            if "connectionLimit" in changed:
                _alter(transaction, name, "CONNECTION LIMIT", _connection_limit(new))
            for flag in _FLAGS.keys() & changed:
                _alter(transaction, name, _FLAGS[flag], _flag(flag, new[flag]))
            if "validUntil" in changed and new.get("validUntil"):
                _alter(transaction, name, "VALID UNTIL", _valid_until(new))
            _revoke_roles(transaction, name)
            _grant_roles(transaction, name, new)
            _set_search_path(transaction, name, new)
            for setting in _SETTINGS.keys() & changed:
                _set(transaction, name, setting, new.get(setting))

    def drop(self, id: str, known: Properties) -> None:  # noqa: D102
        name = known.get("name", id)
        with self.server.transaction() as transaction:
            transaction.lock_role(name)
            if not known.get("skipReassignOwned"):
                with transaction.as_member_of([name]):
                    self._give_up_ownership(transaction, name)
            if not known.get("skipDropRole"):
                statement = SQL("DROP ROLE {}").format(Identifier(name))
                transaction.run(f"could not delete role {name}", statement)

    def _give_up_ownership(self, transaction: Transaction, name: str) -> None:
        user = self.server.settings.database_username
        transaction.run(
            f"could not reassign owned by role {name} to {user}",
            SQL("REASSIGN OWNED BY {} TO {}").format(Identifier(name), Identifier(user)),
        )
        transaction.run(
            f"could not drop owned by role {name}", SQL("DROP OWNED BY {}").format(Identifier(name))
        )


def _password(inputs: Properties) -> list[Composable]:
    password = inputs.get("password")
    if not password:
        return []
    if password.upper() == "NULL":
        return [SQL("PASSWORD NULL")]
    encrypted = SQL("ENCRYPTED" if inputs["encryptedPassword"] else "UNENCRYPTED")
    return [encrypted, SQL("PASSWORD {}").format(Literal(password))]


def _valid_until(inputs: Properties) -> Composed:
    until = inputs["validUntil"]
    return SQL("VALID UNTIL {}").format(Literal("infinity" if until.lower() == "infinity" else until))


def _connection_limit(inputs: Properties) -> Composed:
    return SQL("CONNECTION LIMIT {}").format(Literal(inputs["connectionLimit"]))


def _flag(name: str, value: bool) -> Composable:
    return SQL(_FLAGS[name] if value else f"NO{_FLAGS[name]}")


def _alter(transaction: Transaction, role: str, what: str, *options: Composable) -> None:
    statement = SQL("ALTER ROLE {} WITH {}").format(Identifier(role), SQL(" ").join(options))
    transaction.run(f"error updating role {what}", statement)


def _revoke_roles(transaction: Transaction, role: str) -> None:
    """As the official plugin does at every update, also those memberships that a `GrantRole` has made."""
    query = (
        "SELECT pg_get_userbyid(roleid) FROM pg_auth_members"
        " JOIN pg_roles ON member = pg_roles.oid WHERE rolname = %s"
    )
    for (granted,) in transaction.rows(query, role):
        statement = SQL("REVOKE {} FROM {}").format(Identifier(granted), Identifier(role))
        transaction.run(f"could not revoke role {granted} from {role}", statement)


def _grant_roles(transaction: Transaction, role: str, inputs: Properties) -> None:
    for granted in set_order(inputs.get("roles", ())):
        statement = SQL("GRANT {} TO {}").format(Identifier(granted), Identifier(role))
        transaction.run(f"could not grant role {granted} to {role}", statement)


def _set_search_path(transaction: Transaction, role: str, inputs: Properties) -> None:
    path = inputs.get("searchPaths") or []
    for part in path:
        if ", " in part:
            raise ProviderError(f"search_path cannot contain `, `: {part}")
    statement = SQL("ALTER ROLE {} SET search_path TO {}").format(
        Identifier(role), identifiers(path) if path else SQL("DEFAULT")
    )
    transaction.run(f"could not set search_path {', '.join(path) or 'DEFAULT'} for {role}", statement)


def _search_path(settings: dict[str, str]) -> list[str]:
    if "search_path" not in settings:
        return []
    return [part.strip('"') for part in settings["search_path"].split(", ")]


def _set(transaction: Transaction, role: str, name: str, value: Any) -> None:
    setting = Identifier(_SETTINGS[name])
    if value:
        statement = SQL("ALTER ROLE {} SET {} TO {}").format(Identifier(role), setting, Literal(value))
        transaction.run(f"could not set {_SETTINGS[name]} {value} for {role}", statement)
    else:
        statement = SQL("ALTER ROLE {} RESET {}").format(Identifier(role), setting)
        transaction.run(f"could not reset {_SETTINGS[name]} for {role}", statement)
