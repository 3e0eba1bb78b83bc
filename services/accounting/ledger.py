"""The ledger in PostgreSQL: what is told to it, and what is read of it (`infra/platform/ledger.sql`)."""

import json
import os
from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from services.activity.store import Usage

_TIMEOUT = "40s"

_AT_ONCE = timedelta(days=1)

Row = dict[str, Any]

_COUNT = "SELECT agent_platform.count_usage(%s, %s, %s)"
_COUNTED = "SELECT max(until) FROM agent_platform.metered"

_AWAKE = """
SELECT to_char(hour AT TIME ZONE 'UTC', 'YYYY-MM'), tenant, extract(day FROM hour AT TIME ZONE 'UTC')::int,
  sum(awake_seconds)::float8
FROM (
  SELECT tenant, hour, awake_seconds FROM agent_platform.ledger WHERE hour >= %(since)s
  UNION ALL SELECT tenant, hour, awake_seconds FROM agent_platform.meter WHERE hour >= %(since)s
) AS hours
WHERE awake_seconds > 0 GROUP BY 1, 2, 3
"""
_LAST = "SELECT tenant, extract(epoch FROM last_awake)::float8 FROM agent_platform.metered"


class Ledger:
    """The ledger; libpq's variables say where it is, `PGPASSWORD_FILE` names the password's file.

    Every method raises `psycopg.Error` or `OSError`.
    """

    async def count(self, at: datetime, tenants: Sequence[Row], counts: Sequence[Row]) -> None:
        """Count what tenants have used until `at`, a day at a time if nobody has counted for longer."""
        told = json.dumps(tenants)
        async with await _connect() as connection:
            row = await (await connection.execute(_COUNTED)).fetchone()
            counted = row[0] if row and row[0] else at
            while at - counted > _AT_ONCE:
                counted += _AT_ONCE
                await connection.execute(_COUNT, [counted, told, "[]"])
                await connection.commit()
            await connection.execute(_COUNT, [at, told, json.dumps(counts)])

    async def usage(
        self, since: datetime, until: datetime, tenants: Collection[str]
    ) -> dict[str, dict[str, Usage]]:
        """Return how long machines and pods of `tenants` ran on each day since then, by month (YYYY-MM)."""
        days: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
        async with await _connect() as connection:
            found = await (await connection.execute(_AWAKE, {"since": since})).fetchall()
            last = dict(await (await connection.execute(_LAST)).fetchall())
        for month, tenant, day, seconds in found:
            days[month, tenant][day] = seconds
        return {
            month: {
                tenant: Usage(awake_seconds=days[month, tenant], last_awake=last.get(tenant))
                for tenant in tenants
            }
            for month in sorted({f"{since:%Y-%m}", f"{until:%Y-%m}"})
        }


async def _connect() -> "psycopg.AsyncConnection[Any]":
    password = Path(os.environ["PGPASSWORD_FILE"]).read_text(encoding="utf-8").strip()
    options = f"-c statement_timeout={_TIMEOUT}"
    return await psycopg.AsyncConnection.connect(password=password, connect_timeout=5, options=options)
