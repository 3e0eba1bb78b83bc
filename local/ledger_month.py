"""A simulated month of the ledger: what tenants did is known, and whoever counts is killed over and over.

`python -m local.ledger_month` counts as the accounting service does, on the month's clock instead of the
world's; `keep` starts it, kills it with SIGKILL and starts it again until the month is over.
"""

import json
import os
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import IO, Any, cast

import psycopg

from infra.platform import administrator

Run = tuple[datetime, datetime]
Row = dict[str, Any]

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
"""The beginning of every simulated month."""
STEP = timedelta(minutes=5)
"""The time between two counts."""
_ERA = 288
"""Steps after which every gateway is another one: a day's."""
_OUTAGE = (9, 13)
"""The hours of each day in which nobody counts."""
_COUNTERS = ("received_bytes", "sent_bytes")


@dataclass(frozen=True)
class Month:
    """The events of a month, all of them following from the seed."""

    tenants: int
    days: int
    seed: int

    @cached_property
    def names(self) -> list[str]:
        """Return the tenants' ids."""
        return [f"sim{number:04}" for number in range(self.tenants)]

    @cached_property
    def end(self) -> datetime:
        """Return when it is over."""
        return BEGIN + timedelta(days=self.days)

    @cached_property
    def runs(self) -> Mapping[str, Sequence[Run]]:
        """Return when each tenant's machine ran, to the second."""
        return {name: self._runs(random.Random(f"{self.seed} {name}")) for name in self.names}  # noqa: S311

    def _runs(self, chance: random.Random) -> list[Run]:
        found, at = [], BEGIN + timedelta(seconds=chance.randrange(7200))
        while at < self.end:
            ends = at + timedelta(seconds=chance.randrange(900, 6 * 3600))
            # Nobody could know of a run that begins and ends, or of a pause, while nobody counts.
            ends = max(ends, _after_outage(at))
            if ends < self.end:
                found.append((at, ends))
            at = max(ends + timedelta(seconds=chance.randrange(600, 4 * 3600)), _after_outage(ends))
        return found

    def tenant(self, name: str, at: datetime) -> Row:
        """Return what can be seen of a tenant at a time: the run that goes on, or when the last one ended."""
        begun = [run for run in self.runs[name] if run[0] <= at]
        told: list[list[str | None]] = []
        if begun:
            since, ends = begun[-1]
            told = [[since.isoformat(), None]] if at < ends else [[None, ends.isoformat()]]
        size = {"tier": "enterprise", "cpu": 4, "memory_gib": 8, "workspace_gib": 50}
        return {"tenant": name, "since": BEGIN.isoformat(), **size, "runs": told, "object_bytes": 10**9}

    def counts(self, name: str, step: int) -> Row:
        """Return what the gateway of the step's day has counted since it started."""
        first = step // _ERA * _ERA
        shown = {
            counter: self.counted(name, counter, step) - self.counted(name, counter, first - 1)
            for counter in _COUNTERS
        }
        return {"source": f"gateway-{step // _ERA}", "tenant": name, **shown}

    def counted(self, name: str, counter: str, step: int) -> int:
        """Return all that a tenant had received, sent or used by that step."""
        rate = random.Random(f"{self.seed} {name} {counter}").randrange(1, 10**7)  # noqa: S311
        return max(0, rate * step + step // 7 * (rate // 3))

    def expected(self) -> dict[tuple[str, datetime], tuple[int, int]]:
        """Return the seconds that each tenant was there and awake, by hour."""
        found: dict[tuple[str, datetime], list[int]] = defaultdict(lambda: [0, 0])
        for name in self.names:
            for index, spans in enumerate(([(BEGIN, self.end)], self.runs[name])):
                for begins, ends in spans:
                    hour = begins.replace(minute=0, second=0)
                    while hour < ends:
                        until = hour + timedelta(hours=1)
                        found[name, hour][index] += int(
                            (min(ends, until) - max(begins, hour)).total_seconds()
                        )
                        hour = until
        return {key: (there, awake) for key, (there, awake) in found.items()}


def _after_outage(at: datetime) -> datetime:
    """Return when somebody counts again, if nobody does at that time."""
    begins, ends = _OUTAGE
    # The last count before it is a step earlier.
    unseen = (at + STEP).hour >= begins and at.hour <= ends
    return at.replace(hour=ends, minute=10, second=0) if unseen else at


def count(
    connection: "psycopg.Connection[Any]", at: datetime, tenants: Sequence[Row], counts: Sequence[Row]
) -> None:
    """Count, as the accounting service does."""
    connection.execute(
        "SELECT agent_platform.count_usage(%s, %s, %s)", [at, json.dumps(tenants), json.dumps(counts)]
    )


def keep(month: Month, entrance: Mapping[str, Any], *, every: float) -> int:
    """Have the month counted, and kill whoever counts about `every` seconds; return how often that was."""
    kills, chance = 0, random.Random(month.seed)  # noqa: S311
    told = json.dumps({"month": asdict(month), "entrance": dict(entrance)})
    while True:
        process = subprocess.Popen(
            [sys.executable, "-m", "local.ledger_month"], stdin=subprocess.PIPE, env=os.environ
        )
        with cast("IO[bytes]", process.stdin) as stdin:
            stdin.write(told.encode())
        try:
            # It takes a moment to start.
            if process.wait(1 + chance.uniform(0, 2 * every)) == 0:
                return kills
            raise RuntimeError(f"whoever counts ended with status {process.returncode}")
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1


def difference(month: Month, connection: "psycopg.Connection[Any]") -> list[str]:
    """Return what the ledger and the month differ in, a line for each."""
    rows = connection.execute(
        "SELECT tenant, hour, sum(seconds), sum(awake_seconds) FROM agent_platform.ledger GROUP BY 1, 2"
    )
    found = {(name, hour.astimezone(UTC)): (there, awake) for name, hour, there, awake in rows}
    wanted = month.expected()
    wrong = [
        f"{name} {hour:%d. %H:%M}: {found.get((name, hour))} instead of {wanted.get((name, hour))} s"
        for name, hour in sorted(found.keys() | wanted.keys())
        if found.get((name, hour)) != wanted.get((name, hour))
    ]
    totals = connection.execute(
        "SELECT tenant, sum(received_bytes), sum(sent_bytes) "
        "FROM (TABLE agent_platform.ledger UNION ALL SELECT *, now() FROM agent_platform.meter) GROUP BY 1"
    )
    steps = (month.end - BEGIN) // STEP
    for name, *amounts in totals:
        for counter, amount in zip(_COUNTERS, amounts, strict=True):
            if amount != (right := month.counted(name, counter, steps)):
                wrong.append(f"{name}: {amount} instead of {right} {counter}")
    return wrong


def clear(connection: "psycopg.Connection[Any]") -> None:
    """Empty the ledger, as its owner alone can."""
    with connection.transaction():
        connection.execute("ALTER TABLE agent_platform.ledger DISABLE TRIGGER append_only")
        for table in ("ledger", "meter", "metered", "counters"):
            connection.execute(f"TRUNCATE agent_platform.{table}")
        connection.execute("ALTER TABLE agent_platform.ledger ENABLE ALWAYS TRIGGER append_only")


def _go_on(month: Month, connection: "psycopg.Connection[Any]") -> None:
    """Count from where counting has got to until the month is over."""
    row = connection.execute(
        "SELECT max(hour + seconds * interval '1 s') FROM agent_platform.meter"
    ).fetchone()
    at = (row[0] if row and row[0] else None) or BEGIN
    step = (at - BEGIN) // STEP
    while step * STEP <= month.end - BEGIN:
        at = BEGIN + step * STEP
        if not _OUTAGE[0] <= at.hour < _OUTAGE[1]:
            tenants = [month.tenant(name, at) for name in month.names]
            count(connection, at, tenants, [month.counts(name, step) for name in month.names])
        step += 1


def _main() -> None:
    told = json.load(sys.stdin)
    with administrator.connect(told["entrance"]) as connection:
        _go_on(Month(**told["month"]), connection)


if __name__ == "__main__":
    _main()
