"""A tenant's schema, brought back from a server that was recovered to a time.

The recovered server is a copy of the whole database as it was then (docs/runbooks/restore.md). Of it
the tenant's schema is dumped, and takes the place of what the schema holds now, in one transaction.

That is done as a login of the tenant's own: what a tenant has put into its schema, such as a function that a
table checks its rows with, acts with the tenant's rights and with no others. The administrator only reads,
and by nothing that a tenant can have defined. Large objects, which belong to no schema, stay as they are.
"""

import os
import re
import secrets
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from infra.platform.administrator import connect
from infra.tenants import roles
from restore.errors import RestoreError
from restore.source import Change, Plan

_OWN = """
SELECT classid, objid FROM pg_depend AS own
WHERE refclassid = 'pg_namespace'::regclass AND refobjid = to_regnamespace(%(schema)s)
  AND deptype = 'n' AND classid <> 'pg_default_acl'::regclass
"""
_CONTENTS = f"""
SELECT format('DROP %%s IF EXISTS %%s CASCADE', CASE
  WHEN own.classid = 'pg_proc'::regclass THEN 'ROUTINE'
  WHEN type = 'statistics object' THEN 'STATISTICS'
  ELSE type END, identity)
FROM ({_OWN}) AS own, pg_identify_object(own.classid, own.objid, 0)
-- What is a part of something else, such as the sequence of an identity column, goes with that.
WHERE NOT EXISTS (
  SELECT FROM pg_depend AS part WHERE part.classid = own.classid AND part.objid = own.objid
    AND part.deptype = 'i' AND (part.refclassid, part.refobjid) <> (own.classid, own.objid)
)
ORDER BY own.classid = 'pg_class'::regclass DESC, own.objid
"""  # noqa: S608 — our own words
_OTHERS = f"""
SELECT pg_describe_object(d.classid, d.objid, d.objsubid)
FROM pg_depend AS d JOIN ({_OWN}) AS own ON (d.refclassid, d.refobjid) = (own.classid, own.objid)
LEFT JOIN pg_rewrite ON d.classid = 'pg_rewrite'::regclass AND pg_rewrite.oid = d.objid
LEFT JOIN pg_trigger ON d.classid = 'pg_trigger'::regclass AND pg_trigger.oid = d.objid
LEFT JOIN pg_attrdef ON d.classid = 'pg_attrdef'::regclass AND pg_attrdef.oid = d.objid
LEFT JOIN pg_policy ON d.classid = 'pg_policy'::regclass AND pg_policy.oid = d.objid
LEFT JOIN pg_constraint ON d.classid = 'pg_constraint'::regclass AND pg_constraint.oid = d.objid
LEFT JOIN pg_proc ON d.classid = 'pg_proc'::regclass AND pg_proc.oid = d.objid
LEFT JOIN pg_type ON d.classid = 'pg_type'::regclass AND pg_type.oid = d.objid
LEFT JOIN pg_class ON pg_class.oid = coalesce(ev_class, tgrelid, adrelid, polrelid,
  CASE d.classid WHEN 'pg_class'::regclass THEN d.objid END)
WHERE coalesce(relnamespace, connamespace, pronamespace, typnamespace)
  NOT IN (to_regnamespace(%(schema)s), 'pg_toast'::regnamespace)
ORDER BY 1
"""  # noqa: S608 — our own words
_TABLES = """
SELECT relname, relkind = 'S' FROM pg_class
WHERE relnamespace = to_regnamespace(%s) AND relkind IN ('r', 'S') ORDER BY 1
"""
_ROWS = """
SELECT count(*), coalesce(sum(hashtextextended(format('%s', ROW(each.*)), 0)::numeric), 0) FROM {} AS each
"""
"""Not a cast to text, which could be the tenant's own: what a type prints is not."""
_SEQUENCE = "SELECT last_value, is_called::int FROM {}"
_REVISION = "SELECT revision FROM agent_platform.revisions WHERE schema = %s"
_DEFINITIONS = "definitions"
_LOCK_TIMEOUT = "30s"
_LOGIN_MINUTES = 10
_INHERITED = ("PATH", "HOME", "PGSSLROOTCERT")

Sums = Mapping[str, tuple[int, int]]
"""Of each table, how many rows, and a sum over their contents; of a sequence where it stands."""


