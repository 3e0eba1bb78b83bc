"""Databases: each with its own schemas, all with the server's roles."""

from psycopg.sql import SQL, Composable, Identifier, Literal

from local.providers.bridged import Property, table
from local.providers.postgresql.server import PostgresResource, Transaction
from local.providers.provider import Call
from local.providers.values import Properties

_READ = """
SELECT datname, pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datctype, spcname,
       datconnlimit, datallowconn, datistemplate
FROM pg_database JOIN pg_tablespace ON dattablespace = pg_tablespace.oid WHERE datname = %s
"""
_READ_AS = (
    *("name", "owner", "encoding", "lcCollate", "lcCtype", "tablespaceName", "connectionLimit"),
    *("allowConnections", "isTemplate"),
)
_CHANGEABLE = {
    "connectionLimit": "CONNECTION LIMIT",
    "allowConnections": "ALLOW_CONNECTIONS",
    "isTemplate": "IS_TEMPLATE",
}


class Database(PostgresResource):
    """`postgresql:index/database:Database`; its id is its name."""

    properties = table(
        name=Property(),
        owner=Property(computed=True),
        template=Property(computed=True, replaces=True),
        encoding=Property(computed=True, replaces=True),
        lcCollate=Property(computed=True, replaces=True),
        lcCtype=Property(computed=True, replaces=True),
        connectionLimit=Property(default=-1, at_least=-1),
        allowConnections=Property(default=True),
        isTemplate=Property(computed=True),
    )

    def make(self, call: Call, inputs: Properties) -> str:  # noqa: D102
        del call
        name: str = inputs["name"]
        user = self.server.settings.database_username
        owner = inputs.get("owner") or user
        options: list[Composable] = [
            SQL("OWNER {}").format(Identifier(owner)),
            SQL("TEMPLATE {}").format(_or_default(inputs.get("template") or "template0", Identifier)),
            SQL("ENCODING {}").format(_or_default(inputs.get("encoding") or "UTF8", Literal)),
        ]
        for option, word in (("lcCollate", "LC_COLLATE"), ("lcCtype", "LC_CTYPE")):
            if inputs.get(option):
                options.append(SQL(word + " {}").format(_or_default(inputs[option], Literal)))
        options += [_option(option, inputs.get(option, False)) for option in _CHANGEABLE]
        # Creating and dropping cannot be undone, so PostgreSQL has neither inside a transaction.
        with self.server.transaction() as waiting, self.server.no_transaction() as session:
            waiting.lock_role(user)
            with session.as_member_of([owner]):
                statement = SQL("CREATE DATABASE {} {}").format(Identifier(name), SQL(" ").join(options))
                session.run(f'error creating database "{name}"', statement)
        return name

    def find(self, id: str, known: Properties) -> Properties | None:  # noqa: D102
        with self.server.transaction() as transaction:
            row = transaction.row(_READ, known.get("name", id))
        if row is None:
            return None
        return {
            **dict(zip(_READ_AS, row, strict=True)),
            "template": known.get("template") or "template0",
            "alterObjectOwnership": False,
        }

    def change(self, call: Call, id: str, old: Properties, new: Properties) -> None:  # noqa: D102
        del call, id
        name, owner = new["name"], new.get("owner")
        with self.server.transaction() as transaction:
            if old["name"] != name:
                _alter(transaction, "name", old["name"], SQL("RENAME TO {}").format(Identifier(name)))
            if owner and owner != old["owner"]:
                with transaction.as_member_of([owner]):
                    _alter(transaction, "OWNER", name, SQL("OWNER TO {}").format(Identifier(owner)))
            for option, word in _CHANGEABLE.items():
                if option in new and new[option] != old.get(option):
                    _alter(transaction, word, name, _option(option, new[option]))

    def drop(self, id: str, known: Properties) -> None:  # noqa: D102
        del id
        name: str = known["name"]
        with self.server.transaction() as waiting, self.server.no_transaction() as session:
            waiting.lock_role(self.server.settings.database_username)
            if not session.has("SELECT 1 FROM pg_database WHERE datname = %s", name):
                return
            with session.as_member_of([known["owner"]]):
                if known.get("isTemplate"):
                    _alter(session, "IS_TEMPLATE during DROP DATABASE", name, _option("isTemplate", False))
                _alter(session, "ALLOW_CONNECTIONS", name, _option("allowConnections", False))
                statement = SQL("DROP DATABASE {} WITH ( FORCE )").format(Identifier(name))
                session.run("error dropping database", statement)


def _alter(transaction: Transaction, what: str, name: str, change: Composable) -> None:
    statement = SQL("ALTER DATABASE {} {}").format(Identifier(name), change)
    transaction.run(f"error updating database {what}", statement)


def _option(option: str, value: bool | int) -> Composable:
    return SQL(_CHANGEABLE[option] + " {}").format(Literal(value))


def _or_default(value: str, as_: type[Identifier] | type[Literal]) -> Composable:
    """The value as it is written in SQL; `DEFAULT` is a word of the language."""
    return SQL("DEFAULT") if value.upper() == "DEFAULT" else as_(value)
