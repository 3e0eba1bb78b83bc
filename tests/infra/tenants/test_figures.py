"""What monitoring may ask PostgreSQL about tenants, and nothing else."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infra.tenants.size_limit import SizeLimitProvider
from services.exporter import database as exporter
from tests.infra.tenants.conftest import Connect


@pytest.fixture
def acme(acme_login: str, connect: Connect, database: dict[str, Any]) -> Iterator[str]:
    """A login of acme's, which may have a MiB."""
    SizeLimitProvider().create({**database, "schema": "tenant_acme", "gib": 1 / 1024})
    yield acme_login
    connect().execute("DELETE FROM agent_platform.limits")


Ask = Callable[[], dict[str, float]]


@pytest.fixture
def ask(database: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Return what the exporter tells of acme and of the server."""
    (tmp_path / "password").write_text("observer\n")
    for name, value in {
        "PGHOST": database["host"],
        "PGPORT": str(int(database["port"])),
        "PGDATABASE": database["database"],
        "PGUSER": "monitoring",
        "PGPASSWORD_FILE": str(tmp_path / "password"),
    }.items():
        monkeypatch.setenv(name, value)
    return lambda: {
        sample.name.removeprefix("agent_platform_database_"): sample.value
        for family in asyncio.run(exporter.figures())
        for sample in family.samples
        if sample.labels.get("tenant", "acme") == "acme"
    }


def test_a_tenants_sessions_rows_and_size(acme: str, connect: Connect, ask: Ask) -> None:
    before = ask()
    assert (before["connections"], before["rows"], before["bytes"]) == (0, 0, 0)
    session = connect(acme, "x")
    session.execute("CREATE TABLE t AS SELECT generate_series(1, 500) AS n")
    session.execute("ANALYZE t")
    connect("limits", "keeper").execute("SELECT agent_platform.hold_to_limits()")

    told = ask()

    assert (told["connections"], told["rows"]) == (1, 500)
    assert 0 < told["bytes"] < told["limit_bytes"] == 2**20
    assert (told["slow_statements"], told["lock_waits"]) == (0, 0)
    # Whoever's they are: acme's, an administrator's, and the exporter's own.
    assert 3 <= told["connections_used"] < told["connections_limit"]


def test_a_statement_that_waits_for_a_lock(acme: str, connect: Connect, ask: Ask) -> None:
    holder, waiter = connect(acme, "x"), connect(acme, "x")
    holder.execute("CREATE TABLE t ()")
    holder.execute("BEGIN")
    holder.execute("LOCK t")
    waiter.pgconn.send_query(b"SELECT * FROM t")
    connect().execute("SELECT pg_sleep(0.3)")

    told = ask()

    assert told["lock_waits"] == 1
    assert 0.2 < told["longest_statement_seconds"] < 5
    holder.execute("ROLLBACK")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM agent_platform.limits",
        "SELECT agent_platform.hold_to_limits()",
        "SELECT agent_platform.end_login('v-acme')",
        "SELECT * FROM tenant_acme.t",
        "CREATE TABLE public.t ()",
        "SET ROLE tenant_acme",
    ],
)
def test_the_role_of_monitoring_may_do_nothing_else(acme: str, connect: Connect, statement: str) -> None:
    connect(acme, "x").execute("CREATE TABLE IF NOT EXISTS tenant_acme.t ()")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connect("monitoring", "observer").execute(statement.encode())


def test_it_sees_no_text_of_a_tenants_statement(acme: str, connect: Connect) -> None:
    session = connect(acme, "x")
    session.execute("SELECT 'a secret of acme'")
    seen = connect("monitoring", "observer").execute("SELECT query FROM pg_stat_activity").fetchall()
    assert "a secret of acme" not in str(seen)
    told = connect("monitoring", "observer").execute("SELECT * FROM agent_platform.figures()").fetchall()
    assert "a secret of acme" not in str(told)
