"""Enters PostgreSQL and takes the steps there, with the tenant's rights and no more.

A login is made for them: a tenant may have put functions and triggers into its schema, and an administrator
who sets them off would lend them its power.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import sqlalchemy
from psycopg import sql

from infra.tenants import migrations
from infra.tenants.migrations import patience

_PATIENCE = "30s"
"""How long a step waits for a lock whose holder is not ended (`patience.py`)."""


def upgrade(props: dict[str, Any]) -> None:
    """Bring the schema to `props`' revision.

    Raises:
        MigrationError: the schema is as it was; the message says why.
    """
    schema = props["schema"]
    try:
        with (
            _alone(props, schema),
            _administrator(props) as administrator,
            _login(administrator, schema) as (user, password),
            _connected(props, user, password) as connection,
            patience.ending_holders(props, connection.info.backend_pid, schema),
            _engine(connection).begin() as session,
        ):
            session.exec_driver_sql(f"SET LOCAL ROLE {schema}")
            session.exec_driver_sql(f"SET LOCAL search_path = {schema}")
            session.exec_driver_sql(f"SET LOCAL lock_timeout = '{_PATIENCE}'")
            migrations.upgrade(session, schema, props["revision"])
    except (psycopg.Error, sqlalchemy.exc.DBAPIError) as error:
        cause = getattr(error, "orig", None) or error
        raise migrations.MigrationError(
            f"schema {schema} could not be brought to revision {props['revision']} and is as it was: "
            f"{str(cause).strip().splitlines()[0]}"
        ) from None


def revision(props: dict[str, Any], schema: str) -> str | None:
    """The revision `schema` is on; nothing if it is gone or holds nothing of ours."""
    with _administrator(props) as connection, _engine(connection).connect() as session:
        return migrations.current(session, schema)


@contextmanager
def _alone(props: dict[str, Any], schema: str) -> Iterator[None]:
    """Only one at a time for a schema: whoever comes second waits, also for the end of one that was killed.

    The lock is a role that is made and never committed: nobody but an administrator can stand in its way. An
    advisory lock can be held by anybody who has a login, by another tenant, too.
    """
    with (
        _connected(props, props["user"], props["password"]) as keeper,
        keeper.transaction(force_rollback=True),
    ):
        keeper.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(_PATIENCE)))
        keeper.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(f"{schema}_migrating")))
        yield


@contextmanager
def _login(administrator: psycopg.Connection[Any], schema: str) -> Iterator[tuple[str, str]]:
    """A login that is a member of the schema's owner, for as long as this lasts."""
    user, password = f"{schema}_migration", secrets.token_urlsafe(32)
    administrator.execute(sql.SQL("SET lock_timeout = {}").format(sql.Literal(_PATIENCE)))
    administrator.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(user)))
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
        administrator.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(user)))


def _administrator(props: dict[str, Any]) -> psycopg.Connection[Any]:
    return _connected(props, props["user"], props["password"], autocommit=True)


def _connected(
    props: dict[str, Any], user: str, password: str, *, autocommit: bool = False
) -> psycopg.Connection[Any]:
    return psycopg.connect(
        host=props["host"],
        port=int(props["port"]),
        dbname=props["database"],
        user=user,
        password=password,
        sslmode=props["sslMode"],
        connect_timeout=15,
        autocommit=autocommit,
    )


def _engine(connection: psycopg.Connection[Any]) -> sqlalchemy.Engine:
    """The connection as SQLAlchemy takes it, opened and closed by whoever made it."""
    return sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: connection, poolclass=sqlalchemy.StaticPool
    )
