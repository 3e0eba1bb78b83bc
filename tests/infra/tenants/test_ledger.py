"""The ledger: time and bytes are each counted once, for good, and by nobody but the platform."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import errors
from psycopg.rows import dict_row

from costs import ledger
from costs.errors import CostsError
from costs.ledger import Month
from local import ledger_month
from services.accounting.ledger import Ledger
from services.activity.store import Usage
from tests.infra.tenants.conftest import Connect

NINE = datetime(2026, 1, 5, 9, tzinfo=UTC)
SINCE = datetime(2026, 1, 1, tzinfo=UTC)

Row = dict[str, Any]


def after(minutes: float) -> datetime:
    return NINE + timedelta(minutes=minutes)


class Books:
    """The ledger as the accounting service sees it; minutes are those since nine."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection

    def count(self, minutes: float, *tenants: Row, counts: list[Row] | None = None) -> None:
        ledger_month.count(self.connection, after(minutes), list(tenants), counts or [])

    def rows(self, table: str = "ledger") -> list[Row]:
        with self.connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(
                f"SELECT * FROM agent_platform.{table} ORDER BY hour, tenant, cpu"
            ).fetchall()

    def seconds(self) -> dict[int, tuple[int, int]]:
        """Seconds of being there and of being awake, by the hour since nine, over or not."""
        found: dict[int, tuple[int, int]] = {}
        for row in self.rows() + self.rows("meter"):
            hour = int((row["hour"] - NINE).total_seconds() // 3600)
            there, awake = found.get(hour, (0, 0))
            found[hour] = (there + row["seconds"], awake + row["awake_seconds"])
        return found


def tenant(*runs: tuple[float | None, float | None], since: datetime = SINCE, **fields: Any) -> Row:
    """Acme, whose machine ran from one minute after nine to another."""
    told = [[None if at is None else after(at).isoformat() for at in run] for run in runs]
    row = {"tenant": "acme", "since": since.isoformat(), "tier": "enterprise", "cpu": 4, "memory_gib": 8}
    return {**row, "workspace_gib": 50, "runs": told, **fields}


def counter(sent: int, source: str = "gateway-1", **fields: int) -> Row:
    return {"source": source, "tenant": "acme", "received_bytes": 0, "sent_bytes": sent, **fields}


def enter(database: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have libpq's variables lead to the database as the service."""
    for name, value in {
        "PGHOST": database["host"],
        "PGPORT": str(int(database["port"])),
        "PGDATABASE": database["database"],
        "PGUSER": "accounting",
        "PGPASSWORD": "accountant",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def books(database: dict[str, Any], connect: Connect) -> Iterator[Books]:
    """A ledger with nothing in it, which counts from nine on."""
    yield Books(connect("accounting", "accountant"))
    ledger_month.clear(connect())


def test_time_is_counted_from_the_first_call_on(books: Books) -> None:
    books.count(0, tenant((-600, None)))
    assert books.seconds() == {}
    books.count(10, tenant((-600, None)))
    assert books.seconds() == {0: (600, 600)}


def test_a_tenant_is_counted_from_when_it_was_made(books: Books) -> None:
    books.count(0, tenant())
    bluebird = tenant(since=after(5), tenant="bluebird")
    books.count(8, tenant(), bluebird)
    assert {row["tenant"]: row["seconds"] for row in books.rows("meter")} == {"acme": 480, "bluebird": 180}


def test_a_run_that_ended_between_two_calls_counts_to_its_end(books: Books) -> None:
    books.count(0, tenant((-10, None)))
    books.count(10, tenant((None, 7)))
    books.count(20, tenant((None, 7)))
    assert books.seconds() == {0: (1200, 420)}


def test_a_run_that_nobody_counted_from_its_beginning_is_not_guessed(books: Books) -> None:
    """It was asleep when time was last counted: when it woke up since then is not known."""
    books.count(0, tenant())
    books.count(10, tenant((None, 7)))
    assert books.seconds() == {0: (600, 0)}


def test_runs_that_are_told_twice_count_once(books: Books) -> None:
    books.count(0, tenant())
    books.count(10, tenant((1, 4), (None, 4), (3, 5), (9, None)))
    assert books.seconds() == {0: (600, 5 * 60)}


def test_an_hour_that_was_missed_is_made_up(books: Books) -> None:
    books.count(0, tenant((-10, None), object_bytes=5))
    books.count(210, tenant((-10, None)))
    assert books.seconds() == {0: (3600, 3600), 1: (3600, 3600), 2: (3600, 3600), 3: (1800, 1800)}
    assert [row["hour"] for row in books.rows()] == [after(0), after(60), after(120)]
    assert {row["object_bytes"] for row in books.rows() + books.rows("meter")} == {5}


def test_a_call_that_is_repeated_changes_nothing(books: Books) -> None:
    for _ in range(2):
        books.count(0, tenant((-10, None)), counts=[counter(100)])
    for _ in range(3):
        books.count(61, tenant((-10, None)), counts=[counter(150)])
    assert books.seconds() == {0: (3600, 3600), 1: (60, 60)}
    assert [row["sent_bytes"] for row in books.rows() + books.rows("meter")] == [0, 50]


def test_a_clock_that_jumps_back_counts_nothing_twice(books: Books) -> None:
    books.count(0, tenant((-10, None)))
    books.count(30, tenant((-10, None)))
    books.count(20, tenant((-10, None)))
    books.count(40, tenant((-10, None)))
    assert books.seconds() == {0: (2400, 2400)}


def test_a_clock_that_is_ahead_is_refused(books: Books) -> None:
    with pytest.raises(errors.RaiseException, match=r"it is not .* yet"):
        ledger_month.count(books.connection, datetime.now(UTC) + timedelta(hours=1), [tenant()], [])


def test_a_counter_counts_what_it_has_grown_by(books: Books) -> None:
    books.count(0, tenant(), counts=[counter(1000)])
    books.count(5, tenant(), counts=[counter(1700, received_bytes=3), counter(40, "gateway-2")])
    books.count(9, tenant(), counts=[counter(1700, received_bytes=4), counter(90, "gateway-2")])
    (row,) = books.rows("meter")
    assert (row["sent_bytes"], row["received_bytes"]) == (700 + 90, 4)


def test_a_gateway_that_starts_anew_counts_from_nothing(books: Books) -> None:
    books.count(0, tenant(), counts=[counter(1000)])
    books.count(5, tenant(), counts=[counter(70, "gateway-1 again")])
    (row,) = books.rows("meter")
    assert row["sent_bytes"] == 70


def test_a_size_that_changes_within_an_hour_has_a_row_for_each(books: Books) -> None:
    books.count(0, tenant((-5, None)))
    books.count(20, tenant((-5, None)))
    books.count(60, tenant((-5, None), cpu=8))
    rows = [(row["cpu"], row["seconds"], row["awake_seconds"]) for row in books.rows("meter") + books.rows()]
    assert rows == [(4, 1200, 1200), (8, 2400, 2400)]


def test_what_is_found_out_late_is_a_row_of_its_own(books: Books) -> None:
    """Bluebird cannot be read for two hours; what it had then is added, and nothing is changed."""
    bluebird = tenant((-5, None), tenant="bluebird")
    books.count(0, tenant(), bluebird)
    books.count(30, tenant(), bluebird)
    books.count(90, tenant())
    before = books.rows()
    books.count(130, tenant(), bluebird)
    of_bluebird = [row for row in books.rows() if row["tenant"] == "bluebird"]
    assert [(row["hour"], row["seconds"]) for row in of_bluebird] == [
        (after(0), 1800),
        (after(0), 1800),
        (after(60), 3600),
    ]
    assert [row for row in books.rows() if row in before] == before


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE agent_platform.ledger SET seconds = 0",
        "DELETE FROM agent_platform.ledger",
        "TRUNCATE agent_platform.ledger",
    ],
)
def test_not_even_an_administrator_changes_a_row(books: Books, connect: Connect, change: str) -> None:
    books.count(0, tenant())
    books.count(61, tenant())
    with pytest.raises(errors.RaiseException, match="the ledger is never changed"):
        connect().execute(change)
    assert len(books.rows()) == 1


def test_an_older_call_does_not_put_a_machine_to_sleep(books: Books) -> None:
    books.count(0, tenant((-5, None)))
    books.count(30, tenant((-5, None)))
    books.count(20, tenant((None, 15)))
    books.count(40, tenant((None, 35)))
    assert books.seconds() == {0: (2400, 2100)}


def test_no_session_calls_itself_a_replica_to_change_a_row(books: Books, connect: Connect) -> None:
    books.count(0, tenant())
    books.count(61, tenant())
    replica = connect()
    replica.execute("SET session_replication_role = replica")
    with pytest.raises(errors.RaiseException, match="the ledger is never changed"):
        replica.execute("DELETE FROM agent_platform.ledger")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO agent_platform.ledger SELECT *, now() FROM agent_platform.meter",
        "DELETE FROM agent_platform.meter",
        "UPDATE agent_platform.metered SET until = now()",
        "SELECT * FROM agent_platform.limits",
        "SELECT agent_platform.figures()",
    ],
)
def test_the_service_may_call_one_function_and_read(books: Books, statement: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        books.connection.execute(statement)


@pytest.mark.parametrize("table", ["ledger", "meter", "metered", "counters"])
def test_no_tenant_sees_any_of_it(acme_login: str, connect: Connect, table: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        connect(acme_login, "x").execute(f"SELECT * FROM agent_platform.{table}")


def test_no_tenant_counts(acme_login: str, connect: Connect) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        connect(acme_login, "x").execute("SELECT agent_platform.count_usage(now(), '[]', '[]')")


def test_the_service_reads_the_time_awake_by_month_and_day(
    books: Books, database: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text("accountant\n")
    enter(database, monkeypatch)
    monkeypatch.setenv("PGPASSWORD_FILE", str(tmp_path / "password"))
    begins = datetime(2026, 1, 31, 22, tzinfo=UTC)
    awake = {**tenant(), "runs": [[begins.isoformat(), None]]}

    async def counted() -> dict[str, dict[str, Usage]]:
        service = Ledger()
        for at in (begins, begins + timedelta(hours=3)):
            await service.count(at, [awake], [])
        return await service.usage(begins, begins + timedelta(hours=3), ["acme", "asleep"])

    last = (begins + timedelta(hours=3)).timestamp()
    assert asyncio.run(counted()) == {
        "2026-01": {
            "acme": Usage(awake_seconds={31: 7200}, last_awake=last),
            "asleep": Usage(awake_seconds={}),
        },
        "2026-02": {
            "acme": Usage(awake_seconds={1: 3600}, last_awake=last),
            "asleep": Usage(awake_seconds={}),
        },
    }


def test_a_call_that_is_killed_counts_all_or_nothing(books: Books, connect: Connect) -> None:
    books.count(0, tenant((-10, None)))
    with books.connection.transaction(force_rollback=True):
        books.count(90, tenant((-10, None)), counts=[counter(10)])
    assert (books.rows(), books.seconds()) == ([], {})


def test_two_services_at_once_count_once(books: Books, connect: Connect) -> None:
    books.count(0, tenant((-10, None)))
    other = Books(connect("accounting", "accountant"))
    with ThreadPoolExecutor(1) as pool:
        with books.connection.transaction():
            books.count(10, tenant((-10, None)))
            second = pool.submit(other.count, 10, tenant((-10, None)))
            with pytest.raises(TimeoutError):
                second.result(0.5)
        second.result(10)
    assert books.seconds() == {0: (600, 600)}


def test_days_of_kills_and_outages_to_the_second_and_the_byte(
    books: Books, database: dict[str, Any], connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole month of 200 tenants is `make bench NAME=ledger`."""
    month = ledger_month.Month(tenants=30, days=5, seed=7)
    kills = ledger_month.keep(month, {**database, "user": "accounting", "password": "accountant"}, every=0.2)
    assert kills >= 1
    assert ledger_month.difference(month, connect()) == []
    enter(database, monkeypatch)
    read = ledger.read(Month.parse("2026-01"))
    assert read.seconds == 5 * 86_400
    assert len(read.used) == 30
    awake = sum(awake for _, awake in month.expected().values())
    assert sum(used.awake_seconds for used in read.used) == awake
    with pytest.raises(CostsError, match=r"nothing of 2026-03, .* from 2026-01-01 00:00 to 2026-01-06 00:00"):
        ledger.read(Month.parse("2026-03"))
