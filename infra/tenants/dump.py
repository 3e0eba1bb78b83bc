"""The dump of a tenant's part of PostgreSQL by `pg_dump`, streamed into object storage.

`pg_dump` and `pg_restore` run beside this program and are found on PATH, as new as the server or newer. Of
large objects `pg_dump` saves all that a database has, other tenants' too, and fills the holes in them, which
may be terabytes; so the tenant's are written beside the dump, as a script for `psql`.
"""

import gzip
import io
import os
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import psycopg
    from mypy_boto3_s3 import S3Client

DUMP = "database.dump"
LARGE_OBJECTS = "large-objects.sql.gz"

_PROGRAMS = ("pg_dump", "pg_restore")
_INHERITED = ("PATH", "HOME", "PGSSLROOTCERT")
_LOCK_PATIENCE = "60s"
"""The time for which `pg_dump` waits for a lock; the tenant's own logins have ended."""
_PART = 64 * 2**20
"""Bytes held in memory at a time; an upload has at most ten thousand parts, which is 640 GiB."""
_READ = 2**20
_END = b"-- This script is complete.\n"

_OWNED = """
SELECT m.oid, coalesce(%(owner)s, pg_get_userbyid(m.lomowner)), obj_description(m.oid, 'pg_largeobject'),
  m.lomacl IS NOT NULL,
  (SELECT coalesce(sum(octet_length(p.data)), 0) FROM pg_largeobject p WHERE p.loid = m.oid)::bigint
FROM pg_largeobject_metadata m
WHERE %(owner)s::text IS NULL OR m.lomowner = to_regrole(%(owner)s)
   OR m.lomowner IN (SELECT member FROM pg_auth_members WHERE roleid = to_regrole(%(owner)s))
ORDER BY m.oid
"""
_PAGES = """
SELECT pageno::bigint * (current_setting('block_size')::int / 4), encode(data, 'hex')
FROM pg_largeobject WHERE loid = %s ORDER BY pageno
"""
"""A page that was never written has no row, so a hole stays one."""
_GRANTS = """
SELECT a.privilege_type, CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END, a.is_grantable
FROM pg_largeobject_metadata m, aclexplode(m.lomacl) a WHERE m.oid = %s
"""


@dataclass(frozen=True)
class _LargeObject:
    oid: int
    owner: str
    comment: str | None
    granted: bool
    """True if its rights were ever changed from those that an owner has by itself."""
    size: int


def missing_programs() -> list[str]:
    """Return which of the programs that a dump takes are not on PATH."""
    return [name for name in _PROGRAMS if shutil.which(name) is None]


@dataclass(frozen=True, kw_only=True)
class Dump:
    """Saves what a role has in one database, below `folder` in `bucket`."""

    s3: "S3Client"
    bucket: str
    folder: str
    """Ends in a slash."""
    where: Mapping[str, Any]
    """The administrator's way into the database, as `clients` takes it."""
    owner: str
    """The role, and its schema of the same name."""
    whole: bool
    """The database is the role's own, so all of it is saved."""

    def save(self) -> dict[str, Any]:
        """Save all as of one moment, and read it back.

        Returns:
            What was saved and where, for the manifest.

        Raises:
            RuntimeError: it could not be saved, or not be read back whole.
        """
        from infra.tenants import clients

        with clients.postgres(self.where) as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            # Nothing of the tenant's is found by name.
            connection.execute("SET LOCAL search_path = pg_catalog")
            row = connection.execute("SELECT pg_export_snapshot(), current_setting('server_version')")
            snapshot, server = row.fetchall()[0]
            owner = None if self.whole else self.owner
            objects = [_LargeObject(*each) for each in connection.execute(_OWNED, {"owner": owner})]
            self._dump(snapshot)
            script = io.BufferedReader(_Stream(_packed(_script(connection, objects))))
            self._upload(LARGE_OBJECTS, script)
        entries = self._entries()
        self._require_end()
        return {
            "server": f"PostgreSQL {server}",
            "dump": DUMP,
            "entries": entries,
            "largeObjects": {
                "count": len(objects),
                "bytes": sum(each.size for each in objects),
                "script": LARGE_OBJECTS,
            },
        }

    def _dump(self, snapshot: str) -> None:
        """Run `pg_dump` into object storage; what a failed one has written is deleted."""
        # In quotes it is that very name: outside them, letters are folded and some have a meaning.
        chosen = [] if self.whole else [f'--schema="{self.owner}"', "--strict-names"]
        command = [
            *("pg_dump", "--format=custom", "--no-password", f"--lock-wait-timeout={_LOCK_PATIENCE}"),
            *("--no-large-objects", f"--snapshot={snapshot}", *chosen),
        ]
        entrance = {
            "PGHOST": str(self.where["host"]),
            "PGPORT": str(int(self.where["port"])),
            "PGDATABASE": str(self.where["database"]),
            "PGUSER": str(self.where["user"]),
            "PGPASSWORD": str(self.where["password"]),
            "PGSSLMODE": str(self.where["sslMode"]),
            "PGCONNECT_TIMEOUT": "15",
        }
        with tempfile.TemporaryFile() as told:
            with _started(command, entrance, stdout=subprocess.PIPE, stderr=told) as process:
                self._upload(DUMP, cast("IO[bytes]", process.stdout))
            if process.returncode:
                self.s3.delete_object(Bucket=self.bucket, Key=self.folder + DUMP)
                raise RuntimeError(f"pg_dump failed: {_last_line(told)}")

    def _upload(self, name: str, stream: IO[bytes]) -> None:
        from boto3.s3.transfer import TransferConfig

        parts = TransferConfig(multipart_chunksize=_PART, multipart_threshold=_PART, use_threads=False)
        self.s3.upload_fileobj(stream, self.bucket, self.folder + name, Config=parts)

    def _entries(self) -> int:
        """Have `pg_restore` list the dump and read all of it; return how many entries it lists."""
        with tempfile.TemporaryFile() as listed:
            self._read_back("--list", listed)
            listed.seek(0)
            entries = sum(bool(line.strip()) and not line.startswith(b";") for line in listed)
        # The list stands at the beginning: that the rest is there shows when the rows are read.
        self._read_back("--file=-", subprocess.DEVNULL)
        return entries

    def _read_back(self, option: str, output: Any) -> None:
        body = self.s3.get_object(Bucket=self.bucket, Key=self.folder + DUMP)["Body"]
        with tempfile.TemporaryFile() as told, closing(body):
            command = ["pg_restore", option]
            with _started(command, {}, stdin=subprocess.PIPE, stdout=output, stderr=told) as process:
                archive = cast("IO[bytes]", process.stdin)
                # It may have seen enough before the end.
                with suppress(BrokenPipeError):
                    for data in body.iter_chunks(_READ):
                        archive.write(data)
                    archive.close()
            if process.returncode:
                raise RuntimeError(f"{DUMP} cannot be read back: {_last_line(told)}")

    def _require_end(self) -> None:
        body = self.s3.get_object(Bucket=self.bucket, Key=self.folder + LARGE_OBJECTS)["Body"]
        last = b""
        try:
            with closing(body), gzip.open(body) as script:
                for line in script:
                    last = line
        except (EOFError, OSError) as error:
            raise RuntimeError(f"{LARGE_OBJECTS} cannot be read back: {error}") from None
        if last != _END:
            raise RuntimeError(f"{LARGE_OBJECTS} cannot be read back: it has no end")


