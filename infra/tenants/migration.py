"""A tenant's tables as a resource: its revision is an input, so a preview shows which schemas a step touches.

`MigrationProvider` runs in Pulumi's host for dynamic resources; what is serialised of it is its name. The
steps run with the tenant's rights and no more, through a login made for them: a tenant may have put functions
and triggers into its schema, and an administrator who sets them off would lend them its power.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pulumi
import sqlalchemy
from psycopg import sql
from pulumi.dynamic import (
    CheckFailure,
    CheckResult,
    CreateResult,
    DiffResult,
    ReadResult,
    Resource,
    ResourceProvider,
    UpdateResult,
)

from infra.platform import Database
from infra.tenants import migrations

_PATIENCE = "30s"
"""How long a step waits for somebody else's lock: a tenant at work must not block everybody's update."""


class MigrationProvider(ResourceProvider):
    """Brings a schema to a revision, never back."""

    serialize_as_secret_always = False

    def check(self, olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Refuse a way back while it is still a preview."""
        old, new = olds.get("revision"), news.get("revision")
        failures = []
        if old and new and migrations.is_behind(new, old):
            failures.append(CheckFailure("revision", migrations.no_way_back(news["schema"], old, new)))
        return CheckResult(news, failures)

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """Another schema is another resource; a changed way into the database is only taken note of."""
        changed = any(olds.get(key) != value for key, value in news.items() if not key.startswith("__"))
        replaces = ["schema"] if olds.get("schema") != news.get("schema") else []
        return DiffResult(changes=changed, replaces=replaces, stables=["schema"])

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Take the steps that the schema has not taken yet, be it none."""
        _upgrade(props)
        return CreateResult(props["schema"], props)

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """The revision the schema is on; gone if the schema is, or holds nothing of ours."""
        with _administrator(props) as connection, _engine(connection).connect() as session:
            revision = migrations.current(session, id_)
        if not revision:
            return ReadResult("", {})
        return ReadResult(id_, {**props, "revision": revision})

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Take the steps in between."""
        _upgrade(news)
        return UpdateResult(news)

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Nothing: the tables go with the schema, and with nothing else."""


class Migration(Resource, module="agent-platform", name="Migration"):
    """The tables of a tenant's schema, at a revision."""

    def __init__(
        self,
        resource_name: str,
        *,
        schema: pulumi.Input[str],
        database: Database,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """Declare that `schema`, owned by the role of the same name, is on the newest revision."""
        super().__init__(
            _PROVIDER,
            resource_name,
            {
                "schema": schema,
                "revision": migrations.head(),
                "host": database.host,
                "port": database.port,
                "database": database.name,
                "user": database.admin_user,
                "password": database.admin_password,
                "sslMode": database.ssl_mode,
            },
            pulumi.ResourceOptions.merge(
                opts, pulumi.ResourceOptions(additional_secret_outputs=["password"])
            ),
        )


_PROVIDER = MigrationProvider()


def _upgrade(props: dict[str, Any]) -> None:
    schema = props["schema"]
    try:
        with (
            _administrator(props) as administrator,
            _login(administrator, schema) as (user, password),
            _connected(props, user, password) as connection,
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


@contextmanager
def _login(administrator: psycopg.Connection[Any], schema: str) -> Iterator[tuple[str, str]]:
    """A login that is a member of the schema's owner, for as long as this lasts.

    Only one at a time for a schema: whoever comes second waits, also for the server to notice that the first
    one was killed.
    """
    user, password = f"{schema}_migration", secrets.token_urlsafe(32)
    administrator.execute(sql.SQL("SET lock_timeout = {}").format(sql.Literal(_PATIENCE)))
    administrator.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [user])
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
