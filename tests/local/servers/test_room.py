"""`make status` tells when PostgreSQL has no room for tenants, and who holds it."""

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
    small = {"max_connections": str(ROOM + 4), "superuser_reserved_connections": "4"}
    monkeypatch.setattr(postgres, "_SETTINGS", {**postgres._SETTINGS, **small})
    with running(postgres), postgres._connect() as connection:
        connection.execute("CREATE ROLE tenant_acme")
        connection.execute("CREATE ROLE \"v-acme\" LOGIN PASSWORD 'x' IN ROLE tenant_acme")
        yield connection


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
