"""The cost to others of one tenant at its limit of connections, against the same run without it.

The tenant holds every connection that its logins give it, each idle in a transaction, and knocks for more.
Its logins are made by the statements that Vault runs. Another tenant comes in, writes, reads and leaves.
"""

import json
import re
import secrets as random
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypedDict

import psycopg
from rich.console import Console

from infra.tenants.secrets import creation_statements
from infra.tenants.tiers import TIERS
from local import bench_cluster, consoles, credentials, ports, supervisor
from local.servers import postgres

_ROUNDS = 6
_SAMPLES = 150
_KNOCKS = 20
"""Refused connections a second."""
_LOGINS = TIERS["private-cloud"].logins
"""The largest that a tier has."""


class Measured(TypedDict):
    """Each round's 95th percentile in ms, without and beside the other tenant, and what that one held."""

    alone: list[float]
    beside: list[float]
    held: list[int]


def measure() -> Measured:
    """Measure; what is there already stays as it is."""
    found: Measured = bench_cluster.measure(__name__)
    return found


def _measure(console: Console) -> Measured:
    found: Measured = {"alone": [], "beside": [], "held": []}
    with _connect(postgres.ADMIN, credentials.secret("postgres")) as administrator:
        for tenant in ("victim", "greedy"):
            administrator.execute(f"CREATE ROLE tenant_{tenant}")
            administrator.execute(f"CREATE SCHEMA tenant_{tenant} AUTHORIZATION tenant_{tenant}")
        administrator.execute("CREATE ROLE vault LOGIN CREATEROLE NOINHERIT PASSWORD 'issuer'")
        administrator.execute("GRANT tenant_victim, tenant_greedy TO vault WITH ADMIN OPTION")
        user, password = _login("victim")
        with _connect(user, password) as connection:
            connection.execute("CREATE TABLE notes (text text)")
        _percentile(user, password)  # a warm-up
        for turn in range(_ROUNDS):
            found["alone"].append(_percentile(user, password))
            with _at_its_limit() as held:
                found["held"].append(len(held))
                found["beside"].append(_percentile(user, password))
            console.print(
                f"round {turn + 1}: p95 alone {found['alone'][-1]:.1f} ms, beside {found['held'][-1]} "
                f"connections of another {found['beside'][-1]:.1f} ms"
            )
    return found


@contextmanager
def _at_its_limit() -> Iterator[list[psycopg.Connection[Any]]]:
    """Have the greedy tenant hold all that twice its number of logins give it, and knock for more."""
    held: list[psycopg.Connection[Any]] = []
    login = ("", "")
    for _ in range(2 * _LOGINS.at_once):
        login = _login("greedy")
        for _ in range(_LOGINS.connections + 1):
            with suppress(psycopg.OperationalError):
                held.append(_connect(*login))
    alive = [each for each in held if _begins(each)]
    done = threading.Event()

    def knock() -> None:
        while not done.wait(1 / _KNOCKS):
            with suppress(psycopg.OperationalError):
                _connect(*login).close()

    knocking = threading.Thread(target=knock)
    knocking.start()
    try:
        yield alive
    finally:
        done.set()
        knocking.join()
        for each in held:
            each.close()


def _begins(connection: psycopg.Connection[Any]) -> bool:
    """Leave it idle in a transaction; false if its login was retired."""
    try:
        connection.execute("BEGIN")
        connection.execute("SELECT txid_current()")
    except psycopg.OperationalError:
        return False
    return True


def _percentile(user: str, password: str) -> float:
    """Return the 95th percentile of what a short piece of work takes, in ms."""
    taken = []
    for _ in range(_SAMPLES):
        began = time.perf_counter()
        with _connect(user, password) as connection:
            connection.execute("INSERT INTO notes VALUES ('x')")
            connection.execute("SELECT count(*) FROM notes").fetchone()
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.quantiles(taken, n=20)[18]


def _login(tenant: str) -> tuple[str, str]:
    """Make a login as Vault does."""
    name, password = f"v-{tenant}-{random.token_hex(8)}", random.token_urlsafe(16)
    values = {"name": name, "password": password, "expiration": "2100-01-01 00:00:00+00"}
    with _connect("vault", "issuer") as vault, vault.transaction():
        for statement in creation_statements(f"tenant_{tenant}", _LOGINS):
            vault.execute(re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], statement).encode())
    return name, password


def _connect(user: str, password: str) -> psycopg.Connection[Any]:
    return psycopg.connect(
        host="127.0.0.1",
        port=ports.port("postgres"),
        dbname=postgres.DATABASE,
        user=user,
        password=password,
        sslmode="disable",
        autocommit=True,
    )


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
