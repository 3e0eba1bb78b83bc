"""The bounds on a tenant's sessions and on its size, in a real PostgreSQL."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infra.platform import administrator, control_schema
from infra.tenants import roles
from infra.tenants.size_limit import SizeLimitProvider
from tests.infra.recording import ROOT
from tests.infra.tenants.conftest import Connect

MIB = 2**20
TEXT = "SELECT string_agg(md5(i::text), '') FROM generate_series(1, 80000) AS i"
"""Some 2.4 MiB that cannot be compressed by much."""
Told = list[tuple[str, str, bool]]


@pytest.fixture
def acme(acme_login: str, connect: Connect) -> Iterator[str]:
    """A login of acme's, whose limit goes with it."""
    yield acme_login
    connect().execute("DELETE FROM agent_platform.limits")


@pytest.fixture
def session(acme: str, connect: Connect) -> psycopg.Connection[Any]:
    return connect(acme, "x")


@pytest.fixture
def limit(database: dict[str, Any]) -> Callable[[int], None]:
    """Give acme a limit in MiB."""

    def limit(mib: int) -> None:
        SizeLimitProvider().create({**database, "schema": "tenant_acme", "gib": mib / 1024})

    return limit


@pytest.fixture
def hold(connect: Connect) -> Callable[[], Told]:
    """Do what is done each minute, as who does it."""
    return lambda: (
        connect("limits", "keeper").execute("SELECT * FROM agent_platform.hold_to_limits()").fetchall()
    )


def hold_sessions(connect: Connect, *bounds: str | int | None) -> list[tuple[str, str]]:
    call = f"agent_platform.hold_sessions({', '.join(['%s'] * len(bounds))})"
    return connect().execute(f"SELECT * FROM {call}".encode(), bounds).fetchall()


def used(connect: Connect) -> int:
    (found,) = connect().execute("SELECT used FROM agent_platform.measure()").fetchall()
    return int(found[0])


def has_ended(connection: psycopg.Connection[Any]) -> bool:
    try:
        connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return True
    return False


def test_who_is_idle_in_a_transaction_loses_the_session(
    session: psycopg.Connection[Any], acme: str, connect: Connect
) -> None:
    resting = connect(acme, "x")
    # Its own settings are its own.
    session.execute("SET idle_in_transaction_session_timeout = 0")
    session.execute("BEGIN")
    session.execute("SELECT 1")
    connect().execute("SELECT pg_sleep(0.2)")

    assert hold_sessions(connect, "1 hour", "1 hour") == []
    ((tenant, told),) = hold_sessions(connect, "1 hour", "100 ms")

    assert tenant == "tenant_acme"
    assert told == f"ended a session of its login {acme}, idle in a transaction for 0 s"
    assert has_ended(session)
    assert not has_ended(resting)


@pytest.mark.parametrize(
    "work",
    [
        "SELECT pg_sleep(30)",
        # A transaction after the other, in one statement.
        "DO $$ BEGIN LOOP COMMIT; PERFORM pg_sleep(0.01); END LOOP; END $$",
    ],
)
def test_who_is_too_long_at_it_loses_the_session(
    session: psycopg.Connection[Any], acme: str, connect: Connect, work: str
) -> None:
    busy = connect(acme, "x")
    busy.execute("SET statement_timeout = 0; SET transaction_timeout = 0")
    busy.pgconn.send_query(work.encode())
    connect().execute("SELECT pg_sleep(0.3)")

    ((tenant, told),) = hold_sessions(connect, "200 ms", "1 hour")

    assert tenant == "tenant_acme"
    assert "at one transaction or statement for 0 s" in told
    while busy.pgconn.get_result():
        pass
    assert busy.pgconn.status == psycopg.pq.ConnStatus.BAD
    assert not has_ended(session)


