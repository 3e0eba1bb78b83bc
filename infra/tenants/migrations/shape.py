"""The shape of tables: of those that the steps make, and of those that a schema has.

A tenant owns its tables and may add to them, change them and drop them. What the steps made has to be there;
what else there is, is the tenant's business.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

import sqlalchemy

_QUERY = """
WITH tables AS (
  SELECT oid AS relid, relname AS name, relrowsecurity, relforcerowsecurity FROM pg_catalog.pg_class
  WHERE relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = :schema) AND relkind = 'r'
)
SELECT name, '' FROM tables
UNION ALL
SELECT name, concat_ws(' ', 'column', quote_ident(attname), format_type(atttypid, atttypmod),
    CASE WHEN attnotnull THEN 'NOT NULL' END,
    CASE attidentity WHEN 'a' THEN 'GENERATED ALWAYS AS IDENTITY' END,
    'DEFAULT ' || pg_get_expr(adbin, adrelid))
  FROM tables JOIN pg_catalog.pg_attribute ON attrelid = relid
  LEFT JOIN pg_catalog.pg_attrdef ON adrelid = attrelid AND adnum = attnum
  WHERE attnum > 0 AND NOT attisdropped
UNION ALL
SELECT name, concat_ws(' ', 'constraint', quote_ident(conname), pg_get_constraintdef(pg_constraint.oid))
  FROM tables JOIN pg_catalog.pg_constraint ON conrelid = relid WHERE contype <> 'n'
UNION ALL
SELECT name, 'index ' || pg_get_indexdef(indexrelid) FROM tables JOIN pg_catalog.pg_index ON indrelid = relid
UNION ALL
SELECT name, 'row-level security' FROM tables WHERE relrowsecurity
UNION ALL
SELECT name, 'row-level security for its owner, too' FROM tables WHERE relforcerowsecurity
UNION ALL
SELECT name, 'policy ' || polname FROM tables JOIN pg_catalog.pg_policy ON polrelid = relid
"""


class Part(NamedTuple):
    """A table, or something of it."""

    table: str
    what: str
    """Empty: the table itself."""

    def __str__(self) -> str:
        """Name it as a message does."""
        return f"{self.table}: {self.what}" if self.what else f"table {self.table}"


def parts(connection: sqlalchemy.Connection, schema: str) -> set[Part]:
    """All tables of a schema and what they consist of.

    Names are looked up in `pg_catalog` alone, so that nothing of the tenant's is called.
    """
    connection.exec_driver_sql("SET LOCAL search_path = pg_catalog")
    rows = connection.execute(sqlalchemy.text(_QUERY), {"schema": schema})
    return {Part(table, what.replace(f"{schema}.", "")) for table, what in rows}


def lacking(wanted: Iterable[Part], there: set[Part]) -> list[Part]:
    """The parts of `wanted` that are missing; a missing table counts once, without its columns."""
    missing = set(wanted) - there
    gone = {part.table for part in missing if not part.what}
    return sorted(part for part in missing if not part.what or part.table not in gone)


def restore(connection: sqlalchemy.Connection, schema: str, missing: Iterable[Part]) -> None:
    """Add again the columns and constraints that are missing, as far as the rows that are there allow it."""
    connection.exec_driver_sql(f"SET LOCAL search_path = {schema}")
    # Columns come before constraints, and foreign keys after what they refer to.
    for part in sorted(missing, key=lambda part: ("FOREIGN KEY" in part.what, part.what)):
        if part.what.startswith(("column ", "constraint ")):
            with suppress(sqlalchemy.exc.DBAPIError), connection.begin_nested():
                connection.exec_driver_sql(f"ALTER TABLE {part.table} ADD {part.what}")
