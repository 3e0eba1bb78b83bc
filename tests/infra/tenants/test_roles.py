"""The end of roles on a real server, while other tenants do what they can against it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from infra.platform.administrator import connect as enter
from infra.tenants import roles
from tests.infra.tenants.conftest import Connect

Database = dict[str, Any]
Login = Callable[..., psycopg.Connection[Any]]


@pytest.fixture
def login(database: Database, schema: Callable[[str], str], connect: Connect) -> Iterator[Login]:
    """Make a tenant and a login that acts as it, and enter with that."""
    opened: list[psycopg.Connection[Any]] = []
    administrator = connect()

    def login(tenant: str, inside: str = "agents") -> psycopg.Connection[Any]:
        name = f"v-{tenant}"
        if not exists(administrator, f"tenant_{tenant}"):
            schema(tenant)
        if not exists(administrator, name):
            administrator.execute(
                f"CREATE ROLE \"{name}\" LOGIN NOINHERIT PASSWORD 'x' IN ROLE tenant_{tenant};"
                f'GRANT tenants TO "{name}" WITH INHERIT TRUE;'
                f"ALTER ROLE \"{name}\" SET role = 'tenant_{tenant}'"
            )
        # By its own name: other threads log in, too, and the last one opened may be theirs.
        session = enter(database, database=inside, user=name, password="x")
        opened.append(session)
        session.execute(f"SET search_path = tenant_{tenant}")
        return session

    yield login
    for connection in opened:
        connection.close()
    for (name,) in administrator.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'v-%'").fetchall():
        roles.end(database, name)


@pytest.fixture
def elsewhere(database: Database, connect: Connect) -> Iterator[str]:
    """Another database of the server, which everybody can enter."""
    connect().execute("CREATE DATABASE elsewhere")
    with enter(database, database="elsewhere") as inside:
        inside.execute("CREATE SCHEMA open; GRANT ALL ON SCHEMA open TO PUBLIC")
        inside.execute("GRANT CREATE ON DATABASE elsewhere TO PUBLIC")
    yield "elsewhere"
    connect().execute("DROP DATABASE elsewhere WITH (FORCE)")


def exists(administrator: psycopg.Connection[Any], role: str) -> bool:
    found = administrator.execute("SELECT FROM pg_roles WHERE rolname = %s", [role])
    return found.fetchone() is not None


@contextmanager
def looping(*attackers: tuple[Callable[[], psycopg.Connection[Any]], str]) -> Iterator[None]:
    """Have each attacker repeat its statement, with a new session whenever it loses one."""
    over = threading.Event()
    begun = [threading.Event() for _ in attackers]

    def loop(enter: Callable[[], psycopg.Connection[Any]], statement: str, did: threading.Event) -> None:
        session = None
        while not over.is_set():
            try:
                session = session or enter()
                session.execute(statement)
                did.set()
            except psycopg.Error as error:
                if session is None or session.broken or isinstance(error, psycopg.OperationalError):
                    session = None

    threads = [
        threading.Thread(target=loop, args=(*attacker, did), daemon=True)
        for attacker, did in zip(attackers, begun, strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        assert all(did.wait(30) for did in begun)
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


GRANTS = (
    "GRANT SELECT ON bait0 TO tenant_victim",
    "GRANT SELECT ON bait1 TO tenant_victim; REVOKE SELECT ON bait1 FROM tenant_victim",
    "DROP TABLE IF EXISTS made; CREATE TABLE made (); GRANT SELECT ON made TO tenant_victim",
    "DROP POLICY IF EXISTS p ON bait2; CREATE POLICY p ON bait2 TO tenant_victim",
    "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO tenant_victim",
)


def bait(session: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    for number in range(3):
        session.execute(f"CREATE TABLE IF NOT EXISTS bait{number} ()")
    return session


def test_a_role_ends_while_others_grant_to_it_without_pause(
    database: Database, login: Login, connect: Connect
) -> None:
    login("victim")
    bait(login("mallory"))

    with looping(*((lambda: login("mallory"), grant) for grant in GRANTS)):
        roles.end_tenant(database, "tenant_victim")

    assert not exists(connect(), "tenant_victim")
    assert not exists(connect(), "v-victim")


def test_it_ends_while_they_do_so_in_two_databases(
    database: Database, login: Login, connect: Connect, elsewhere: str
) -> None:
    login("victim")
    bait(login("mallory"))

    def inside() -> psycopg.Connection[Any]:
        session = login("mallory", elsewhere)
        session.execute("SET search_path = open")
        return bait(session)

    inside()
    with looping(
        *((lambda: login("mallory"), grant) for grant in GRANTS[:2]),
        *((inside, grant) for grant in GRANTS[:2]),
    ):
        roles.end_tenant(database, "tenant_victim")

    assert not exists(connect(), "tenant_victim")
    limit = "SELECT datconnlimit FROM pg_database WHERE datname = %s"
    assert connect().execute(limit, [elsewhere]).fetchone() == (-1,)


@pytest.mark.parametrize(
    "hold",
    [
        "GRANT SELECT ON bait0 TO tenant_victim",
        "CREATE POLICY p ON bait0 TO tenant_victim",
        "CREATE POLICY p ON bait0 TO tenant_victim; COMMIT; BEGIN; LOCK TABLE bait0 IN ACCESS SHARE MODE",
        "GRANT SELECT ON bait0 TO tenant_victim; COMMIT; BEGIN; GRANT UPDATE ON bait0 TO tenant_victim",
        "GRANT SELECT ON bait0 TO tenant_victim; COMMIT; BEGIN; DROP OWNED BY tenant_mallory",
    ],
)
def test_nobody_who_is_idle_in_a_transaction_is_waited_for(
    database: Database, login: Login, connect: Connect, hold: str
) -> None:
    login("victim")
    mallory = bait(login("mallory"))
    mallory.execute("BEGIN")
    mallory.execute(hold)

    roles.end_tenant(database, "tenant_victim")

    assert not exists(connect(), "tenant_victim")


@pytest.mark.parametrize(
    "leave",
    [
        "SET ROLE NONE; SELECT lo_from_bytea(0, 'hidden')",
        "SELECT lo_from_bytea(0, 'hidden')",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
        'SET ROLE NONE; ALTER ROLE "v-victim" SET role = none',
        "SET ROLE NONE; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO tenant_mallory",
    ],
)
def test_nothing_that_a_login_leaves_in_another_database_keeps_it(
    database: Database, login: Login, connect: Connect, elsewhere: str, leave: str
) -> None:
    schema_of_mallory = login("mallory")
    login("victim", elsewhere).execute(leave)

    roles.end_tenant(database, "tenant_victim")

    assert not exists(connect(), "tenant_victim")
    assert not exists(connect(), "v-victim")
    assert schema_of_mallory.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("handed_on", [False, True])
def test_nothing_that_another_tenant_grants_it_in_another_database_keeps_it(
    database: Database, login: Login, connect: Connect, elsewhere: str, handed_on: bool
) -> None:
    """Handed on, it is nothing that the owner of the object, or an administrator, granted."""
    login("victim")
    mallory = login("mallory", elsewhere)
    mallory.execute(
        "CREATE SCHEMA hers; SET search_path = hers; CREATE TABLE bait (x int, y int); CREATE SEQUENCE s;"
        "CREATE TYPE t AS ENUM (); CREATE FUNCTION f() RETURNS int LANGUAGE sql RETURN 1;"
        "SELECT lo_create(4711)"
    )
    for what in (
        *("USAGE ON SCHEMA hers", "SELECT ON bait", "UPDATE (x) ON bait", "USAGE ON SEQUENCE s"),
        *("EXECUTE ON FUNCTION f()", "USAGE ON TYPE t", "SELECT ON LARGE OBJECT 4711"),
    ):
        if not handed_on:
            mallory.execute(f"GRANT {what} TO tenant_victim")
            continue
        mallory.execute(f'GRANT {what} TO "v-mallory" WITH GRANT OPTION')
        mallory.execute(f"SET ROLE NONE; GRANT {what} TO tenant_victim; SET ROLE tenant_mallory")

    roles.end_tenant(database, "tenant_victim")

    assert not exists(connect(), "tenant_victim")


def test_more_large_objects_than_the_server_has_locks_for_are_no_obstacle(
    database: Database, login: Login, connect: Connect
) -> None:
    victim = login("victim")
    for _ in range(6):
        victim.execute("SELECT count(lo_create(0)) FROM generate_series(1, 5000)")

    roles.end_tenant(database, "tenant_victim")

    assert not exists(connect(), "tenant_victim")


def test_a_role_that_cannot_be_dropped_can_no_longer_log_in_and_the_message_says_where_it_is_held(
    database: Database, login: Login, connect: Connect
) -> None:
    victim = login("victim")
    connect().execute('CREATE DATABASE held OWNER "v-victim"')
    try:
        with pytest.raises(roles.RoleError, match=r"v-victim can no longer log in.*agents: database held"):
            roles.end_tenant(database, "tenant_victim")

        with pytest.raises(psycopg.OperationalError):
            victim.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            login("victim")
    finally:
        connect().execute("DROP DATABASE held")


def test_ending_it_again_changes_nothing(database: Database) -> None:
    roles.end_tenant(database, "tenant_nobody")
