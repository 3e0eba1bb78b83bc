"""A schema comes back from a server that was recovered to a time: whole, or not at all, and as the tenant."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from local import backups
from local.errors import LocalError
from local.servers import postgres
from restore.database import Database
from restore.errors import RestoreError
from tests.restore.conftest import CONSOLE, LOGIN, administrator, second

# Each of these has kept a schema from being replaced, or does it in tools that are less careful.
KINDS = """
CREATE TABLE kinds (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tags text[],
  twice int GENERATED ALWAYS AS (1 + 1) STORED
);
INSERT INTO kinds (tags) VALUES (ARRAY['x']);
CREATE TABLE halves (n int) PARTITION BY RANGE (n);
CREATE TABLE halves_low PARTITION OF halves FOR VALUES FROM (0) TO (10);
INSERT INTO halves VALUES (3);
CREATE TYPE span AS RANGE (subtype = int);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE STATISTICS together (dependencies) ON id, twice FROM kinds;
CREATE AGGREGATE counted(*) (SFUNC = int8inc, STYPE = bigint, INITCOND = '0');
CREATE PROCEDURE nothing() LANGUAGE sql AS 'SELECT 1';
CREATE MATERIALIZED VIEW kept AS SELECT count(*) FROM tenant_acme.kinds;
CREATE TABLE "each" ("each" int, v text);
INSERT INTO "each" VALUES (1, 'old');
CREATE TABLE "o""dd; -- [/bold]" (a int);
ALTER TABLE kinds ENABLE ROW LEVEL SECURITY;
CREATE POLICY all_of_them ON kinds USING (true);
"""
# A cast that makes whoever casts a row to text an administrator.
CAST = """
CREATE TABLE bait (a int);
INSERT INTO bait VALUES (1);
CREATE FUNCTION as_text(bait) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
    EXECUTE 'ALTER ROLE tenant_acme SUPERUSER';
  END IF;
  RETURN 'bait';
END
$$;
CREATE CAST (bait AS text) WITH FUNCTION as_text(bait)
"""
RISE = """
CREATE FUNCTION rise() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE 'RESET ROLE';
  EXECUTE 'ALTER ROLE tenant_acme SUPERUSER';
  RETURN true;
EXCEPTION WHEN insufficient_privilege THEN
  RETURN true;
END
$$
"""
ROWS = "SELECT text FROM tenant_acme.notes ORDER BY 1"


@pytest.fixture(scope="module")
def then(servers: None) -> Iterator[tuple[datetime, str]]:
    """A time at which acme had three notes, and a server recovered to it."""
    with administrator(*LOGIN) as acme:
        acme.execute("CREATE TABLE notes (id serial PRIMARY KEY, text text NOT NULL)")
        acme.execute("CREATE INDEX by_text ON notes (text)")
        acme.execute("CREATE VIEW shouted AS SELECT upper(text) AS text FROM notes")
        acme.execute("CREATE TYPE mood AS ENUM ('well')")
        acme.execute("INSERT INTO notes (text) VALUES ('one'), ('two'), ('three')")
        acme.execute(RISE)
        for statements in (KINDS, CAST):
            acme.execute(statements)
        acme.execute("CREATE TABLE trap (n int CHECK (tenant_acme.rise()))")
        acme.execute("INSERT INTO trap VALUES (1)")
    with administrator() as admin:
        admin.execute("INSERT INTO agent_platform.revisions VALUES ('tenant_acme', '0001')")
    at = second()
    with backups.recovered(at, CONSOLE) as place:
        yield at, place


@pytest.fixture
def acme(then: tuple[datetime, str], monkeypatch: pytest.MonkeyPatch) -> Database:
    """Acme's schema, to be brought back; it has been spoilt."""
    for name, value in postgres.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{postgres.BIN}{os.pathsep}{os.environ['PATH']}")
    at, place = then
    database = Database("acme", at, place)
    database.apply(database.plan())
    with administrator(*LOGIN) as login:
        login.execute("DELETE FROM notes WHERE text = 'two'")
        login.execute("INSERT INTO notes (text) VALUES ('four')")
        login.execute("CREATE TABLE later AS SELECT 1 AS n")
        login.execute("CREATE FUNCTION later_too() RETURNS int LANGUAGE sql RETURN 1")
    return database


def notes() -> list[str]:
    with administrator() as admin:
        return [text for (text,) in admin.execute(ROWS).fetchall()]


