"""The figures of tenants' schemas in PostgreSQL, by the one function that the role `monitoring` may call."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psycopg
from prometheus_client.core import Metric
from psycopg.rows import class_row
from pydantic import BaseModel

from services.exporter.figures import gauge

_TIMEOUT = "10s"


class _Row(BaseModel):
    """A row of `agent_platform.figures()`."""

    tenant: str
    used: int
    bytes: int
    connections: int
    rows: int
    longest_seconds: float
    slow: int
    waiting: int


_PER_TENANT = (
    ("agent_platform_database_bytes", "What the tenant has in PostgreSQL, in bytes.", "used"),
    ("agent_platform_database_limit_bytes", "What the tenant may have there, in bytes.", "bytes"),
    ("agent_platform_database_connections", "The tenant's connections.", "connections"),
    ("agent_platform_database_rows", "Rows in the tenant's schema, by PostgreSQL's estimate.", "rows"),
    (
        "agent_platform_database_longest_statement_seconds",
        "How long the tenant's longest statement has run by now.",
        "longest_seconds",
    ),
    (
        "agent_platform_database_slow_statements",
        "The tenant's statements that have run for more than five seconds by now.",
        "slow",
    ),
    ("agent_platform_database_lock_waits", "The tenant's sessions that wait for a lock.", "waiting"),
)


async def figures() -> Iterable[Metric]:
    """Ask PostgreSQL; libpq's variables say where it is, `PGPASSWORD_FILE` names the password's file.

    Raises `psycopg.Error` or `OSError`.
    """
    password = Path(os.environ["PGPASSWORD_FILE"]).read_text(encoding="utf-8").strip()
    async with await psycopg.AsyncConnection.connect(password=password, connect_timeout=5) as connection:
        await connection.execute(f"SET statement_timeout = '{_TIMEOUT}'")
        async with connection.cursor(row_factory=class_row(_Row)) as cursor:
            await cursor.execute("SELECT * FROM agent_platform.figures()")
            rows = await cursor.fetchall()
        server: Any = await (
            await connection.execute(
                "SELECT sum(numbackends), current_setting('max_connections')::int FROM pg_stat_database"
            )
        ).fetchone()
    return [
        *(
            gauge(
                name,
                text,
                ["tenant"],
                (((row.tenant.removeprefix("tenant_"),), getattr(row, field)) for row in rows),
            )
            for name, text, field in _PER_TENANT
        ),
        gauge(
            "agent_platform_database_connections_used",
            "Connections to the whole server.",
            [],
            [((), server[0])],
        ),
        gauge(
            "agent_platform_database_connections_limit",
            "Connections that the whole server takes.",
            [],
            [((), server[1])],
        ),
    ]
