"""The platform's record of which revision each schema is on, where no tenant can write.

A step is announced with the transaction that takes it, and noted as taken afterwards. The server knows
whether that transaction was committed, so what is told is true even if whoever began it was cut off.
"""

from typing import Any

import psycopg
from psycopg import sql

_READ = """
SELECT CASE WHEN pg_xact_status(transaction) = 'committed' THEN next ELSE revision END
FROM {} WHERE schema = %s
"""
_ANNOUNCE = """
INSERT INTO {} (schema, revision, next, transaction) VALUES (%s, %s, %s, %s) ON CONFLICT (schema)
DO UPDATE SET revision = excluded.revision, next = excluded.next, transaction = excluded.transaction
"""
_NOTE = "UPDATE {} SET revision = next, next = NULL, transaction = NULL WHERE schema = %s"


class Record:
    """The row of one schema."""

    def __init__(self, administrator: psycopg.Connection[Any], control: str, schema: str) -> None:
        """`control` is the platform's own schema in that database."""
        self._administrator, self._schema = administrator, schema
        self._table = sql.Identifier(control, "revisions")

    def revision(self) -> str:
        """The revision that the schema is on; empty if no step was ever taken there."""
        found = self._run(_READ).fetchone()
        return found[0] if found else ""

    def announce(self, revision: str, transaction: str) -> None:
        """Say that `transaction` is about to bring the schema to `revision`."""
        self._run(_ANNOUNCE, self.revision(), revision, transaction)

    def note(self) -> None:
        """Say that what was announced is done."""
        self._run(_NOTE)

    def forget(self) -> None:
        """Delete the row: the schema goes."""
        self._run("DELETE FROM {} WHERE schema = %s")

    def _run(self, statement: str, *parameters: str) -> psycopg.Cursor[Any]:
        composed = sql.SQL(statement).format(self._table)
        return self._administrator.execute(composed, [self._schema, *parameters])
