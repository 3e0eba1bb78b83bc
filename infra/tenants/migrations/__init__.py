"""The tables of a tenant's schema, as numbered steps (Alembic), and the one way to take them.

`versions/` holds a file per step. Every step can be taken again: it makes what is missing and leaves alone
what is there. So a table that a tenant dropped is made again by the steps that made it.
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


def take(connection: sqlalchemy.Connection, start: str, revision: str) -> None:
    """Take all steps after `start` (empty: from the first) to `revision`, in the connection's transaction.

    The tables are made in the first schema of its `search_path`.
    """
    steps = list(_steps().iterate_revisions(revision, start or "base"))
    with _ONE_AT_A_TIME, Operations.context(MigrationContext.configure(connection)):
        for step in reversed(steps):
            step.module.upgrade()


def _steps() -> ScriptDirectory:
    return ScriptDirectory(str(Path(__file__).parent))
