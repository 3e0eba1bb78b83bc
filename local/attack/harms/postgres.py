"""PostgreSQL: connections that are kept from others, and logins that are hard to get rid of."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg

from local.attack.harm import Harm, Harmed
from local.attack.harms import postgres_holding
from local.attack.harms.logins import Administrator, Login, end, exists, issued, revoke, superuser, user
from local.attack.postgres import connect
from local.attack.tenants import Tenant

_MANY = 10
"""More logins than a tenant has at once."""
_MOST = 500
"""More connections than the server has."""


@dataclass(frozen=True, kw_only=True)
class _Held:
    """What the attacker holds, by the name of the login, and who is to work meanwhile."""

    connections: Sequence[tuple[str, psycopg.Connection[Any]]]
    victim: Tenant


@contextmanager
def _every_connection(
    count: int, administrator: Administrator, own: Tenant, victim: Tenant
) -> Iterator[_Held]:
    """Open connections with `count` logins until the server gives no more."""
    with issued(own, 0 if administrator else count) as logins:
        own_pairs = [(login.name, login.password) for login in logins]
        pairs = [superuser()] if administrator else own_pairs
        held: list[tuple[str, psycopg.Connection[Any]]] = []
        with ExitStack() as stack:
            for pair in pairs:
                with suppress(psycopg.OperationalError):  # as many as it gives
                    held.extend(
                        (pair[0], stack.enter_context(connect(own.database, *pair))) for _ in range(_MOST)
                    )
            yield _Held(connections=held, victim=victim)


def _work(held: _Held) -> None:
    """Do what the victim's agents do each hour: get a login, and read."""
    with (
        issued(held.victim, 1) as (login,),
        connect(login.database, login.name, login.password) as connection,
    ):
        connection.execute("SELECT FROM agents")


def _work_with_few_logins(held: _Held) -> None:
    """See that the victim can work, and that the server would not have filled with more logins yet."""
    _work(held)
    used = set()
    for name, connection in held.connections:
        with suppress(psycopg.OperationalError):
            connection.execute("SELECT")
            used.add(name)
    if len(used) == _MANY:
        raise RuntimeError(f"{_MANY} logins of one tenant hold {len(held.connections)} connections")


@contextmanager
def _large_object(administrator: Administrator, own: Tenant, _victim: Tenant) -> Iterator[Login]:
    """Own something as the bare login, which the tenant that it acts for does not own."""
    with issued(own, 1) as (login,):
        pair = superuser() if administrator else (login.name, login.password)
        become = f'SET SESSION AUTHORIZATION "{login.name}"' if administrator else "SET ROLE NONE"
        with connect(login.database, *pair) as connection:
            connection.execute(f"{become}; SELECT lo_from_bytea(0, 'attack')".encode())
        try:
            yield login
        finally:
            if exists(login):
                with connect(login.database, *superuser()) as connection:
                    connection.execute(f'DROP OWNED BY "{login.name}"'.encode())


@contextmanager
def _grant(administrator: Administrator, own: Tenant, victim: Tenant) -> Iterator[Login]:
    """Grant something to a login of the victim's, on which PostgreSQL then refuses to drop it."""
    bait = f"{own.schema}.attack_grant"
    with issued(victim, 1) as (login,), user(administrator, own) as attacker:
        with connect(own.database, *attacker) as connection:
            connection.execute(f'CREATE TABLE {bait} (); GRANT SELECT ON {bait} TO "{login.name}"'.encode())
        try:
            yield login
        finally:
            with connect(own.database, *superuser()) as connection:
                connection.execute(f"DROP TABLE {bait}".encode())


def _drop(login: Login) -> None:
    with connect(login.database, *superuser()) as connection:
        connection.execute(f'DROP ROLE "{login.name}"'.encode())


_HARMS = (
    Harm(
        kind="holds up others",
        name="take all connections with one login",
        tried=f"connect {_MOST} times",
        done=partial(_every_connection, 1),
        withstood=_work,
    ),
    Harm(
        kind="holds up others",
        name="take all connections with many logins",
        tried=f"{_MANY} times: GET database/creds/ROLE, and connect {_MOST} times",
        done=partial(_every_connection, _MANY),
        withstood=_work_with_few_logins,
    ),
    Harm(
        kind="cannot be removed",
        name="own a large object as the bare login",
        tried="SET ROLE NONE; SELECT lo_from_bytea(0, 'attack')",
        done=_large_object,
        withstood=revoke,
        unguarded=_drop,
    ),
    Harm(
        kind="cannot be removed",
        name="grant something to another's login",
        tried="CREATE TABLE t (); GRANT SELECT ON t TO LOGIN",
        done=_grant,
        withstood=end,
        unguarded=_drop,
    ),
    *postgres_holding.HARMS,
)


@contextmanager
def entered(tenants: Sequence[Tenant]) -> Iterator[Harmed[Administrator]]:
    """Have every tenant do harm with logins issued for it; each undoes its own."""
    yield Harmed(
        server="PostgreSQL", sessions=dict.fromkeys(tenants, False), administrator=True, harms=_HARMS
    )
