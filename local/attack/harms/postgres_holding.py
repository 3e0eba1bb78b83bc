"""Harm by a tenant's session in PostgreSQL: held transactions and locks, disk, false revisions.

The platform's part is done as it does it: what it calls each minute (`agent_platform.hold_sessions`, here
with bounds that an attack can wait for), and an update of a tenant's tables.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from threading import Event, Thread
from typing import Any

import psycopg

from infra.platform import control_schema
from infra.tenants import migrations, roles
from infra.tenants.migrations import runner
from local import ports
from local.attack.attempt import Refused, told
from local.attack.harm import Harm
from local.attack.harms.logins import Administrator, superuser, user
from local.attack.postgres import connect
from local.attack.tenants import Tenant

_LONGEST, _IDLEST = 1.0, 0.4
"""Seconds of one transaction or statement, and idle in a transaction."""
_PATIENCE = 1.0
"""Seconds in which a session that is to end ends."""
_RETRIES = 200
_SHARE = 128
"""A part of what a session may write into temporary files: to write all of it takes long."""
_SORT = """DECLARE kept CURSOR FOR
SELECT repeat(i::text, 100) FROM generate_series(1, 32768) AS i ORDER BY 1"""
"""Some 16 MiB."""


@contextmanager
def _session(administrator: Administrator, tenant: Tenant) -> Iterator[psycopg.Connection[Any]]:
    """A session of the tenant's, or of the administrator's, in the tenant's database and schema."""
    with user(administrator, tenant) as pair:
        connection = connect(tenant.database, *pair)
        try:
            connection.autocommit = True
            if administrator:
                connection.execute(f"SET search_path = {tenant.schema}".encode())
            yield connection
        finally:
            connection.close()


@contextmanager
def _as_administrator(database: str) -> Iterator[psycopg.Connection[Any]]:
    with connect(database, *superuser()) as connection:
        connection.autocommit = True
        yield connection


@dataclass(frozen=True, kw_only=True)
class _Busy:
    """A session that is to be ended."""

    database: str
    tenant: str
    """The tenant's role: only its sessions are held to bounds as short as these."""
    process: int
    until: float
    """The time from which it may be ended, by this process's monotonic clock."""


@contextmanager
def _busy(
    work: str, bound: float, administrator: Administrator, own: Tenant, _victim: Tenant
) -> Iterator[_Busy]:
    """Have a session do something for longer than `bound` seconds, with its own time-outs off."""
    with _session(administrator, own) as session:
        session.execute(
            "SET statement_timeout = 0; SET transaction_timeout = 0; "
            "SET idle_in_transaction_session_timeout = 0"
        )
        session.pgconn.send_query(work.encode())
        yield _Busy(
            database=own.database,
            tenant=own.schema,
            process=session.info.backend_pid,
            until=time.monotonic() + bound + 0.1,
        )
        if administrator:
            session.cancel_safe()


def _end_busy(busy: _Busy) -> None:
    """Do what is done each minute, once the session has been at it for long enough; it must be gone."""
    time.sleep(max(busy.until - time.monotonic(), 0))
    with _as_administrator(busy.database) as connection:
        bounds = [f"{_LONGEST} s", f"{_IDLEST} s", busy.tenant]
        connection.execute("SELECT agent_platform.hold_sessions(%s, %s, %s)", bounds)
        deadline = time.monotonic() + _PATIENCE
        while connection.execute(
            "SELECT FROM pg_stat_activity WHERE pid = %s AND state <> 'idle'", [busy.process]
        ).rowcount:
            if time.monotonic() > deadline:
                raise RuntimeError("the session is still at it")
            time.sleep(0.05)


@contextmanager
def _locked(administrator: Administrator, own: Tenant, _victim: Tenant) -> Iterator[Tenant]:
    """Hold a table of one's own, idle in a transaction."""
    with _session(administrator, own) as session:
        session.execute("BEGIN; LOCK TABLE agents")
        yield own


def _update(tenant: Tenant) -> None:
    """Do what an update does with the tenant's tables, which are on their revision already."""
    props = _update_of(tenant)
    revision = runner.revision(props, tenant.schema)
    runner.upgrade({**props, "revision": revision or migrations.head()})


def _impatient_update(tenant: Tenant) -> None:
    """Look at the tables without anybody who ends the sessions that hold them."""
    with _as_administrator(tenant.database) as connection:
        connection.execute("SET lock_timeout = '1s'")
        connection.execute(f"SELECT FROM {tenant.schema}.agents".encode())


def _update_of(tenant: Tenant) -> dict[str, Any]:
    name, password = superuser()
    return {
        "schema": tenant.schema,
        "control": control_schema.NAME,
        "host": "127.0.0.1",
        "port": ports.port("postgres"),
        "database": tenant.database,
        "user": name,
        "password": password,
        "sslMode": "disable",
    }


@contextmanager
def _granting(administrator: Administrator, own: Tenant, victim: Tenant) -> Iterator[Tenant]:
    """Grant something, over and over, to the role that updates the victim's tables."""
    granted = f"GRANT SELECT ON attack_bait TO {victim.schema}_migration"
    done = Event()

    def grant() -> None:
        while not done.wait(0.001):
            # Mostly there is no such role.
            with suppress(psycopg.Error):
                session.execute(granted.encode())

    with _session(administrator, own) as session:
        session.execute("CREATE TABLE attack_bait ()")
        granting = Thread(target=grant)
        granting.start()
        try:
            yield victim
        finally:
            done.set()
            granting.join()
            with _as_administrator(own.database) as connection:
                connection.execute(f"DROP TABLE {own.schema}.attack_bait".encode())