def _started(
    command: Sequence[str], environment: Mapping[str, str], **files: Any
) -> "subprocess.Popen[bytes]":
    """Start a program with no more of this one's environment than it needs; a password stands on no line."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    try:
        return subprocess.Popen(command, env={**inherited, **environment}, **files)  # noqa: S603 — our words
    except FileNotFoundError:
        raise RuntimeError(no_program([command[0]])) from None


def no_program(names: Iterable[str]) -> str:
    """Return the message for programs that are not on PATH."""
    return (
        f"{' and '.join(names)} not on PATH, so no database can be saved; install PostgreSQL's client "
        "programs, as new as the server or newer"
    )


def _last_line(told: IO[bytes]) -> str:
    told.seek(0)
    lines = told.read()[-4000:].decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _script(connection: "psycopg.Connection[Any]", objects: Iterable[_LargeObject]) -> Iterator[bytes]:
    """Write the statements that make `objects` again, under their numbers."""
    from psycopg import sql

    yield b"SET standard_conforming_strings = on;\nSET search_path = pg_catalog;\n"
    for each in objects:
        role = sql.Identifier(each.owner)
        name = sql.SQL("LARGE OBJECT {}").format(sql.Literal(each.oid))
        statements = [
            sql.SQL("SELECT lo_create({})").format(sql.Literal(each.oid)),
            sql.SQL("ALTER {} OWNER TO {}").format(name, role),
        ]
        if each.comment is not None:
            statements.append(sql.SQL("COMMENT ON {} IS {}").format(name, sql.Literal(each.comment)))
        if each.granted:
            statements.append(sql.SQL("REVOKE ALL ON {} FROM {}").format(name, role))
            for privilege, grantee, grantable in connection.execute(_GRANTS, [each.oid]):
                whom = sql.Identifier(grantee) if grantee is not None else sql.SQL("PUBLIC")
                option = sql.SQL(" WITH GRANT OPTION" if grantable else "")
                grant = sql.SQL("GRANT {} ON {} TO {}{}")
                statements.append(grant.format(sql.SQL(privilege), name, whom, option))
        yield from (statement.as_bytes(connection) + b";\n" for statement in statements)
        with connection.cursor(name="pages") as pages:
            for offset, data in pages.execute(_PAGES, [each.oid]):
                yield f"SELECT lo_put({each.oid}, {offset}, '\\x{data}');\n".encode()
    yield _END


def _packed(lines: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)  # as gzip does
    for line in lines:
        if data := packer.compress(line):
            yield data
    yield packer.flush()


class _Stream(io.RawIOBase):
    """Pieces of bytes as a file that can be read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            self._left = next(self._pieces, b"")
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count
