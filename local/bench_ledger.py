"""The ledger over a simulated month of 200 tenants in which whoever counts is killed all the time.

Its error is what it differs in from what happened. Its cost is the time of a call, of which there is one a
minute, against an upsert of as many rows, which is the least that it could be.
"""

import json
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypedDict

import psycopg
from rich.console import Console

from infra.platform import administrator
from infra.platform.control_schema import ControlSchemaProvider
from local import bench_cluster, consoles, credentials, ledger_month, ports, supervisor
from local.ledger_month import Month
from local.servers import postgres

_MONTH = Month(tenants=200, days=31, seed=11)
_EVERY = 5.0
"""Seconds between two kills, on average."""
_SAMPLES = 30
_ROLE = "accounting"
_UPSERT = """
INSERT INTO public.floor AS kept SELECT tenant, now(), 1 FROM jsonb_to_recordset(%s) AS each(tenant name)
ON CONFLICT (tenant) DO UPDATE SET at = excluded.at, amount = kept.amount + excluded.amount
"""


class Measured(TypedDict):
    """The result of a counted month."""

    rows: int
    kills: int
    differences: list[str]
    seconds: float
    """The time that it took to count the month."""
    call_ms: list[float]
    upsert_ms: list[float]


def measure() -> Measured:
    """Measure on a PostgreSQL of its own."""
    found: Measured = bench_cluster.measure(__name__)
    return found


def _measure(console: Console) -> Measured:
    entrance: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": ports.port("postgres"),
        "database": postgres.DATABASE,
        "user": postgres.ADMIN,
        "password": credentials.secret("postgres"),
        "sslMode": "disable",
    }
    with administrator.connect(entrance) as administration:
        administration.execute("CREATE ROLE accounting LOGIN PASSWORD 'accounting'")
        administration.execute("CREATE ROLE vault")
        administration.execute("CREATE ROLE tenants")
        administration.execute("GRANT tenants TO vault WITH ADMIN OPTION")
    ControlSchemaProvider().create({**entrance, "issuer": "vault", "members": "tenants", "accountant": _ROLE})
    begun = time.monotonic()
    with console.status("200 tenants, 31 days, whoever counts is killed every few seconds"):
        kills = ledger_month.keep(_MONTH, {**entrance, "user": _ROLE, "password": _ROLE}, every=_EVERY)
    seconds = time.monotonic() - begun
    with administrator.connect(entrance) as connection:
        row: Any = connection.execute("SELECT count(*) FROM agent_platform.ledger").fetchone()
        return {
            "rows": row[0],
            "kills": kills,
            "differences": ledger_month.difference(_MONTH, connection),
            "seconds": seconds,
            "call_ms": _calls(connection),
            "upsert_ms": _upserts(connection),
        }


def _calls(connection: "psycopg.Connection[Any]") -> list[float]:
    """Return what each of some calls takes, a minute apart, after the month."""
    at = _MONTH.end
    step = (_MONTH.end - ledger_month.BEGIN) // ledger_month.STEP
    tenants = [{**_MONTH.tenant(name, at), "runs": [[None, None]]} for name in _MONTH.names]
    counts = [_MONTH.counts(name, step) for name in _MONTH.names]
    # A month within minutes leaves more dead rows than a server has in its life.
    for table in ("meter", "metered", "counters"):
        connection.execute(f"VACUUM (FULL, ANALYZE) agent_platform.{table}")
    ledger_month.count(connection, at, tenants, counts)
    return _timed(lambda turn: ledger_month.count(connection, at + timedelta(minutes=turn), tenants, counts))


def _upserts(connection: "psycopg.Connection[Any]") -> list[float]:
    """Return what each of as many upserts takes."""
    connection.execute("CREATE TABLE public.floor (tenant name PRIMARY KEY, at timestamptz, amount bigint)")
    tenants = json.dumps([{"tenant": name} for name in _MONTH.names])
    return _timed(lambda _: connection.execute(_UPSERT, [tenants]))


def _timed(work: Callable[[int], object]) -> list[float]:
    taken = []
    for turn in range(1, _SAMPLES + 1):
        began = time.perf_counter()
        work(turn)
        taken.append(1000 * (time.perf_counter() - began))
    return taken


def _main() -> None:
    console = consoles.console(stderr=True)
    postgres.prepare()
    for service in postgres.services():
        supervisor.start(service, console)
    try:
        postgres.bootstrap()
        sys.stdout.write(json.dumps(_measure(console)))
    finally:
        for service in postgres.services():
            supervisor.stop(service.name)


if __name__ == "__main__":
    _main()