def test_rows_tables_and_functions_are_as_they_were(acme: Database) -> None:
    plan = acme.plan()
    # Where a recovered sequence stands is a little ahead, by PostgreSQL's log.
    told = [
        (change.what, change.now, change.then) for change in plan.changes if "sequence" not in change.what
    ]
    assert told == [
        ("later", "1 rows", "none"),
        ("notes", "3 rows", "3 rows"),
        ("definitions", "as they are", "as they were"),
    ]
    assert [change.what for change in plan.changes if "sequence" in change.what] == ["sequence notes_id_seq"]
    acme.apply(plan)
    assert acme.differences() == []
    assert notes() == ["one", "three", "two"]
    with administrator(*LOGIN) as login:
        # What is not a table came back as well, what came later is gone, and all of it is the tenant's.
        assert login.execute("SELECT count(*) FROM shouted").fetchone() == (3,)
        assert login.execute("SELECT 'well'::mood::text").fetchone() == ("well",)
        assert login.execute("SELECT to_regproc('later_too')").fetchone() == (None,)
        login.execute("INSERT INTO notes (text) VALUES ('goes on')")
        owners = login.execute(
            "SELECT DISTINCT relowner::regrole::text FROM pg_class "
            "WHERE relnamespace = 'tenant_acme'::regnamespace"
        ).fetchall()
    assert owners == [("tenant_acme",)]


def test_a_schema_that_was_dropped_comes_back(acme: Database) -> None:
    with administrator() as admin:
        admin.execute("DROP SCHEMA tenant_acme CASCADE")
    acme.apply(acme.plan())
    assert acme.differences() == []
    with administrator() as admin:
        owner = admin.execute(
            "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'tenant_acme'"
        )
        assert owner.fetchone() == ("tenant_acme",)


