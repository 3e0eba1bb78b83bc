"""`make status` tells when PostgreSQL has no room for tenants and who holds it, and who has too much."""

from collections.abc import Iterator

import psycopg
import pytest

from local import servers
from local.servers import postgres
from tests.local.servers.conftest import Running

ROOM = 6


@pytest.fixture
def administrator(running: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[psycopg.Connection]:
    """Of a server with little room."""
    small = {
        "max_connections": str(ROOM + 4),
        "superuser_reserved_connections": "4",
        "reserved_connections": "0",
    }
    monkeypatch.setattr(postgres, "_SETTINGS", {**postgres._SETTINGS, **small})
    with running(postgres), postgres._connect() as connection:
        connection.execute("CREATE ROLE tenant_acme")
        connection.execute("CREATE ROLE \"v-acme\" LOGIN PASSWORD 'x' IN ROLE tenant_acme")
        yield connection
        connection.execute('DROP ROLE "v-acme", tenant_acme')


def test_a_server_that_is_full_is_not_ready_and_says_who_holds_it(
    administrator: psycopg.Connection,
) -> None:
    before = servers.statuses()["postgres"]
    exports = postgres.environment()
    held = [
        psycopg.connect(
            f"host=127.0.0.1 port={exports['PGPORT']} dbname=agents user=v-acme password=x sslmode=disable"
        )
        for _ in range(ROOM - 2)
    ]
    full = servers.statuses()["postgres"]
    for connection in held:
        connection.close()

    assert (before.ready, before.detail) == (True, "ready")
    assert not full.ready
    assert full.detail == f"no room for tenants: of the connections, tenant_acme {ROOM - 2}, postgres 2"
    assert full.pid == before.pid


def test_who_has_too_much_is_told_of_a_server_that_is_ready(administrator: psycopg.Connection) -> None:
    entrance = postgres.environment()
    with psycopg.connect(
        host="127.0.0.1",
        port=entrance["PGPORT"],
        dbname="agents",
        user=entrance["PGUSER"],
        password=entrance["PGPASSWORD"],
    ) as inside:
        inside.execute("CREATE SCHEMA agent_platform")
        inside.execute("CREATE TABLE agent_platform.limits (schema name, bytes bigint, used bigint)")
        inside.execute(
            "INSERT INTO agent_platform.limits VALUES "
            "('tenant_acme', 2048, 3072), ('tenant_corvus', 2048, 2000), ('tenant_b', 2048, 1024)"
        )
        inside.execute("COMMENT ON ROLE tenant_acme IS 'refused: it has too much'")

    told = servers.statuses()["postgres"]

    assert told.ready
    assert told.detail == (
        "tenant_acme has 3072 bytes of 2048 bytes and is refused, tenant_corvus has 2000 bytes of 2048 bytes"
    )
