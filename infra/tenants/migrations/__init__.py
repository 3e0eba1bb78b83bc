"""The tables of a tenant's schema, as numbered steps (Alembic), and the one way to take them.

`versions/` holds a file per step. The schema's comment says which step it is on: it changes in the same
transaction as the tables, comes and goes with the schema, and travels in a dump of it.
"""

from functools import cache
from pathlib import Path
from threading import Lock

import sqlalchemy
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError

_MARK = "agent-platform revision "

_ONE_AT_A_TIME = Lock()
"""`alembic.op`, which the steps speak to, is one for the whole process."""


class MigrationError(RuntimeError):
    """A schema cannot be brought to a revision; the message says why and what to do."""


def no_way_back(schema: str, start: str, revision: str) -> str:
    """What to tell whoever wants `schema` on an older revision than `start`."""
    return (
        f"schema {schema} is on revision {start}, which is newer than {revision} or unknown here: going back "
        "would delete data; update from a checkout that has it, or undo it by a new step"
    )


@cache
def head() -> str:
    """The newest revision."""
    revision = _steps().get_current_head()
    assert revision is not None, "there is at least one step"  # noqa: S101
    return revision


def is_behind(revision: str, other: str) -> bool:
    """Whether `revision` is older than `other`, or `other` is unknown here."""
    if revision == other:
        return False
    try:
        return not list(_steps().iterate_revisions(revision, other))
    except (RevisionError, CommandError):
        return True


def current(connection: sqlalchemy.Connection, schema: str) -> str | None:
    """The revision `schema` is on; None if there is no such schema; empty if it has no tables of ours."""
    query = "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = :schema"
    found = connection.execute(sqlalchemy.text(query), {"schema": schema}).one_or_none()
    if found is None:
        return None
    comment = found[0] or ""
    return comment.removeprefix(_MARK) if comment.startswith(_MARK) else ""


def upgrade(connection: sqlalchemy.Connection, schema: str, revision: str) -> None:
    """Take all steps from where `schema` is to `revision`, inside the connection's transaction.

    Raises:
        MigrationError: there is no such way forward.
    """
    start = current(connection, schema)
    if start is None:
        raise MigrationError(f"schema {schema} is gone; run the update with --refresh to make it again")
    if start and is_behind(revision, start):
        raise MigrationError(no_way_back(schema, start, revision))
    steps = list(_steps().iterate_revisions(revision, start or "base"))
    with _ONE_AT_A_TIME, Operations.context(MigrationContext.configure(connection)):
        for step in reversed(steps):
            step.module.upgrade()
    connection.exec_driver_sql(f"COMMENT ON SCHEMA {schema} IS '{_MARK}{revision}'")


@cache
def _steps() -> ScriptDirectory:
    return ScriptDirectory(str(Path(__file__).parent))