def test_a_restore_that_fails_leaves_the_schema_as_it_is(
    acme: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    dumped = acme._dumped

    def cut_off(folder: object) -> object:
        script = dumped(folder)  # type: ignore[arg-type]
        script.write_text(script.read_text() + "\nSELECT 1 / 0;\n")
        return script

    monkeypatch.setattr(acme, "_dumped", cut_off)
    with pytest.raises(RestoreError, match=r"acme: its schema is as it was: .*division by zero"):
        acme.apply(acme.plan())
    assert notes() == ["four", "one", "three"]


def test_what_a_tenant_has_in_its_schema_acts_as_the_tenant_alone(acme: Database) -> None:
    """The rows of a table are checked by a function that would make its owner an administrator."""
    with administrator() as admin:
        admin.execute("TRUNCATE tenant_acme.trap")
    acme.apply(acme.plan())
    assert acme.differences() == []
    with administrator() as admin:
        assert admin.execute("SELECT n FROM tenant_acme.trap").fetchall() == [(1,)]
        found = admin.execute("SELECT rolsuper FROM pg_roles WHERE rolname = 'tenant_acme'").fetchone()
    assert found == (False,)


def test_to_compare_runs_nothing_of_the_tenants(acme: Database, then: tuple[datetime, str]) -> None:
    acme.plan()
    acme.differences()
    for place in ("", then[1]):
        with administrator(place=place) as admin:
            found = admin.execute("SELECT rolsuper FROM pg_roles WHERE rolname = 'tenant_acme'").fetchone()
        assert found == (False,)


@pytest.mark.parametrize(
    "change",
    [
        "DROP VIEW shouted",
        "DROP FUNCTION rise() CASCADE",
        "SELECT setval('notes_id_seq', 999)",
        "ALTER TABLE notes RENAME text TO words",
        "UPDATE \"each\" SET v = 'new'",
        "DROP POLICY all_of_them ON kinds",
    ],
)
def test_whatever_was_changed_is_planned_and_undone(acme: Database, change: str) -> None:
    acme.apply(acme.plan())
    assert not acme.plan().changes
    with administrator(*LOGIN) as login:
        login.execute(change)
    plan = acme.plan()
    assert plan.changes
    acme.apply(plan)
    assert acme.differences() == []


def test_what_others_have_built_on_it_is_not_dropped_with_it(acme: Database) -> None:
    with administrator() as admin:
        admin.execute("CREATE TABLE tenant_bluebird.own (m tenant_acme.mood, n int)")
        admin.execute("CREATE VIEW tenant_bluebird.seen AS SELECT text FROM tenant_acme.notes")
        try:
            with pytest.raises(RestoreError, match=r"objects outside of its schema depend on it .*bluebird"):
                acme.plan()
        finally:
            admin.execute("DROP VIEW tenant_bluebird.seen")
            admin.execute("DROP TABLE tenant_bluebird.own")
    assert notes() == ["four", "one", "three"]


def test_no_limit_of_the_tenants_ends_its_restore(acme: Database) -> None:
    """A tenant at its limits, and with many tables, can have back what it had."""
    with administrator(*LOGIN) as login:
        for number in range(300):
            login.execute(f"CREATE TABLE many_{number} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)")
    with administrator() as admin, acme._login(admin) as (user, password):
        with administrator(user, password) as session:
            assert session.execute("SELECT current_user").fetchone() == ("tenant_acme",)
        found = admin.execute(
            "SELECT name FROM agent_platform.logins WHERE tenant = 'tenant_acme'"
        ).fetchall()
    assert (user,) not in found
    acme.apply(acme.plan())
    assert acme.differences() == []
    with administrator() as admin:
        assert admin.execute("SELECT to_regrole('tenant_acme_migration')").fetchone() == (None,)


def test_a_schema_with_newer_migrations_is_not_replaced(acme: Database) -> None:
    with administrator() as admin:
        admin.execute("UPDATE agent_platform.revisions SET revision = '0002' WHERE schema = 'tenant_acme'")
        try:
            with pytest.raises(RestoreError, match=r"is on revision 0002 of the migrations, and was on 0001"):
                acme.plan()
        finally:
            admin.execute(
                "UPDATE agent_platform.revisions SET revision = '0001' WHERE schema = 'tenant_acme'"
            )
    assert notes() == ["four", "one", "three"]


def test_a_tenant_that_was_not_there_then_is_told(acme: Database, then: tuple[datetime, str]) -> None:
    with administrator() as admin:
        admin.execute("CREATE ROLE tenant_late")
        try:
            with pytest.raises(RestoreError, match=r"late: there was no schema tenant_late at 2\d{3}-"):
                Database("late", *then).plan()
        finally:
            admin.execute("DROP ROLE tenant_late")
    with pytest.raises(RestoreError, match=r"nobody: the live server has no role tenant_nobody"):
        Database("nobody", *then).plan()


def test_a_time_before_the_first_base_backup_is_refused(servers: None) -> None:
    with (
        pytest.raises(LocalError, match=r"no base backup is from before .* the first is of 2\d{3}-"),
        backups.recovered(datetime.now(UTC) - timedelta(days=1), CONSOLE),
    ):
        pass


@pytest.mark.parametrize("place", ["nowhere", ":5432", "host:"])
def test_a_place_that_is_none_is_refused(place: str) -> None:
    with pytest.raises(RestoreError, match="is no HOST:PORT"):
        Database("acme", datetime.now(UTC), place)


def test_the_live_server_is_no_recovered_one(acme: Database) -> None:
    where = postgres.environment()
    with pytest.raises(RestoreError, match="leads to the live server itself"):
        Database("acme", datetime.now(UTC), f"{where['PGHOST']}:{where['PGPORT']}").plan()


def test_a_tenant_with_a_database_of_its_own_is_told(acme: Database) -> None:
    with administrator() as admin:
        admin.execute("CREATE DATABASE tenant_acme")
        try:
            with pytest.raises(RestoreError, match="acme has a database of its own"):
                acme.plan()
        finally:
            admin.execute("DROP DATABASE tenant_acme")


def test_a_server_that_does_not_answer_is_one_message(acme: Database) -> None:
    with pytest.raises(RestoreError, match=r"PostgreSQL at 127.0.0.1:1: .*refused.*; nothing was changed"):
        Database("acme", datetime.now(UTC), "127.0.0.1:1").plan()


def test_the_servers_own_disk_comes_back_as_far_as_it_was_archived(acme: Database) -> None:
    acme.apply(acme.plan())
    backups.archive_all()
    postgres_pid = administrator().execute("SELECT pg_postmaster_start_time()").fetchone()
    backups.recover_disk(CONSOLE)
    assert notes() == ["one", "three", "two"]
    with administrator() as admin:
        assert admin.execute("SELECT pg_postmaster_start_time()").fetchone() != postgres_pid
    with (
        pytest.raises(psycopg.errors.InsufficientPrivilege),
        administrator(*LOGIN) as login,
    ):
        login.execute("SELECT * FROM agent_platform.revisions")
