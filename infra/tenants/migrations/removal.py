"""Empties a schema that goes, so that nothing another tenant does can keep it.

Its owner may have let others in, who now hold its tables or make their own there; and more tables than the
server has locks for cannot be dropped at once.
"""

from collections.abc import Mapping
from typing import Any

from psycopg import sql

from infra.platform.administrator import connect
from infra.tenants import roles
from infra.tenants.migrations.record import Record

_GUESTS = """
SELECT DISTINCT CASE grantee WHEN 0 THEN 'public' ELSE quote_ident(pg_get_userbyid(grantee)) END
FROM pg_namespace, aclexplode(nspacl) WHERE nspname = %s AND grantee <> nspowner
"""
_CONTENTS = """
SELECT 'DROP ' || CASE type WHEN 'composite type' THEN 'type' WHEN 'statistics object' THEN 'statistics'
    ELSE type END || ' IF EXISTS ' || identity || ' CASCADE'
FROM pg_depend AS there, pg_identify_object(classid, objid, objsubid)
WHERE refclassid = 'pg_namespace'::regclass AND deptype = 'n'
  AND refobjid = (SELECT oid FROM pg_namespace WHERE nspname = %s)
  -- What belongs to something else, a column or an extension, goes with that and not without.
  AND NOT EXISTS (SELECT FROM pg_depend AS other WHERE other.classid = there.classid
    AND other.objid = there.objid AND other.deptype IN ('a', 'i', 'e'))
LIMIT 500
"""


def empty(props: Mapping[str, Any]) -> None:
    """Shut the schema for everybody but its owner, delete all that is in it, and its record."""
    schema = props["schema"]
    with connect(props) as administrator, roles.insisting(props) as run:
        for (guest,) in administrator.execute(_GUESTS, [schema]).fetchall():
            statement = sql.SQL("REVOKE ALL ON SCHEMA {} FROM {} CASCADE")
            run(statement.format(sql.Identifier(schema), sql.SQL(guest)))
        while found := administrator.execute(_CONTENTS, [schema]).fetchall():
            with_all = "; ".join(statement for (statement,) in found)
            run(sql.SQL("BEGIN; {}; COMMIT").format(sql.SQL(with_all)))
        _without_guests(run, schema)
        Record(administrator, props["control"], schema).forget()


def _without_guests(run: roles.Run, schema: str) -> None:
    """End whoever came in before it was shut: it is dropped, in vain, which waits for nobody."""
    run(sql.SQL("BEGIN"))
    run(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))
    run(sql.SQL("ROLLBACK"))