def _careless_update(tenant: Tenant) -> None:
    """Make that role and drop it, as anybody would, until somebody has granted it something."""
    props, role = _update_of(tenant), f"{tenant.schema}_migration"
    with _as_administrator(tenant.database) as connection:
        try:
            for _ in range(_RETRIES):
                connection.execute(f"CREATE ROLE {role}".encode())
                time.sleep(0.02)
                connection.execute(f"DROP ROLE {role}".encode())
        finally:
            roles.end(props, role)


@contextmanager
def _commented(administrator: Administrator, own: Tenant, _victim: Tenant) -> Iterator[Tenant]:
    """Write on one's schema, as the platform once did, that it is newer than any checkout."""
    with _session(administrator, own) as session:
        session.execute(f"COMMENT ON SCHEMA {own.schema} IS 'agent-platform revision 9999'".encode())
        try:
            yield own
        finally:
            session.execute(f"COMMENT ON SCHEMA {own.schema} IS NULL".encode())


def _update_by_comment(tenant: Tenant) -> None:
    """Take the schema's word for its revision."""
    with _as_administrator(tenant.database) as connection:
        found = connection.execute(
            "SELECT obj_description(to_regnamespace(%s), 'pg_namespace')", [tenant.schema]
        ).fetchone()
    revision = str(found and found[0]).rpartition(" ")[2]
    if migrations.is_behind(migrations.head(), revision):
        raise RuntimeError(migrations.no_way_back(tenant.schema, revision, migrations.head()))


@dataclass(frozen=True, kw_only=True)
class _Sorting:
    """A session that keeps temporary files."""

    database: str
    process: int
    most: int
    """MiB that it may keep."""


@contextmanager
def _sorting(administrator: Administrator, own: Tenant, _victim: Tenant) -> Iterator[_Sorting]:
    """Sort more than may lie in temporary files, and keep it; the session's own limit is made smaller."""
    with user(administrator, own) as pair, _as_administrator(own.database) as server:
        (limit,) = server.execute(
            "SELECT setting::int FROM pg_settings WHERE name = 'temp_file_limit'"
        ).fetchone() or (-1,)
        if not administrator and limit > 0:
            smaller = f'ALTER ROLE "{pair[0]}" SET temp_file_limit = {limit // _SHARE}'
            server.execute(smaller.encode())
        with connect(own.database, *pair) as session:
            session.execute("SAVEPOINT before")
            try:
                session.execute("SET temp_file_limit = -1")
            except psycopg.errors.InsufficientPrivilege:
                session.execute("ROLLBACK TO before")
            session.execute("SET work_mem = '64kB'")
            try:
                session.execute(f"{_SORT}; FETCH 1 FROM kept".encode())
            except psycopg.errors.ConfigurationLimitExceeded as error:
                raise Refused(told(error)) from None
            yield _Sorting(
                database=own.database, process=session.info.backend_pid, most=max(limit, 0) // _SHARE // 1024
            )


def _has_room(sorting: _Sorting) -> None:
    """See that the session's files are no more than it may keep."""
    with _as_administrator(sorting.database) as connection:
        (size,) = connection.execute(
            "SELECT coalesce(sum(size), 0) / 2 ^ 20 FROM pg_ls_tmpdir() WHERE starts_with(name, %s)",
            [f"pgsql_tmp{sorting.process}."],
        ).fetchone() or (0,)
    if size > sorting.most:
        raise RuntimeError(f"it keeps {size:.0f} MiB of temporary files and may keep {sorting.most}")


_BUSY = (
    ("stay idle in a transaction", _IDLEST, "BEGIN; SELECT pg_current_xact_id()"),
    ("stay at one statement", _LONGEST, "SELECT pg_sleep(600)"),
    (
        "begin one transaction after the other in one statement",
        _LONGEST,
        "DO 'BEGIN LOOP COMMIT; PERFORM pg_sleep(0.01); END LOOP; END'",
    ),
)

HARMS = (
    *(
        Harm(
            kind="holds up others",
            name=name,
            tried=f"SET statement_timeout = 0; …; {work}",
            done=partial(_busy, work, bound),
            withstood=_end_busy,
        )
        for name, bound, work in _BUSY
    ),
    Harm(
        kind="holds up others",
        name="hold a table against an update",
        tried="BEGIN; LOCK TABLE agents",
        done=_locked,
        withstood=_update,
        unguarded=_impatient_update,
    ),
    Harm(
        kind="holds up others",
        name="grant something to the role of another's update",
        tried="again and again: GRANT SELECT ON t TO tenant_VICTIM_migration",
        done=_granting,
        withstood=_update,
        unguarded=_careless_update,
    ),
    Harm(
        kind="holds up others",
        name="say that one's schema is newer than any checkout",
        tried="COMMENT ON SCHEMA own IS 'agent-platform revision 9999'",
        done=_commented,
        withstood=_update,
        unguarded=_update_by_comment,
    ),
    Harm(
        kind="holds up others",
        name="fill the disk with temporary files",
        tried="SET temp_file_limit = -1; DECLARE c CURSOR FOR SELECT … ORDER BY 1; FETCH 1 FROM c",
        done=_sorting,
        withstood=_has_room,
    ),
)
"""Bounded in time: each takes seconds."""