class Database:
    """A tenant's schema."""

    def __init__(self, tenant: str, at: datetime, recovered: str) -> None:
        """Bring it back from the server at `recovered`, HOST:PORT; libpq's variables lead to the live one.

        Both are entered as the administrator, with the same password.
        """
        self._schema = f"tenant_{tenant}"
        self._tenant = tenant
        self._at = at
        host, _, port = recovered.rpartition(":")
        if not host or not port.isdecimal():
            raise RestoreError(f"--recovered {recovered!r} is no HOST:PORT, so nothing was changed.")
        missing = [name for name in ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE") if not os.environ.get(name)]
        if missing:
            raise RestoreError(f"the environment lacks {', '.join(missing)}, so nothing was changed.")
        self._live: dict[str, Any] = {
            "host": os.environ["PGHOST"],
            "port": os.environ["PGPORT"],
            "database": os.environ["PGDATABASE"],
            "user": os.environ["PGUSER"],
            "password": os.environ.get("PGPASSWORD", ""),
            "sslMode": os.environ.get("PGSSLMODE", "prefer"),
        }
        self._then = {**self._live, "host": host, "port": port}

    def plan(self) -> Plan:
        """Compare the contents of both servers."""
        with self._entered(self._live) as live, self._entered(self._then) as then:
            self._check(live, then)
            now, before = _sums(live, self._schema), _sums(then, self._schema)
            exists = _has(live, "to_regnamespace", self._schema)
        changes = [
            Change(what=table, now=_told(table, now), then=_told(table, before))
            for table in sorted({*now, *before})
            if now.get(table) != before.get(table)
        ]
        if not exists or self._definitions(self._live) != self._definitions(self._then):
            changes.append(Change(what=_DEFINITIONS, now="as they are", then="as they were"))
        return Plan(
            changes=changes,
            same=sum(now[table] == before.get(table) for table in now),
            way_back="What is there now can be had in the same way: restore to "
            f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}.",
        )

    def _check(self, live: "psycopg.Connection[Any]", then: "psycopg.Connection[Any]") -> None:
        when, unchanged = f"{self._at:%Y-%m-%dT%H:%M:%SZ}", "so nothing was changed"
        started = [
            connection.execute("SELECT pg_postmaster_start_time()").fetchone() for connection in (live, then)
        ]
        if started[0] == started[1]:
            raise RestoreError(f"--recovered leads to the live server itself, {unchanged}.")
        if live.execute("SELECT 1 FROM pg_database WHERE datname = %s", [self._schema]).fetchone():
            raise RestoreError(
                f"{self._tenant} has a database of its own, {unchanged}: this restores a schema of the "
                "database that tenants share. docs/runbooks/restore.md says what to do."
            )
        if not _has(live, "to_regrole", self._schema):
            raise RestoreError(
                f"{self._tenant}: the live server has no role {self._schema}, {unchanged}; declare the "
                "tenant with `pulumi up` first, then restore what it had."
            )
        if not _has(then, "to_regnamespace", self._schema):
            raise RestoreError(
                f"{self._tenant}: there was no schema {self._schema} at {when}, {unchanged}; choose a later "
                "time."
            )
        now, before = (
            connection.execute(_REVISION, [self._schema]).fetchone() for connection in (live, then)
        )
        if now != before:
            raise RestoreError(
                f"{self._tenant}: its schema is on revision {_first(now)} of the migrations, and was on "
                f"{_first(before)} at {when}; what is brought back would lack what came since, {unchanged}. "
                "Choose a later time, or take single rows from the recovered server."
            )
        others = [row[0] for row in live.execute(_OTHERS, {"schema": self._schema}).fetchall()]
        if others:
            raise RestoreError(
                f"{self._tenant}: objects outside of its schema depend on it and would be dropped with it, "
                f"{unchanged}: {'; '.join(others[:3])}{' …' if others[3:] else ''}. Have them dropped first."
            )

    def prepare(self, plan: Plan) -> str:
        """Return the way back: it is known beforehand, since the log is archived."""
        return plan.way_back

    def apply(self, plan: Plan) -> None:
        """Replace the contents of the schema in one transaction."""
        del plan
        with tempfile.TemporaryDirectory(prefix="restore-") as folder, self._entered(self._live) as live:
            script, begin = self._dumped(Path(folder)), Path(folder) / "begin.sql"
            # All that is replaced is in the archive, for the way back.
            live.execute("SELECT pg_switch_wal()")
            if not _has(live, "to_regnamespace", self._schema):
                name = sql.Identifier(self._schema)
                live.execute(sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(name, name))
            drops = live.execute(_CONTENTS, {"schema": self._schema}).fetchall()
            begin.write_text(
                f"SET lock_timeout = '{_LOCK_TIMEOUT}';\n" + "".join(f"{drop};\n" for (drop,) in drops),
                encoding="utf-8",
            )
            command = [
                *("psql", "--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1"),
                *("--output=/dev/null", f"--file={begin}", f"--file={script}"),
            ]
            with self._login(live) as (user, password):
                entrance = {**self._live, "user": user, "password": password}
                _run(command, entrance, f"{self._tenant}: its schema is as it was")

    @contextmanager
    def _login(self, live: "psycopg.Connection[Any]") -> Iterator[tuple[str, str]]:
        """A login that acts as the tenant, for as long as this lasts.

        By its name it is one of those that no limit of the tenant's ends (agent_platform.logins).
        """
        user, password = f"{self._schema}_migration", secrets.token_urlsafe(32)
        roles.end(self._live, user)
        name, owner = sql.Identifier(user), sql.Identifier(self._schema)
        live.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} VALID UNTIL {} IN ROLE {}").format(
                name,
                sql.Literal(password),
                sql.Literal((datetime.now(UTC) + timedelta(minutes=_LOGIN_MINUTES)).isoformat()),
                owner,
            )
        )
        try:
            live.execute(sql.SQL("ALTER ROLE {} SET role = {}").format(name, owner))
            yield user, password
        finally:
            roles.end(self._live, user)

    def _dumped(self, folder: Path) -> Path:
        """Dump the recovered schema as a script, without its owner, its rights, and the schema itself."""
        archive, contents, script = (folder / name for name in ("dump", "contents", "script.sql"))
        failed = f"{self._tenant}: the recovered schema cannot be dumped, so nothing was changed"
        _run([*self._dump(), "--format=custom", f"--file={archive}"], self._then, failed)
        listed = _run(["pg_restore", "--list", str(archive)], None, failed)
        kept = [line for line in listed.splitlines() if f" SCHEMA - {self._schema} " not in line]
        contents.write_text("\n".join(kept) + "\n", encoding="utf-8")
        command = ["pg_restore", "--no-owner", "--no-privileges", f"--use-list={contents}"]
        _run([*command, f"--file={script}", str(archive)], None, failed)
        return script

    def _dump(self) -> list[str]:
        # In quotes it is that very name.
        chosen = f'--schema="{self._schema}"'
        return ["pg_dump", "--strict-names", "--no-large-objects", "--lock-wait-timeout=30s", chosen]

    def _definitions(self, where: Mapping[str, Any]) -> list[str]:
        """Return how tables, views, functions and the rest are defined."""
        text = _run(
            [*self._dump(), "--schema-only", "--no-owner", "--no-privileges"],
            where,
            f"{self._tenant}: its definitions cannot be read, so nothing was changed",
        )
        # Each dump has a word of its own against what could be smuggled into it.
        return [line for line in text.splitlines() if not re.match(r"--|\\(un)?restrict ", line)]

    def differences(self) -> list[str]:
        """Compare both servers' contents row by row, and their definitions."""
        with self._entered(self._live) as live, self._entered(self._then) as then:
            now, before = _sums(live, self._schema), _sums(then, self._schema)
        found = [
            f"{table}: {_told(table, now)} instead of {_told(table, before)}"
            for table in sorted({*now, *before})
            if now.get(table) != before.get(table)
        ]
        same = self._definitions(self._live) == self._definitions(self._then)
        return found if same else [*found, f"{_DEFINITIONS}: they are not as they were"]

    @contextmanager
    def _entered(self, where: dict[str, Any]) -> Iterator["psycopg.Connection[Any]"]:
        try:
            with connect(where) as connection:
                connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
                yield connection
        except psycopg.Error as error:
            raise RestoreError(
                f"PostgreSQL at {where['host']}:{where['port']}: {str(error).strip().splitlines()[0]}; "
                "nothing was changed."
            ) from None


