"""Ends PostgreSQL roles for good: a tenant's, and the logins that act as it.

Everybody may grant on what is theirs to any role, in each database that they can enter, and PostgreSQL drops
no role on which something depends. So a role is released in every database of the server, and no session of a
tenant is waited for: whoever stands in the way loses it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
from psycopg import sql

from infra.platform.administrator import connect

Where = Mapping[str, Any]
Run = Callable[[sql.SQL | sql.Composed], psycopg.Cursor[Any]]

_PATIENCE = "30s"
"""The wait for a lock whose holder cannot be ended: another administrator."""
_GLANCE = 1.0
"""Seconds until whoever stands in the way is looked for: more than a statement takes on a busy server."""
_ATTEMPTS = 10
_WRITTEN_DOWN = (
    *("pg_class", "pg_attribute", "pg_proc", "pg_type", "pg_namespace", "pg_language", "pg_policy"),
    *("pg_largeobject_metadata", "pg_default_acl", "pg_foreign_server", "pg_foreign_data_wrapper"),
    "pg_shdepend",
)
"""The catalogs in which PostgreSQL records what depends on a role; the last one holds the dependency."""
_TRY_AGAIN = (
    psycopg.errors.DependentObjectsStillExist,
    psycopg.errors.InternalError_,  # "tuple concurrently updated"
    psycopg.errors.DeadlockDetected,
)

_END_BLOCKERS = """
WITH RECURSIVE blocking (pid) AS (
  SELECT unnest(pg_blocking_pids(%s)) UNION SELECT unnest(pg_blocking_pids(pid)) FROM blocking
)
SELECT pg_terminate_backend(pid) FROM blocking JOIN pg_stat_activity USING (pid)
LEFT JOIN pg_roles ON pg_roles.oid = usesysid
WHERE backend_type = 'client backend' AND rolsuper IS NOT TRUE AND rolcreaterole IS NOT TRUE
  AND NOT coalesce(pg_roles.rolname, '') LIKE 'tenant\\_%%\\_migration'
"""
"""All but the platform's own: administrators, Vault, and the migrations of other tenants."""
_DATABASES = """
SELECT DISTINCT coalesce(datname, current_database()) FROM pg_shdepend
LEFT JOIN pg_database ON pg_database.oid = dbid JOIN pg_roles ON pg_roles.oid = refobjid
WHERE refclassid = 'pg_authid'::regclass AND rolname = %s ORDER BY 1
"""
_DEPENDENTS = """
SELECT pg_describe_object(classid, objid, objsubid) FROM pg_shdepend JOIN pg_roles ON pg_roles.oid = refobjid
WHERE refclassid = 'pg_authid'::regclass AND rolname = %s
  AND dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) LIMIT 3
"""
MEMBERS = """
SELECT login.rolname FROM pg_auth_members
JOIN pg_roles AS tenant ON tenant.oid = roleid JOIN pg_roles AS login ON login.oid = member
WHERE tenant.rolname = %s AND NOT login.rolsuper AND NOT login.rolcreaterole ORDER BY 1
"""
"""The logins that act as a role. A login may change its own settings; whose member it is, no tenant may."""


_HANDED_ON = """
WITH things (what, name, owner, acl) AS (
  SELECT 'ALL', CASE relkind WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END || oid::regclass, relowner, relacl
    FROM pg_class
  UNION ALL SELECT format('ALL (%I)', attname), 'TABLE ' || attrelid::regclass, relowner, attacl
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
  UNION ALL SELECT 'ALL', 'ROUTINE ' || oid::regprocedure, proowner, proacl FROM pg_proc
  UNION ALL SELECT 'ALL', 'SCHEMA ' || oid::regnamespace, nspowner, nspacl FROM pg_namespace
  UNION ALL SELECT 'ALL', 'TYPE ' || oid::regtype, typowner, typacl FROM pg_type
  UNION ALL SELECT 'ALL', 'LARGE OBJECT ' || oid, lomowner, lomacl FROM pg_largeobject_metadata
)
SELECT DISTINCT format('GRANT %1$s ON %2$s TO %3$I WITH GRANT OPTION; REVOKE %1$s ON %2$s FROM %3$I CASCADE',
  what, name, pg_get_userbyid(other.grantor))
FROM things, aclexplode(acl) AS its, aclexplode(acl) AS other
WHERE its.grantee = (SELECT oid FROM pg_roles WHERE rolname = {role})
  AND its.grantor <> owner AND other.grantor <> owner
UNION ALL
SELECT DISTINCT format('SET LOCAL ROLE %I; REVOKE ALL ON DATABASE %I FROM %I; RESET ROLE',
  pg_get_userbyid(grantor), datname, {role})
FROM pg_database, aclexplode(datacl)
WHERE grantee = (SELECT oid FROM pg_roles WHERE rolname = {role}) AND grantor <> datdba
"""


class RoleError(RuntimeError):
    """A role cannot be dropped; it can no longer log in. The message says what depends on it, and where."""


def end_tenant(where: Where, role: str) -> None:
    """End the role of a tenant and all the logins that act as it, be it none.

    Raises:
        RoleError: one of them cannot be dropped.
    """
    with connect(where) as administrator:
        logins = [login for (login,) in administrator.execute(MEMBERS, [role])]
    for name in (*logins, role):
        end(where, name)


