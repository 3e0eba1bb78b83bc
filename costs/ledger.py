"""A month of the ledger, read from PostgreSQL (`infra/platform/ledger.sql`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
from psycopg.rows import class_row

from costs.errors import CostsError

_SUMS = """
SELECT tenant::text AS tenant, tier, cpu, memory_gib, workspace_gib,
  sum(seconds) AS seconds, sum(awake_seconds) AS awake_seconds,
  coalesce(sum(object_bytes * seconds), 0) AS object_byte_seconds,
  coalesce(sum(database_bytes * seconds), 0) AS database_byte_seconds,
  coalesce(sum(backup_bytes * seconds), 0) AS backup_byte_seconds,
  sum(received_bytes)::bigint AS received_bytes, sum(sent_bytes)::bigint AS sent_bytes
FROM (
  SELECT * FROM agent_platform.ledger WHERE hour >= %(begins)s AND hour < %(ends)s
  UNION ALL
  SELECT *, now() FROM agent_platform.meter WHERE hour >= %(begins)s AND hour < %(ends)s
) AS hours
GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
"""
_RANGE = """
SELECT min(hour), (SELECT max(until) FROM agent_platform.metered)
FROM (SELECT hour FROM agent_platform.ledger UNION ALL SELECT hour FROM agent_platform.meter) AS hours
"""
_COUNTED = """
SELECT sum(longest) FROM (
  SELECT hour, max(counted) AS longest FROM (
    SELECT hour, tenant, sum(seconds) AS counted
    FROM (TABLE agent_platform.ledger UNION ALL SELECT *, now() FROM agent_platform.meter) AS hours
    WHERE hour >= %(begins)s AND hour < %(ends)s GROUP BY 1, 2
  ) AS tenants GROUP BY 1
) AS hours
"""
"""Of each hour, as much as is counted of whoever was there for longest."""


@dataclass(frozen=True, kw_only=True)
class Month:
    """A month (UTC)."""

    begins: datetime
    ends: datetime

    @classmethod
    def parse(cls, text: str) -> "Month":
        """Read YYYY-MM. Raises CostsError."""
        try:
            begins = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
            ends = begins.replace(year=begins.year + begins.month // 12, month=begins.month % 12 + 1)
        except ValueError:
            raise CostsError(f"{text!r} is no month, so nothing was summed up; write YYYY-MM.") from None
        return cls(begins=begins, ends=ends)

    @property
    def hours(self) -> Decimal:
        """Return how many hours it has."""
        return Decimal(int((self.ends - self.begins).total_seconds())) / 3600


@dataclass(frozen=True, kw_only=True)
class Used:
    """The usage of a tenant in a month while it had one tier and size."""

    tenant: str
    tier: str
    cpu: int
    memory_gib: int
    workspace_gib: int
    seconds: Decimal
    """The time for which it had them."""
    awake_seconds: Decimal
    object_byte_seconds: Decimal
    database_byte_seconds: Decimal
    backup_byte_seconds: Decimal
    received_bytes: int
    sent_bytes: int


@dataclass(frozen=True, kw_only=True)
class Hours:
    """A month as far as the ledger counts it."""

    month: Month
    begins: datetime
    ends: datetime
    seconds: Decimal
    """The counted part of that time; above 0."""
    used: Sequence[Used]


def read(month: Month) -> Hours:
    """Read a month; libpq's variables say where PostgreSQL is.

    Raises:
        CostsError: PostgreSQL does not answer, or counts nothing of that month.
    """
    try:
        with psycopg.connect(connect_timeout=10) as connection:
            # All of it as of one moment.
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            row: Any = connection.execute(_RANGE).fetchone()
            first, last = row
            with connection.cursor(row_factory=class_row(Used)) as cursor:
                cursor.execute(_SUMS, {"begins": month.begins, "ends": month.ends})
                used = cursor.fetchall()
            counted: Any = connection.execute(
                _COUNTED, {"begins": month.begins, "ends": month.ends}
            ).fetchone()
    except psycopg.Error as error:
        raise CostsError(
            f"the ledger cannot be read: {str(error).strip().splitlines()[0]}. Set libpq's variables "
            "(PGHOST, PGUSER, PGPASSWORD, …); docs/runbooks/what-customers-cost.md says to what."
        ) from None
    if first is None:
        raise CostsError(
            "the ledger is empty, so there is nothing to sum up; is the accounting at work? See its log: "
            "`kubectl -n platform-system logs deployment/accounting`."
        )
    if not counted[0]:
        raise CostsError(
            f"the ledger has nothing of {month.begins:%Y-%m}, so there is nothing to sum up; it counts from "
            f"{first.astimezone(UTC):%Y-%m-%d %H:%M} to {last.astimezone(UTC):%Y-%m-%d %H:%M} UTC."
        )
    return Hours(
        month=month,
        begins=max(first, month.begins),
        ends=min(last, month.ends),
        seconds=counted[0],
        used=used,
    )
