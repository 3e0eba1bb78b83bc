"""Transactions on the PostgreSQL server, and what several types ask of it."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.sql import SQL, Composed, Identifier

from local.providers.bridged import Bridged
from local.providers.provider import ProviderError
from local.providers.schema import Schema

PACKAGE = Schema("pulumi_postgresql")
PUBLIC = "public"
"""Everybody, where a role is asked for."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The provider's configuration, with defaults filled in."""

    host: str
    port: int
    database: str
    username: str
    password: str
    database_username: str
    """Whom the server knows the user as, where it maps names."""
    superuser: bool
    sslmode: str
    sslrootcert: str | None
    connect_timeout: int
    max_connections: int


class Transaction:
    """One transaction; what the server refuses becomes a `ProviderError` that says what failed."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        """The connection is in a transaction already."""
        self._connection = connection

    @property
    def server_version(self) -> int:
        """Such as 180001."""
        return self._connection.info.server_version

    def run(self, failing: str, statement: Composed) -> None:
        """Run a statement; `failing` says what could not be done."""
        with _refusals(failing):
            self._connection.execute(statement)

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """All rows."""
        with _refusals("error reading from PostgreSQL"):
            return self._connection.execute(query.encode(), parameters).fetchall()

    def row(self, query: str, *parameters: Any) -> tuple[Any, ...] | None:
        """The first row."""
        return next(iter(self.rows(query, *parameters)), None)

    def value(self, query: str, *parameters: Any) -> Any:
        """The first row's first column, None without a row."""
        row = self.row(query, *parameters)
        return None if row is None else row[0]

    def has(self, query: str, *parameters: Any) -> bool:
        """Whether there is a row."""
        return self.row(query, *parameters) is not None

    def lock_role(self, role: str) -> None:
        """Keep other changes of the role and its members waiting: the server refuses those that meet."""
        self.rows("SELECT set_config('statement_timeout', '0', false)")
        self.rows("SELECT pg_advisory_xact_lock(oid::bigint) FROM pg_roles WHERE rolname = %s", role)
        self.rows(
            "SELECT pg_advisory_xact_lock(member::bigint) FROM pg_auth_members"
            " JOIN pg_roles ON roleid = pg_roles.oid WHERE rolname = %s",
            role,
        )

    def lock_database(self, database: str) -> None:
        """Keep other changes of the database waiting."""
        self.rows("SELECT set_config('statement_timeout', '0', false)")
        self.rows("SELECT pg_advisory_xact_lock(oid::bigint) FROM pg_database WHERE datname = %s", database)

    def role_exists(self, role: str) -> bool:
        """Whether there is such a role."""
        return self.has("SELECT 1 FROM pg_roles WHERE rolname = %s", role)

    def role_oid(self, role: str) -> int:
        """The role's number; 0 for everybody."""
        if role == PUBLIC:
            return 0
        oid = self.value("SELECT oid FROM pg_roles WHERE rolname = %s", role)
        if oid is None:
            raise ProviderError(f"could not find oid for role {role}: there is no such role")
        return int(oid)

    def schema_exists(self, schema: str) -> bool:
        """Whether the database has such a schema."""
        return self.has("SELECT 1 FROM pg_namespace WHERE nspname = %s", schema)

    def owner_of_database(self, database: str) -> str:
        """The role that owns the database."""
        query = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s"
        owner = self.value(query, database)
        if owner is None:
            raise ProviderError(f"could not find database '{database}' while looking for owner")
        return str(owner)

    def owner_of_schema(self, schema: str) -> str:
        """The role that owns the schema."""
        owner = self.value("SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = %s", schema)
        if owner is None:
            raise ProviderError(f"could not find schema '{schema}' while looking for owner")
        return str(owner)

    def is_superuser(self, role: str) -> bool:
        """Whether no permission is asked of the role."""
        superuser = self.value("SELECT rolsuper FROM pg_roles WHERE rolname = %s", role)
        if superuser is None:
            raise ProviderError(f"could not check if role {role} is superuser: there is no such role")
        return bool(superuser)

    @contextmanager
    def as_member_of(self, roles: Iterable[str]) -> Iterator[None]:
        """Be a member of the roles for a while: only a superuser can act for them without that."""
        user = str(self.value("SELECT current_user"))
        if self.is_superuser(user):
            yield
            return
        granted, revoked = [], []
        for role in roles:
            if role == user or self.is_superuser(role):
                continue
            if self._is_member(role, of=user):
                self._revoke(user, role)
                revoked.append(role)
            if not self._is_member(user, of=role):
                self._grant(role, user)
                granted.append(role)
        yield
        for role in granted:
            if self.role_exists(role) and self._is_member(user, of=role):
                self._revoke(role, user)
        for role in revoked:
            if self.role_exists(role):
                self._grant(user, role)

    def _is_member(self, member: str, *, of: str) -> bool:
        return self.has(
            "SELECT 1 FROM pg_auth_members"
            " WHERE pg_get_userbyid(roleid) = %s AND pg_get_userbyid(member) = %s AND set_option",
            of,
            member,
        )

    def _grant(self, role: str, member: str) -> None:
        statement = SQL("GRANT {} TO {}").format(Identifier(role), Identifier(member))
        self.run(f"error granting role {role} to {member}", statement)

    def _revoke(self, role: str, member: str) -> None:
        statement = SQL("REVOKE {} FROM {}").format(Identifier(role), Identifier(member))
        self.run(f"error revoking role {role} from {member}", statement)