def end(where: Where, role: str) -> None:
    """End a role: it can log in no more, its sessions end, what it owns goes, and then it goes itself.

    Raises:
        RoleError: it cannot be dropped.
    """
    name = sql.Identifier(role)
    with connect(where) as administrator:
        found = administrator.execute("SELECT oid FROM pg_roles WHERE rolname = %s", [role]).fetchone()
        if found is None:
            return
        with insisting(where) as run:
            # For good before its sessions end: none can come in again.
            run(sql.SQL("ALTER ROLE {} NOLOGIN PASSWORD NULL").format(name))
        _end_sessions(administrator, found[0])
        _drop(where, administrator, role)
        # Whoever was on the way in when it was shut.
        _end_sessions(administrator, found[0])


@contextmanager
def insisting(where: Where, database: str | None = None) -> Iterator[Run]:
    """Give a way to run statements in a database that ends each session of a tenant's that they wait for."""
    with (
        connect(where, database=database) as connection,
        connect(where) as watch,
        ThreadPoolExecutor(1) as pool,
    ):
        connection.execute(sql.SQL("SET lock_timeout = {}").format(sql.Literal(_PATIENCE)))

        def run(statement: sql.SQL | sql.Composed) -> psycopg.Cursor[Any]:
            done = pool.submit(connection.execute, statement)
            while True:
                try:
                    return done.result(timeout=_GLANCE)
                except TimeoutError:
                    watch.execute(_END_BLOCKERS, [connection.info.backend_pid])

        yield run


def _end_sessions(administrator: psycopg.Connection[Any], oid: int) -> None:
    administrator.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usesysid = %s", [oid]
    )


def _drop(where: Where, administrator: psycopg.Connection[Any], role: str) -> None:
    for attempt in range(_ATTEMPTS):
        holding = [name for (name,) in administrator.execute(_DATABASES, [role])]
        # In the one that all share, or else in the last, nobody can add anything while the role goes. The
        # others are their owners' alone, and closed so long.
        last = where["database"] if where["database"] in holding else (holding or [where["database"]])[-1]
        with ExitStack() as closed:
            try:
                for database in holding:
                    if database != last:
                        closed.enter_context(_closed(administrator, database))
                        _release(where, database, role)
                _drop_in(where, last, role, _WRITTEN_DOWN if attempt else _WRITTEN_DOWN[-1:])
            except _TRY_AGAIN:
                continue
            return
    raise RoleError(_still_there(where, administrator, role))


def _release(where: Where, database: str, role: str) -> None:
    """Take away all that depends on the role in a database, and what it may anywhere on the server."""
    with insisting(where, database) as run:
        _unlink(run, role)
        run(sql.SQL("BEGIN"))
        _drop_owned(run, role)
        run(sql.SQL("COMMIT"))


def _unlink(run: Run, role: str) -> None:
    """Delete the large objects that the role owns, a few at a time: each takes one of the server's locks."""
    statement = sql.SQL(
        "SELECT lo_unlink(oid) FROM pg_largeobject_metadata WHERE lomowner = {}::regrole LIMIT 1000"
    ).format(sql.Literal(sql.Identifier(role).as_string()))
    while run(statement).fetchall():
        pass


def _drop_owned(run: Run, role: str) -> None:
    """Drop what the role owns, and take away what it was granted, in the transaction of `run`.

    An administrator revokes as the owner, which leaves what somebody granted who had the option to. From
    those their rights are taken, too, and with them goes what they granted.
    """
    run(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(role)))
    for (statements,) in run(sql.SQL(_HANDED_ON).format(role=sql.Literal(role))).fetchall():
        run(sql.SQL(statements))


def _drop_in(where: Where, database: str, role: str, catalogs: Sequence[str]) -> None:
    """Release and drop the role in one transaction, in which nobody else writes to `catalogs`."""
    with insisting(where, database) as run:
        _unlink(run, role)
        run(sql.SQL("BEGIN"))
        run(
            sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(
                sql.SQL(", ").join(map(sql.Identifier, catalogs))
            )
        )
        for attempt in range(_ATTEMPTS):
            run(sql.SQL("SAVEPOINT before"))
            try:
                _drop_owned(run, role)
            except psycopg.errors.InternalError_:
                # Somebody's grant from before the lock was committed meanwhile; there are ever fewer.
                if attempt == _ATTEMPTS - 1:
                    raise
                run(sql.SQL("ROLLBACK TO before"))
            else:
                break
        run(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
        run(sql.SQL("COMMIT"))


@contextmanager
def _closed(administrator: psycopg.Connection[Any], database: str) -> Iterator[None]:
    """Let nobody but administrators into a database for a moment."""
    (limit,) = administrator.execute(
        "SELECT datconnlimit FROM pg_database WHERE datname = %s", [database]
    ).fetchone() or (-1,)
    statement = sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}")
    administrator.execute(statement.format(sql.Identifier(database), sql.Literal(0)))
    try:
        administrator.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity JOIN pg_roles ON oid = usesysid "
            "WHERE datname = %s AND NOT rolsuper",
            [database],
        )
        yield
    finally:
        administrator.execute(statement.format(sql.Identifier(database), sql.Literal(limit)))


def _still_there(where: Where, administrator: psycopg.Connection[Any], role: str) -> str:
    told = []
    for (database,) in administrator.execute(_DATABASES, [role]).fetchall():
        with connect(where, database=database) as inside:
            found = ", ".join(what for (what,) in inside.execute(_DEPENDENTS, [role]))
        told.append(f"database {database}: {found}")
    return (
        f"the role {role} can no longer log in, but cannot be dropped, because something depends on it "
        f"({'; '.join(told)}); delete that there, or run the update again"
    )