def test_who_holds_too_many_locks_loses_the_session(
    session: psycopg.Connection[Any], acme: str, connect: Connect
) -> None:
    few = connect(acme, "x")
    few.execute("BEGIN; CREATE TEMPORARY TABLE one ()")
    session.execute("BEGIN")
    for number in range(40):
        session.execute(f"CREATE TEMPORARY TABLE t{number} ()".encode())

    assert hold_sessions(connect, "1 hour", "1 hour") == []
    ((tenant, told),) = hold_sessions(connect, "1 hour", "1 hour", None, 30)

    assert tenant == "tenant_acme"
    assert re.fullmatch(f"ended a session of its login {acme}, with [0-9]+ locks of at most 30", told)
    assert has_ended(session)
    assert not has_ended(few)


def test_advisory_locks_are_no_tenants(session: psycopg.Connection[Any], connect: Connect) -> None:
    named = connect().execute(
        "SELECT proname || CASE pronargs WHEN 1 THEN '(1)' ELSE '(1, 1)' END FROM pg_proc "
        "WHERE proname LIKE '%advisory%' AND proname NOT LIKE '%unlock%'"
    )
    calls = [call for (call,) in named.fetchall()]
    assert len(calls) >= 16
    for call in calls:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute(f"SELECT {call}".encode())


def test_who_listens_and_reads_nothing_loses_the_session(
    session: psycopg.Connection[Any], acme: str, connect: Connect
) -> None:
    attentive, deaf = connect(acme, "x"), connect(acme, "x")
    for listener in (attentive, deaf):
        listener.execute("LISTEN news")
    pid = deaf.info.backend_pid
    reading = threading.Thread(target=lambda: list(attentive.notifies(timeout=3)))
    reading.start()
    for _ in range(60):
        session.execute("SELECT pg_notify('news', repeat('x', 7900) || i) FROM generate_series(1, 100) AS i")
    server = connect()
    blocked = "SELECT FROM pg_stat_activity WHERE pid = %s AND state = 'idle' AND xact_start IS NOT NULL"
    deadline = time.monotonic() + 10
    while not server.execute(blocked, [pid]).rowcount:
        assert time.monotonic() < deadline
    reading.join()

    told = [told for _, told in hold_sessions(connect, "1 hour", "100 ms")]

    assert told == [f"ended a session of its login {acme}, idle in a transaction for {told[0].split()[-2]} s"]
    with pytest.raises(psycopg.OperationalError):
        while True:
            deaf.execute("SELECT 1")
    assert not has_ended(attentive)