class Server:
    """The server that the provider's configuration names."""

    settings: Settings

    def __init__(self) -> None:
        """Connect to nothing yet."""
        self._places_made = threading.Lock()
        self._places: threading.BoundedSemaphore | None = None

    @contextmanager
    def transaction(self, database: str | None = None) -> Iterator[Transaction]:
        """A transaction in the database, or in the configured one; every one has a connection of its own.

        No connection stays open between them, so that a database can be dropped in the same update.
        """
        with self._place(), self._connection(database or self.settings.database) as connection:
            yield Transaction(connection)

    @contextmanager
    def no_transaction(self) -> Iterator[Transaction]:
        """The same without the transaction: each statement is final at once."""
        with self._place(), self._connection(self.settings.database) as connection:
            connection.autocommit = True
            yield Transaction(connection)

    @contextmanager
    def _connection(self, database: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        settings = self.settings
        try:
            connection = psycopg.connect(
                host=settings.host,
                port=settings.port,
                dbname=database,
                user=settings.username,
                password=settings.password,
                sslmode=settings.sslmode,
                sslrootcert=settings.sslrootcert,
                connect_timeout=settings.connect_timeout,
                fallback_application_name="Terraform provider",
            )
        except psycopg.Error as error:
            reason = " ".join(str(error).split()).removeprefix("connection failed: ")
            raise ProviderError(
                f"error connecting to PostgreSQL server {settings.host} (scheme: postgres): {reason}"
            ) from None
        with _refusals("could not commit transaction"), connection:
            yield connection

    @contextmanager
    def _place(self) -> Iterator[None]:
        limit = self.settings.max_connections
        if limit < 1:
            yield
            return
        with self._places_made:
            if self._places is None:
                self._places = threading.BoundedSemaphore(limit)
        with self._places:
            yield


class PostgresResource(Bridged):
    """A type of this plugin."""

    package = PACKAGE

    def __init__(self, server: Server) -> None:
        """The server is configured later."""
        super().__init__()
        self.server = server


@contextmanager
def _refusals(failing: str) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        code = f" ({error.sqlstate})" if error.sqlstate else ""
        message = error.diag.message_primary or " ".join(str(error).split())
        raise ProviderError(f"{failing}: pq: {message}{code}") from None


def listed(parts: Sequence[sql.Composable]) -> Composed:
    """The parts with commas between them."""
    return SQL(", ").join(parts)


def identifiers(names: Iterable[str]) -> Composed:
    """Quoted names with commas between them."""
    return listed([Identifier(name) for name in names])


def keywords(words: Iterable[str]) -> Composed:
    """Words of the language with commas between them; only for words out of a fixed list."""
    return listed([SQL(word) for word in words])