def _has(connection: "psycopg.Connection[Any]", function: str, name: str) -> bool:
    row = connection.execute(
        sql.SQL("SELECT {}(%s) IS NOT NULL").format(sql.Identifier(function)), [name]
    ).fetchone()
    return bool(row and row[0])


def _sums(connection: "psycopg.Connection[Any]", schema: str) -> Sums:
    found = {}
    for name, is_sequence in connection.execute(_TABLES, [schema]).fetchall():
        statement = sql.SQL(_SEQUENCE if is_sequence else _ROWS).format(sql.Identifier(schema, name))
        row: Any = connection.execute(statement).fetchone()
        found[f"sequence {name}" if is_sequence else name] = (int(row[0]), int(row[1]))
    return found


def _told(name: str, sums: Sums) -> str:
    found = sums.get(name)
    if found is None:
        return "none"
    return f"at {found[0]}" if name.startswith("sequence ") else f"{found[0]} rows"


def _first(row: Sequence[Any] | None) -> str:
    return str(row[0]) if row else "none"


def _run(command: Sequence[str], where: Mapping[str, Any] | None, failed: str) -> str:
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    if where:
        environment |= {
            "PGHOST": str(where["host"]),
            "PGPORT": str(where["port"]),
            "PGDATABASE": str(where["database"]),
            "PGUSER": str(where["user"]),
            "PGPASSWORD": str(where["password"]),
            "PGSSLMODE": str(where["sslMode"]),
        }
    try:
        done = subprocess.run(  # noqa: S603 — our words
            command, env=environment, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise RestoreError(f"{failed}: {command[0]} is not on PATH; install PostgreSQL's clients.") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        cause = next((line for line in said if re.search("ERROR|FATAL|error:", line)), "".join(said[-1:]))
        raise RestoreError(f"{failed}: {cause or f'{command[0]} failed'}")
    return done.stdout