def test_a_tenant_acts_as_itself_alone(session: psycopg.Connection[Any]) -> None:
    for statement in (
        "SET ROLE tenants",
        "REASSIGN OWNED BY tenant_acme TO tenants",
        "SET ROLE NONE; SET ROLE tenants",
        "SET ROLE NONE; REASSIGN OWNED BY tenant_acme TO tenants",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute(statement)


def test_administrators_vault_and_migrations_are_held_to_nothing(
    acme: str, connect: Connect, database: dict[str, Any]
) -> None:
    server = connect()
    server.execute("GRANT tenant_acme TO vault WITH ADMIN OPTION")
    server.execute("CREATE ROLE tenant_acme_migration LOGIN PASSWORD 'x' IN ROLE tenant_acme")
    others = [connect(), connect("vault", "issuer"), connect("tenant_acme_migration", "x")]
    for other in others:
        other.execute("BEGIN")

    assert hold_sessions(connect, "0", "0") == []

    assert not any(map(has_ended, others))
    for other in others:
        other.close()
    roles.end(database, "tenant_acme_migration")


def test_who_holds_tenants_to_their_limits_may_do_nothing_else(acme: str, connect: Connect) -> None:
    keeper = connect("limits", "keeper")
    for statement in (
        "SELECT agent_platform.hold_sessions('0', '0')",
        "SELECT agent_platform.measure()",
        "SELECT * FROM agent_platform.limits",
        "SELECT agent_platform.end_login('v-acme')",
        "SET ROLE tenant_acme",
        "CREATE TABLE public.mine ()",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            keeper.execute(statement)


def test_a_tenant_may_do_none_of_it(session: psycopg.Connection[Any]) -> None:
    for statement in (
        "SELECT agent_platform.hold_to_limits()",
        "UPDATE agent_platform.limits SET bytes = 2 ^ 60",
        "COMMENT ON ROLE tenant_acme IS NULL",
        "DROP EVENT TRIGGER agent_platform_admit",
        "ALTER EVENT TRIGGER agent_platform_admit DISABLE",
        "SET event_triggers = off",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute(statement)


def test_all_that_a_tenant_has_counts(
    session: psycopg.Connection[Any], connect: Connect, limit: Callable[[int], None]
) -> None:
    limit(1000)
    grown = [used(connect)]
    for statement in (
        "CREATE TABLE notes AS SELECT repeat('x', 1000) AS text FROM generate_series(1, 2000)",
        "CREATE INDEX ON notes (text)",
        "CREATE TABLE blobs AS SELECT string_agg(md5(i::text), '') FROM generate_series(1, 60000) AS i",
        "SELECT lo_from_bytea(0, convert_to(repeat('x', 2000000), 'UTF8'))",
        "CREATE TEMPORARY TABLE scratch AS SELECT repeat('x', 1000) FROM generate_series(1, 2000)",
        # As the bare login, which the tenant does not own.
        "SET ROLE NONE; SELECT lo_from_bytea(0, convert_to(repeat('y', 2000000), 'UTF8'))",
    ):
        session.execute(statement)
        grown.append(used(connect))

    more = [after - before for before, after in pairwise(grown)]
    assert min(more[:1] + more[2:]) > 1.8 * MIB, more
    assert more[1] > 0
    session.execute("SELECT lo_unlink(oid) FROM pg_largeobject_metadata WHERE lomowner = 'v-acme'::regrole")


@pytest.mark.parametrize(
    "statement",
    [
        "DO $$ BEGIN EXECUTE format('CREATE FUNCTION long() RETURNS text LANGUAGE sql AS %L', "
        f"format('SELECT %L::text', ({TEXT}))); END $$",
        "DO $$ BEGIN FOR i IN 1..600 LOOP EXECUTE 'CREATE TABLE t' || i || ' ()'; END LOOP; END $$",
        f"DO $$ BEGIN EXECUTE format('COMMENT ON SCHEMA tenant_acme IS %L', ({TEXT})); END $$",
        f"""CREATE TABLE notes (t text CONSTRAINT c CHECK (t <> ''));
        DO $$ BEGIN EXECUTE format('COMMENT ON CONSTRAINT c ON notes IS %L', ({TEXT})); END $$""",
        f"DO $$ BEGIN EXECUTE format('CREATE VIEW long AS SELECT %L AS t', ({TEXT})); END $$",
        f"DO $$ BEGIN EXECUTE format('CREATE TABLE notes (t text DEFAULT %L)', ({TEXT})); END $$",
    ],
)
def test_what_a_tenant_writes_into_the_catalogs_counts(
    session: psycopg.Connection[Any], connect: Connect, limit: Callable[[int], None], statement: str
) -> None:
    limit(1000)
    before = used(connect)

    session.execute(statement.encode())

    assert used(connect) > before + 2 * MIB


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE more AS SELECT repeat('x', 1000) FROM generate_series(1, 4000)",
        "SET work_mem = '64kB'; DECLARE kept CURSOR FOR "
        "SELECT repeat(i::text, 100) FROM generate_series(1, 30000) AS i ORDER BY 1; FETCH 1 FROM kept",
        "TRUNCATE notes; INSERT INTO notes SELECT repeat('x', 1000) FROM generate_series(1, 4000)",
        "INSERT INTO notes SELECT repeat('x', 1000) FROM generate_series(1, 4000)",
    ],
)
def test_what_is_not_committed_counts(
    session: psycopg.Connection[Any], connect: Connect, limit: Callable[[int], None], statement: str
) -> None:
    limit(1000)
    session.execute("CREATE TABLE notes (text text)")
    session.execute("BEGIN")
    before = used(connect)

    session.execute(statement)

    assert used(connect) > before + 3 * MIB
    session.execute("ROLLBACK")


def test_a_tenant_that_locks_all_it_has_is_measured_all_the_same(
    session: psycopg.Connection[Any], connect: Connect, limit: Callable[[int], None]
) -> None:
    limit(1000)
    session.execute("CREATE TABLE notes AS SELECT repeat('x', 1000) FROM generate_series(1, 4000)")
    session.execute("BEGIN; LOCK TABLE notes")

    server = connect()
    server.execute("SET statement_timeout = '3s'")

    assert server.execute("SELECT used > %s FROM agent_platform.measure()", [3 * MIB]).fetchone() == (True,)


def test_who_has_too_much_loses_its_sessions_and_is_refused_by_name_and_amount(
    session: psycopg.Connection[Any],
    acme: str,
    connect: Connect,
    limit: Callable[[int], None],
    hold: Callable[[], Told],
) -> None:
    limit(1)
    assert hold() == []
    session.execute("CREATE TABLE notes AS SELECT repeat('x', 1000) FROM generate_series(1, 2000)")

    ((tenant, told, refused),) = hold()

    assert (tenant, refused) == ("tenant_acme", True)
    assert told.startswith("it has ")
    assert told.endswith(" of at most 1024 kiB in PostgreSQL: it is refused until it has less")
    assert has_ended(session)
    with pytest.raises(
        psycopg.OperationalError, match=r"tenant_acme is refused: it has .* of at most 1024 kiB"
    ):
        connect(acme, "x")
    connect("vault", "issuer")
    # Its bound is more: it is let in again.
    limit(100)
    assert hold() == []
    connect(acme, "x").execute("DROP TABLE notes")


def test_an_operator_can_let_it_in_to_delete(
    session: psycopg.Connection[Any],
    acme: str,
    connect: Connect,
    limit: Callable[[int], None],
    hold: Callable[[], Told],
) -> None:
    limit(1)
    session.execute("CREATE TABLE notes AS SELECT repeat('x', 1000) FROM generate_series(1, 2000)")
    hold()

    connect().execute("UPDATE agent_platform.limits SET lenient_until = now() + interval '1 hour'")

    ((_, told, refused),) = hold()
    assert "it is let in until" in told
    assert not refused
    inside = connect(acme, "x")
    inside.execute("DROP TABLE notes")
    assert hold() == []
    # And the hour ends.
    inside.execute("CREATE TABLE notes AS SELECT repeat('x', 1000) FROM generate_series(1, 2000)")
    connect().execute("UPDATE agent_platform.limits SET lenient_until = now() - interval '1 s'")
    ((_, _, refused),) = hold()
    assert refused


def test_who_nears_its_bound_is_told_of(
    session: psycopg.Connection[Any], connect: Connect, limit: Callable[[int], None], hold: Callable[[], Told]
) -> None:
    session.execute("CREATE TABLE notes AS SELECT repeat('x', 1000) FROM generate_series(1, 10000)")
    limit(12)

    ((tenant, told, refused),) = hold()

    assert (tenant, refused) == ("tenant_acme", False)
    assert told.endswith("of at most 12 MiB in PostgreSQL")
    assert not has_ended(session)


def test_a_database_of_its_own_counts_and_refuses_too(
    acme: str,
    connect: Connect,
    database: dict[str, Any],
    limit: Callable[[int], None],
    hold: Callable[[], Told],
) -> None:
    server, own = connect(), {**database, "database": "tenant_acme"}
    server.execute("CREATE DATABASE tenant_acme")
    try:
        control_schema.ControlSchemaProvider().create({**own, "issuer": "vault"})
        entrance = {**own, "user": acme, "password": "x"}
        limit(5)  # Less than what PostgreSQL itself has in there.

        ((tenant, _, refused),) = hold()

        assert (tenant, refused) == ("tenant_acme", True)
        with pytest.raises(psycopg.OperationalError, match="tenant_acme is refused"):
            administrator.connect(entrance)
        administrator.connect(own).close()
    finally:
        server.execute("DROP DATABASE tenant_acme WITH (FORCE)")


def test_its_limit_is_read_as_it_is_and_goes_with_its_tenant(
    acme: str, database: dict[str, Any], connect: Connect
) -> None:
    provider, props = SizeLimitProvider(), {**database, "schema": "tenant_acme", "gib": 2.0}
    assert provider.read("tenant_acme", props).id == ""
    provider.create(props)
    provider.update("tenant_acme", props, {**props, "gib": 5.0})

    assert (provider.read("tenant_acme", props).outs or {})["gib"] == 5.0
    assert not provider.diff("tenant_acme", props, props).changes
    assert provider.diff("tenant_acme", props, {**props, "schema": "tenant_b"}).replaces == ["schema"]

    provider.delete("tenant_acme", props)
    assert provider.read("tenant_acme", props).id == ""


def test_vault_comes_in_when_tenants_hold_every_ordinary_connection(acme: str, connect: Connect) -> None:
    held = []
    with pytest.raises(psycopg.OperationalError, match="remaining connection slots are reserved"):
        while True:
            held.append(connect(acme, "x"))

    connect("vault", "issuer").execute("SELECT 1")
    connect("limits", "keeper").execute("SELECT 1")
    for connection in held:
        connection.close()


@pytest.fixture
def job(database: dict[str, Any], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the job of each minute, as it runs in its pod."""

    def job(password: str = "keeper") -> subprocess.CompletedProcess[str]:
        (tmp_path / "password").write_text(password)
        entrance = {
            "PGHOST": database["host"],
            "PGPORT": str(int(database["port"])),
            "PGDATABASE": database["database"],
            "PGUSER": "limits",
            "PGSSLMODE": "disable",
            "PGPASSWORD_FILE": str(tmp_path / "password"),
        }
        return subprocess.run(
            [sys.executable, "-m", "services.database_limits"],
            env={"PATH": os.environ["PATH"], **entrance},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    return job


def test_the_job_fails_where_a_tenant_is_refused_or_nothing_could_be_done(
    session: psycopg.Connection[Any],
    limit: Callable[[int], None],
    job: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    limit(1)
    quiet = job()
    session.execute("CREATE TABLE notes AS SELECT repeat('x', 1000) FROM generate_series(1, 2000)")
    loud, shut_out = job(), job("wrong")

    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert loud.returncode == 1
    line = json.loads(loud.stdout)
    assert (line["level"], line["tenant"]) == ("ERROR", "acme")
    assert line["message"].startswith("tenant_acme: it has ")
    assert has_ended(session)
    assert shut_out.returncode == 1
    assert "nobody was held to anything: PostgreSQL: " in json.loads(shut_out.stdout)["message"]
    assert shut_out.stderr == ""


def test_who_cannot_be_measured_in_time_is_held_to_the_rest(
    session: psycopg.Connection[Any],
    acme: str,
    connect: Connect,
    database: dict[str, Any],
    limit: Callable[[int], None],
) -> None:
    limit(1)
    session.execute("CREATE TABLE notes AS SELECT repeat('x', 1000) FROM generate_series(1, 2000)")
    connect().execute("UPDATE agent_platform.limits SET used = 2 ^ 30")
    connect().execute(
        "CREATE OR REPLACE FUNCTION agent_platform.measure() RETURNS TABLE (schema name, used bigint) "
        "LANGUAGE sql AS $$ SELECT 'x', pg_sleep(60)::text::bigint $$"
    )
    try:
        keeper = connect("limits", "keeper")
        keeper.execute("SET statement_timeout = '500ms'")
        told = keeper.execute("SELECT * FROM agent_platform.hold_to_limits()").fetchall()
    finally:
        control_schema.ControlSchemaProvider().create(
            {**database, "issuer": "vault", "members": control_schema.TENANTS, "keeper": "limits"}
        )

    assert told[0] == ("tenants", "could not be measured in time: each counts as a minute ago", True)
    assert [(tenant, refused) for tenant, _, refused in told[1:]] == [("tenant_acme", True)]
    assert has_ended(session)
