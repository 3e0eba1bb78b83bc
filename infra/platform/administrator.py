"""PostgreSQL as its administrator, for the dynamic resources that do there what its provider cannot."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg


def connect(
    where: Mapping[str, Any],
    *,
    database: str | None = None,
    user: str | None = None,
    password: str | None = None,
    autocommit: bool = True,
) -> "psycopg.Connection[Any]":
    """Enter `where` (host, port, database, user, password, sslMode); or another database there, as somebody.

    Whatever is set in the database, names mean what PostgreSQL means by them: a function of a tenant's that
    an administrator calls by mistake has the administrator's rights.
    """
    import psycopg

    return psycopg.connect(
        host=where["host"],
        port=int(where["port"]),
        dbname=database or where["database"],
        user=user or where["user"],
        password=password or where["password"],
        sslmode=where["sslMode"],
        connect_timeout=15,
        options="-c search_path=pg_catalog",
        autocommit=autocommit,
    )
