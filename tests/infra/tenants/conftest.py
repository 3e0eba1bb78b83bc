"""Real servers for the parts of a tenant that live on one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from rich.console import Console

from infra.platform import administrator
from infra.platform.control_schema import TENANTS, ControlSchemaProvider
from infra.tenants import roles
from local import credentials, ports, supervisor
from local.servers import Module, object_storage, postgres, redis, vault

Connect = Callable[..., psycopg.Connection[Any]]


_SERVERS = {"database", "openbao", "activity_store", "s3_server"}
"""The fixtures that start one."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts servers, so that `make check` can leave it to `make test`."""
    for item in items:
        if isinstance(item, pytest.Function) and _SERVERS.intersection(item.fixturenames):
            item.add_marker(pytest.mark.servers)


@contextmanager
def _running(module: Module) -> Iterator[None]:
    module.prepare()
    for service in module.services():
        supervisor.start(service, Console(stderr=True))
    supervisor.wait_until(module.bootstrap, timeout=30, what="its first contents")
    try:
        yield
    finally:
        for service in reversed(module.services()):
            supervisor.stop(service.name)


@pytest.fixture(scope="package")
def database() -> Iterator[dict[str, Any]]:
    """How to enter PostgreSQL as its administrator; the platform's own part of it is as declared."""
    with _running(postgres):
        exports = postgres.environment()
        entrance = {
            "host": exports["PGHOST"],
            "port": float(exports["PGPORT"]),
            "database": exports["PGDATABASE"],
            "user": exports["PGUSER"],
            "password": exports["PGPASSWORD"],
            "sslMode": exports["PGSSLMODE"],
        }
        with administrator.connect(entrance) as server:
            server.execute("CREATE ROLE vault LOGIN CREATEROLE NOINHERIT PASSWORD 'issuer'")
            server.execute("CREATE ROLE limits LOGIN NOINHERIT PASSWORD 'keeper'")
            server.execute("CREATE ROLE monitoring LOGIN NOINHERIT PASSWORD 'observer'")
            server.execute("CREATE ROLE accounting LOGIN NOINHERIT PASSWORD 'accountant'")
            server.execute(f"CREATE ROLE {TENANTS}")
            server.execute(f"GRANT {TENANTS} TO vault WITH ADMIN OPTION")
            server.execute("GRANT CONNECT ON DATABASE agents TO vault, limits, monitoring, accounting")
            server.execute(f"GRANT CONNECT ON DATABASE agents TO {TENANTS}")
            for closed in ("agents", "postgres", "template1"):
                server.execute(f"REVOKE ALL ON DATABASE {closed} FROM PUBLIC")
        ControlSchemaProvider().create(
            {
                **entrance,
                "issuer": "vault",
                "members": TENANTS,
                "keeper": "limits",
                "observer": "monitoring",
                "accountant": "accounting",
            }
        )
        yield entrance


@pytest.fixture
def connect(database: dict[str, Any]) -> Iterator[Connect]:
    """Connect as the administrator, or as somebody."""
    opened: list[psycopg.Connection[Any]] = []

    def connect(user: str | None = None, password: str | None = None) -> psycopg.Connection[Any]:
        connection = psycopg.connect(
            host=database["host"],
            port=int(database["port"]),
            dbname=database["database"],
            user=user or database["user"],
            password=password or database["password"],
            autocommit=True,
        )
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection.close()


@pytest.fixture
def schema(database: dict[str, Any], connect: Connect) -> Iterator[Callable[[str], str]]:
    """Make what the postgresql provider makes of a tenant: an owner without login, and its schema."""
    made: list[str] = []
    administrator = connect()

    def schema(tenant: str) -> str:
        name = f"tenant_{tenant}"
        made.append(name)
        administrator.execute(f"CREATE ROLE {name} NOLOGIN")
        administrator.execute(f"GRANT CONNECT, TEMPORARY ON DATABASE agents TO {name}")
        administrator.execute(f"CREATE SCHEMA {name} AUTHORIZATION {name}")
        return name

    yield schema
    for name in made:
        administrator.execute(f"DROP SCHEMA IF EXISTS {name} CASCADE")
        administrator.execute("DELETE FROM agent_platform.revisions WHERE schema = %s", [name])
        roles.end_tenant(database, name)


@pytest.fixture
def acme_login(schema: Callable[[str], str], connect: Connect, database: dict[str, Any]) -> Iterator[str]:
    """A login of acme's, as Vault makes one; its password is x."""
    server = connect()
    schema("acme")
    server.execute("CREATE ROLE \"v-acme\" LOGIN PASSWORD 'x' NOINHERIT IN ROLE tenant_acme")
    server.execute('GRANT tenants TO "v-acme" WITH INHERIT TRUE, SET FALSE')
    server.execute("ALTER ROLE \"v-acme\" SET role = 'tenant_acme'")
    server.execute("ALTER ROLE \"v-acme\" SET search_path = 'tenant_acme'")
    yield "v-acme"
    roles.end(database, "v-acme")


@pytest.fixture(scope="package")
def openbao() -> Iterator[dict[str, str]]:
    """Address and token."""
    with _running(vault):
        yield {"address": vault.url(), "token": vault.root_token()}


@pytest.fixture(scope="package")
def activity_store() -> Iterator[dict[str, Any]]:
    """The properties that say how to enter the activity store."""
    with _running(redis):
        yield {
            "host": "127.0.0.1",
            "port": float(ports.port("redis")),
            "tls": False,
            "password": credentials.secret("redis"),
        }


@pytest.fixture(scope="package")
def s3_server() -> Iterator[str]:
    """The endpoint of an S3 server, whose owner's key is in the environment."""
    with _running(object_storage), pytest.MonkeyPatch.context() as environment:
        environment.setenv("EXOSCALE_API_KEY", credentials.secret("exoscale-api-key"))
        environment.setenv("EXOSCALE_API_SECRET", credentials.secret("exoscale-api-secret"))
        yield object_storage.url()
