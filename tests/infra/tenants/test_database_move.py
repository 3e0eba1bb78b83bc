"""A tenant's tables are carried to a database of its own, and back, by the operators' commands."""

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infra.platform import administrator
from infra.platform.control_schema import TENANTS, ControlSchemaProvider
from infra.tenants.migration import MigrationProvider
from local.paths import ROOT
from local.servers import postgres
from tests.infra.tenants.conftest import Connect
from tests.infra.tenants.test_migrations import TABLES, properties

NAME = "tenant_dufour"
ROWS = """
SET ROLE tenant_dufour; SET search_path = tenant_dufour;
INSERT INTO agents (name, model, configuration) VALUES ('clerk', 'm', '{"tools": null}');
INSERT INTO agent_memory (agent_id, key, value) SELECT id, 'colour', '"green"' FROM agents;
INSERT INTO sessions (agent_id, state) SELECT id, '{"a": "\\u0000"}' FROM agents, generate_series(1, 3);
INSERT INTO session_messages (session_id, number, message) SELECT id, 0, '{"role": "user"}' FROM sessions;
INSERT INTO execution_logs (session_id, input, status) SELECT id, '"hello"', 'failed' FROM sessions;
INSERT INTO run_events SELECT id, 1, 'text', '"so far"' FROM execution_logs;
RESET ROLE;
"""


def commands(page: str) -> dict[str, list[str]]:
    """The programs of PostgreSQL that a page of the operators' handbook runs, by name."""
    text = (ROOT / "docs/runbooks" / page).read_text(encoding="utf-8")
    lines = re.findall(r"^\$ (pg_\w+ .*)$", text, re.MULTILINE)
    return {words[0]: words[1:] for words in (shlex.split(line, comments=True) for line in lines)}


def run(entrance: dict[str, Any], folder: Path, program: str, words: list[str]) -> None:
    known = {"PGHOST": entrance["host"], "PGPORT": int(entrance["port"]), "PGUSER": entrance["user"]}
    environment = {**os.environ, **{name: str(value) for name, value in known.items()}}
    environment["PGPASSWORD"] = entrance["password"]
    done = subprocess.run(
        [postgres.BIN / program, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def contents(connection: psycopg.Connection[Any]) -> dict[str, list[Any]]:
    return {
        table: connection.execute(f"SELECT t::text FROM {NAME}.{table} t ORDER BY 1".encode()).fetchall()
        for table in sorted(TABLES)
    }


@pytest.fixture
def own(database: dict[str, Any], schema: Callable[[str], str], connect: Connect) -> Iterator[dict[str, Any]]:
    """The way into dufour's own database, with tables as the platform makes them, as in the shared one."""
    schema("dufour")
    server = connect()
    server.execute(f"CREATE DATABASE {NAME}")
    entrance = {**database, "database": NAME}
    ControlSchemaProvider().create({**entrance, "issuer": "vault", "members": TENANTS, "keeper": "limits"})
    server.execute(f"GRANT CONNECT, CREATE, TEMPORARY ON DATABASE {NAME} TO {NAME}")
    with administrator.connect(entrance) as inside:
        inside.execute(f"CREATE SCHEMA {NAME} AUTHORIZATION {NAME}".encode())
    for each in (database, entrance):
        MigrationProvider().create(properties(each, NAME))
    yield entrance
    server.execute(f"DROP DATABASE {NAME} WITH (FORCE)")


@pytest.mark.parametrize("back", [False, True])
def test_all_rows_are_there_and_the_next_one_has_a_number_of_its_own(
    database: dict[str, Any], own: dict[str, Any], tmp_path: Path, *, back: bool
) -> None:
    said = commands("move-a-tenant-to-a-database-of-its-own.md")
    source, target = (own, database) if back else (database, own)
    names = {"agents": NAME, NAME: "agents"} if back else {}
    with administrator.connect(source) as before, administrator.connect(target) as after:
        before.execute(ROWS)
        for program in ("pg_dump", "pg_restore"):
            words = [
                f"--dbname={names.get(value, value)}" if option == "--dbname" else word
                for word in said[program]
                for option, _, value in [word.partition("=")]
            ]
            run(target, tmp_path, program, words)

        assert contents(after) == contents(before)
        assert all(contents(after).values())
        after.execute(f"INSERT INTO {NAME}.sessions (agent_id) SELECT id FROM {NAME}.agents".encode())
        assert after.execute(f"SELECT count(DISTINCT id) FROM {NAME}.sessions".encode()).fetchone() == (4,)
