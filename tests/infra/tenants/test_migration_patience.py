"""A tenant that holds its own tables holds up nobody's update, and nobody else's session is ended for it."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from infra.tenants.migration import MigrationProvider
from infra.tenants.migrations import MigrationError, patience, runner
from tests.infra.tenants.conftest import Connect
from tests.infra.tenants.test_migrations import TABLES, properties, tables

Schema = Callable[[str], str]
HOLD = "BEGIN; CREATE TABLE tenant_acme.agents (nothing int)"


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_GRACE", "0.5s")
    monkeypatch.setattr(patience, "_GLANCE", 0.1)


def test_a_tenant_idle_in_a_transaction_loses_its_session_and_the_update_goes_on(
    database: dict[str, Any], acme_login: str, connect: Connect, capfd: pytest.CaptureFixture[str]
) -> None:
    holding, bystander = connect(acme_login, "x"), connect(acme_login, "x")
    holding.execute(HOLD)

    MigrationProvider().create(properties(database, "tenant_acme"))

    assert tables(connect(), "tenant_acme") == dict.fromkeys(TABLES, "tenant_acme")
    with pytest.raises(psycopg.OperationalError):
        holding.execute("SELECT 1")
    assert bystander.execute("SELECT 1").fetchone() == (1,)
    told = capfd.readouterr().err
    assert told.startswith("tenant_acme: ended a session of its login v-acme, idle in transaction for ")
    assert told.count("\n") == 1
    bystander.close()


def test_a_session_of_somebody_else_is_waited_for(
    database: dict[str, Any], acme_login: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_PATIENCE", "2s")
    holding = connect()
    holding.execute(HOLD)

    with pytest.raises(MigrationError, match="lock timeout"):
        MigrationProvider().create(properties(database, "tenant_acme"))

    assert holding.execute("SELECT 1").fetchone() == (1,)
    holding.execute("ROLLBACK")


def test_what_a_tenant_has_its_tables_call_keeps_no_update_going(
    database: dict[str, Any], acme_login: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "_LONGEST", 1.0)
    provider, props = MigrationProvider(), properties(database, "tenant_acme")
    provider.create(props)
    inside = connect(acme_login, "x")
    inside.execute(
        "CREATE FUNCTION endless(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN "
        r"WHILE session_user LIKE '%\_migration' LOOP BEGIN PERFORM pg_sleep(60); "
        "EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; RETURN $1; END $$"
    )
    inside.execute("INSERT INTO agents (name, model) VALUES ('a', 'x')")
    inside.execute("CREATE INDEX ON agents (endless(name))")
    inside.execute("ALTER TABLE agents DROP COLUMN id CASCADE")

    with pytest.raises(MigrationError, match=r"longer than 1 s and was ended; .* a function in an index"):
        provider.update("", props, props)

    assert "tenant_acme_migration" not in tables(connect(), "tenant_acme").values()
    inside.close()
