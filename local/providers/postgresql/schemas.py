"""Schemas: the namespaces inside a database."""

from psycopg.sql import SQL, Identifier

from local.providers.bridged import Property, table
from local.providers.postgresql.server import PostgresResource, Transaction
from local.providers.provider import Call, ProviderError
from local.providers.values import Properties

_EXISTS = "SELECT 1 FROM pg_database WHERE datname = %s"
_READ = "SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = %s"


class PostgresSchema(PostgresResource):
    """`postgresql:index/schema:Schema`; its id is `database.schema`."""

    properties = table(
        name=Property(),
        database=Property(computed=True, replaces=True),
        owner=Property(computed=True),
        ifNotExists=Property(default=True),
        dropCascade=Property(default=False),
    )

    def make(self, call: Call, inputs: Properties) -> str:  # noqa: D102
        del call
        name, owner = inputs["name"], inputs.get("owner")
        database = inputs.get("database") or self.server.settings.database
        with self.server.transaction(database) as transaction:
            owner_of_database = transaction.owner_of_database(database)
            helpers = dict.fromkeys([owner_of_database, *([owner] if owner else [])])
            with transaction.as_member_of(helpers):
                self._create(transaction, name, owner, if_not_exists=inputs["ifNotExists"])
        return f"{database}.{name}"

    def _create(self, transaction: Transaction, name: str, owner: str | None, *, if_not_exists: bool) -> None:
        if transaction.schema_exists(name):
            if owner:
                _set_owner(transaction, name, owner)
            return
        authorization = SQL(" AUTHORIZATION {}").format(Identifier(owner)) if owner else SQL("")
        transaction.run(
            f"error creating schema {name}",
            SQL("CREATE SCHEMA {}{}{}").format(
                SQL("IF NOT EXISTS " if if_not_exists else ""), Identifier(name), authorization
            ),
        )

    def find(self, id: str, known: Properties) -> Properties | None:  # noqa: D102
        database, name = known.get("database") or self.server.settings.database, known.get("name")
        if not name:
            database, _, name = id.partition(".")
            if not name or "." in name:
                raise ProviderError(f"schema ID {id} has not the expected format 'database.schema'")
        with self.server.transaction() as transaction:
            if not transaction.has(_EXISTS, database):
                return None
        with self.server.transaction(database) as transaction:
            owner = transaction.value(_READ, name)
        if owner is None:
            return None
        return {
            "name": name,
            "database": database,
            "owner": owner,
            "ifNotExists": known.get("ifNotExists"),
            "dropCascade": known.get("dropCascade"),
        }

    def change(self, call: Call, id: str, old: Properties, new: Properties) -> None:  # noqa: D102
        del call, id
        name, owner = new["name"], new.get("owner")
        with self.server.transaction(old["database"]) as transaction:
            if old["name"] != name:
                transaction.run(
                    "error updating schema NAME",
                    SQL("ALTER SCHEMA {} RENAME TO {}").format(Identifier(old["name"]), Identifier(name)),
                )
            if owner and owner != old["owner"]:
                _set_owner(transaction, name, owner)

    def drop(self, id: str, known: Properties) -> None:  # noqa: D102
        del id
        name = known["name"]
        with self.server.transaction(known["database"]) as transaction:
            if not transaction.schema_exists(name):
                return
            mode = SQL("CASCADE" if known.get("dropCascade") else "RESTRICT")
            with transaction.as_member_of([known["owner"]]):
                transaction.run(
                    "error deleting schema", SQL("DROP SCHEMA {} {}").format(Identifier(name), mode)
                )


def _set_owner(transaction: Transaction, name: str, owner: str) -> None:
    statement = SQL("ALTER SCHEMA {} OWNER TO {}").format(Identifier(name), Identifier(owner))
    transaction.run("error updating schema OWNER", statement)
