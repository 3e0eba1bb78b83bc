"""Enters PostgreSQL and takes the steps there, with the tenant's rights and no more.

A login is made for them: a tenant may have put functions and triggers into its schema, and an administrator
who sets them off would lend them its power.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from threading import Lock
from typing import Any

import psycopg
import sqlalchemy
from psycopg import sql

from infra.platform.administrator import connect
from infra.tenants import migrations, roles
from infra.tenants.migrations import patience, shape
from infra.tenants.migrations.record import Record

_PATIENCE = "30s"
"""The time for which a step waits for a lock whose holder is not ended (`patience.py`)."""
_GLANCE = "2s"
"""Wait this long for a lock to look at a table."""

_DRAFT = "agent_platform_draft"
_ONE_DRAFT = Lock()


def upgrade(props: dict[str, Any]) -> None:
    """Bring the schema to `props`' revision, and make again what of it is missing.

    Raises:
        MigrationError: it is not there; the message says on which revision the schema is now, and why.
    """
    schema, goal = props["schema"], props["revision"]
    try:
        with _alone(props, schema), connect(props) as administrator:
            _upgrade(props, administrator)
    except (psycopg.Error, sqlalchemy.exc.DBAPIError, roles.RoleError, patience.TooLongError) as error:
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise migrations.MigrationError(
            f"schema {schema} should be on revision {goal}: {cause}. {_where_it_is(props)}"
        ) from None


def _upgrade(props: dict[str, Any], administrator: psycopg.Connection[Any]) -> None:
    schema, goal = props["schema"], props["revision"]
    # A run that was killed may still be at work on the server; with its login it ends.
    roles.end(props, _login_for(schema))
    if not _exists(administrator, schema):
        raise migrations.MigrationError(
            f"schema {schema} is gone; run the update with --refresh to make it again"
        )
    record = Record(administrator, props["control"], schema)
    start = record.revision()
    if start and migrations.is_behind(goal, start):
        raise migrations.MigrationError(migrations.no_way_back(schema, start, goal))
    if start and lacking(props, schema, start):
        start = ""  # Some step's work is undone: take them all again.
    wanted = _declared(_key(props), goal)
    with _login(props, administrator, schema) as (user, password):
        with (
            connect(props, user=user, password=password, autocommit=False) as connection,
            patience.ending_holders(props, connection.info.backend_pid, schema),
            _engine(connection).begin() as session,
        ):
            transaction = session.exec_driver_sql("SELECT pg_current_xact_id()::text").scalar_one()
            record.announce(goal, transaction)
            session.exec_driver_sql(f"SET LOCAL ROLE {schema}")
            session.exec_driver_sql(f"SET LOCAL search_path = {schema}")
            session.exec_driver_sql(f"SET LOCAL lock_timeout = '{_PATIENCE}'")
            migrations.take(session, start, goal)
            shape.restore(session, schema, shape.lacking(wanted, shape.parts(session, schema)))
            if left := shape.lacking(wanted, shape.parts(session, schema)):
                raise migrations.MigrationError(_changed(schema, goal, left))
        record.note()


def _where_it_is(props: dict[str, Any]) -> str:
    """Tell what was committed, asking the server anew: the connection that failed may not know."""
    try:
        now = revision(props, props["schema"])
    except psycopg.Error:
        return "Whether anything was committed is not known: the server does not answer. The next update sees"
    return f"It is on {'revision ' + now if now else 'no revision'} now, and nothing else was changed"


def _changed(schema: str, goal: str, left: list[shape.Part]) -> str:
    listed = "; ".join(map(str, left[:5])) + (f"; and {len(left) - 5} more" if len(left) > 5 else "")
    return (
        f"schema {schema} cannot have what revision {goal} declares, since its tenant changed it, and is as "
        f"it was. Missing: {listed}. Put that back, or rename the table, and the next update makes it again"
    )


def revision(props: dict[str, Any], schema: str) -> str | None:
    """The revision `schema` is on, empty if none; None if it is gone."""
    with connect(props) as administrator:
        if not _exists(administrator, schema):
            return None
        return Record(administrator, props["control"], schema).revision()


def lacking(props: dict[str, Any], schema: str, revision: str) -> list[str] | None:
    """Return the parts of the tables of `revision` that `schema` lacks or has in another form.

    None: its tenant holds one of them, and nobody waits to find out.
    """
    wanted = _declared(_key(props), revision)
    try:
        with connect(props, autocommit=False) as connection, _engine(connection).begin() as session:
            session.exec_driver_sql(f"SET LOCAL lock_timeout = '{_GLANCE}'")
            return [str(part) for part in shape.lacking(wanted, shape.parts(session, schema))]
    except sqlalchemy.exc.OperationalError as error:
        if isinstance(error.orig, psycopg.errors.LockNotAvailable):
            return None
        raise


def _exists(administrator: psycopg.Connection[Any], schema: str) -> bool:
    found = administrator.execute("SELECT FROM pg_namespace WHERE nspname = %s", [schema]).fetchone()
    return found is not None


def _key(props: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((name, props[name]) for name in ("host", "port", "database", "user", "password", "sslMode"))


def _declared(where: tuple[tuple[str, Any], ...], revision: str) -> frozenset[shape.Part]:
    """Return the tables that the steps to `revision` make, taken in a schema that is rolled back."""
    with _ONE_DRAFT:
        return _drafted(where, revision)


@cache
def _drafted(where: tuple[tuple[str, Any], ...], revision: str) -> frozenset[shape.Part]:
    with connect(dict(where), autocommit=False) as connection, _engine(connection).connect() as session:
        session.exec_driver_sql(f"CREATE SCHEMA {_DRAFT}")
        session.exec_driver_sql(f"SET LOCAL search_path = {_DRAFT}")
        migrations.take(session, "", revision)
        found = frozenset(shape.parts(session, _DRAFT))
        session.rollback()
    return found


@contextmanager
def _alone(props: dict[str, Any], schema: str) -> Iterator[None]:
    """Only one at a time for a schema: whoever comes second waits, also for the end of one that was killed.

    The lock is a role that is made and never committed: nobody but an administrator can stand in its way. An
    advisory lock can be held by anybody who has a login, by another tenant, too.
    """
    with connect(props, autocommit=False) as keeper, keeper.transaction(force_rollback=True):
        keeper.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(_PATIENCE)))
        keeper.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(f"{schema}_migrating")))
        yield


def _login_for(schema: str) -> str:
    return f"{schema}_migration"


@contextmanager
def _login(
    props: dict[str, Any], administrator: psycopg.Connection[Any], schema: str
) -> Iterator[tuple[str, str]]:
    """A login that is a member of the schema's owner, for as long as this lasts."""
    user, password = _login_for(schema), secrets.token_urlsafe(32)
    administrator.execute(
        sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} VALID UNTIL {} IN ROLE {}").format(
            sql.Identifier(user),
            sql.Literal(password),
            sql.Literal((datetime.now(UTC) + timedelta(minutes=5)).isoformat()),
            sql.Identifier(schema),
        )
    )
    try:
        yield user, password
    finally:
        roles.end(props, user)


def _engine(connection: psycopg.Connection[Any]) -> sqlalchemy.Engine:
    """The connection as SQLAlchemy takes it, opened and closed by whoever made it."""
    return sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: connection, poolclass=sqlalchemy.StaticPool
    )
