"""The stand-in for the postgresql plugin, on a real server; it answers as the official one was seen to."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import LiteralString

import psycopg
import pytest
from rich.console import Console

from local import supervisor
from local.providers.postgresql.plugin import PostgreSQL
from local.providers.values import UNKNOWN, Properties, Secret
from local.servers import postgres
from tests.local.providers.driver import Driver, RefusedError

ROLE = "postgresql:index/role:Role"
SCHEMA = "postgresql:index/schema:Schema"
GRANT = "postgresql:index/grant:Grant"
DEFAULTS = "postgresql:index/defaultPrivileges:DefaultPrivileges"
DATABASE = "postgresql:index/database:Database"
MEMBER = "postgresql:index/grantRole:GrantRole"


def configuration() -> Properties:
    exports = postgres.environment()
    return {
        "host": exports["PGHOST"],
        "port": exports["PGPORT"],
        "username": exports["PGUSER"],
        "password": Secret(exports["PGPASSWORD"]),
        "database": exports["PGDATABASE"],
        "sslmode": "disable",
    }


@pytest.fixture(scope="module", autouse=True)
def _server(console: Console) -> Iterator[None]:
    postgres.prepare()
    for service in postgres.services():
        supervisor.start(service, console)
    postgres.bootstrap()
    yield
    for service in postgres.services():
        supervisor.stop(service.name)


@pytest.fixture
def driver() -> Iterator[Driver]:
    driver = Driver(PostgreSQL(), configuration())
    yield driver
    driver.close()
    own = "SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND rolname <> 'postgres'"
    for (role,) in ask(own):
        ask(f'DROP OWNED BY "{role}" CASCADE')
    for (role,) in ask(own):
        ask(f'DROP ROLE "{role}"')


def ask(statement: LiteralString) -> list[tuple[object, ...]]:
    exports = postgres.environment()
    with psycopg.connect(
        host=exports["PGHOST"],
        port=int(exports["PGPORT"]),
        user=exports["PGUSER"],
        password=exports["PGPASSWORD"],
        dbname=exports["PGDATABASE"],
        autocommit=True,
    ) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def test_a_role_lives_as_the_program_says(driver: Driver) -> None:
    inputs = {
        "name": "issuer",
        "login": True,
        "password": "first",
        "connectionLimit": 10,
        "searchPaths": ["a", "b c"],
    }
    role = driver.create(ROLE, "issuer", inputs)
    assert role.id == "issuer"
    assert role.outputs["password"] == Secret("first")
    assert ask(
        "SELECT rolcanlogin, rolconnlimit, rolcreaterole, rolinherit FROM pg_roles WHERE rolname = 'issuer'"
    ) == [(True, 10, False, True)]
    assert driver.changed(role, inputs) == []
    assert driver.read(role) == role

    role = driver.update(role, {"name": "renamed", "login": True, "password": "second", "createRole": True})
    assert ask(
        "SELECT rolname, rolconnlimit, rolcreaterole FROM pg_roles"
        " WHERE rolcanlogin AND rolname <> 'postgres'"
    ) == [("renamed", -1, True)]
    assert role.outputs["searchPaths"] == []

    driver.delete(role)
    assert driver.read(role) is None


def test_a_preview_tells_what_is_known(driver: Driver) -> None:
    role = driver.preview(ROLE, "acme-role", {"password": UNKNOWN})
    assert role["name"] == "acme-role-0001020"
    assert role["password"] == Secret(UNKNOWN)
    assert role["inherit"] is True
    schema = driver.preview(SCHEMA, "acme", {"name": "acme"})
    assert (schema["name"], schema["database"], schema["owner"]) == ("acme", UNKNOWN, UNKNOWN)


def test_a_made_up_name_stays(driver: Driver) -> None:
    first, _ = driver.check(ROLE, "acme", {})
    again, _ = driver.check(ROLE, "acme", {}, first)
    assert again["name"] == first["name"]
    assert "name" in again["__defaults"]


@pytest.mark.parametrize(
    ("token", "inputs", "reason"),
    [
        (ROLE, {"nam": "x"}, "Invalid or unknown key. Examine values at 'x.nam'."),
        (ROLE, {"connectionLimit": -2}, "expected connection_limit to be at least (-1), got -2."),
        (ROLE, {"passwordWo": "x"}, "the stand-in does not support this property"),
        (GRANT, {"role": "r", "database": "d", "privileges": []}, 'The argument "object_type" is required'),
        (
            GRANT,
            {"role": "r", "database": "d", "privileges": [], "objectType": "tabel"},
            'expected object_type to be one of ["database" "function"',
        ),
    ],
)
def test_it_refuses_wrong_inputs(driver: Driver, token: str, inputs: Properties, reason: str) -> None:
    _, failures = driver.check(token, "x", inputs)
    assert len(failures) == 1
    assert reason in failures[0]


def test_a_schema_goes_with_what_is_in_it_only_when_told(driver: Driver) -> None:
    driver.create(ROLE, "owner", {"name": "acme"})
    inputs = {"name": "acme", "owner": "acme", "dropCascade": True}
    schema = driver.create(SCHEMA, "schema", inputs)
    assert schema.id == "agents.acme"
    assert driver.read(schema) == schema
    ask("CREATE TABLE acme.kept ()")

    careful = driver.update(schema, {**inputs, "dropCascade": False})
    with pytest.raises(RefusedError, match="error deleting schema: pq: cannot drop schema acme because"):
        driver.delete(careful)
    driver.delete(schema)
    assert driver.read(schema) is None
    driver.delete(schema)


def test_what_the_server_chose_is_no_change(driver: Driver) -> None:
    schema = driver.create(SCHEMA, "schema", {"name": "plain"})
    assert schema.outputs["owner"] == "postgres"
    assert driver.changed(schema, {"name": "plain"}) == []
    elsewhere = driver.changes(schema, {"name": "plain", "database": "postgres"})
    assert list(elsewhere.replaces) == ["database"]
    assert elsewhere.deleteBeforeReplace
    driver.delete(schema)


def test_a_role_gives_up_what_it_owns_before_it_goes(driver: Driver) -> None:
    role = driver.create(ROLE, "role", {"name": "acme"})
    ask("CREATE SCHEMA left_over AUTHORIZATION acme; GRANT CONNECT ON DATABASE agents TO acme")
    driver.delete(role)
    assert ask("SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'left_over'") == [
        ("postgres",)
    ]
    ask("DROP SCHEMA left_over")


def test_a_role_can_be_left_alone(driver: Driver) -> None:
    role = driver.create(ROLE, "role", {"name": "acme", "skipDropRole": True, "skipReassignOwned": True})
    driver.delete(role)
    assert ask("SELECT 1 FROM pg_roles WHERE rolname = 'acme'")


def test_a_grant_is_exactly_what_is_asked_for(driver: Driver) -> None:
    driver.create(ROLE, "role", {"name": "acme"})
    schema = driver.create(SCHEMA, "schema", {"name": "shop", "dropCascade": True})
    ask("CREATE TABLE shop.goods (id int); CREATE TABLE shop.staff (id int)")
    inputs = {
        "role": "acme",
        "database": "agents",
        "schema": "shop",
        "objectType": "table",
        "privileges": ["SELECT", "INSERT"],
    }
    grant = driver.create(GRANT, "grant", inputs)
    assert grant.id == "acme_agents_shop_table"
    assert driver.changed(grant, {**inputs, "privileges": ["INSERT", "SELECT"]}) == []
    assert driver.read(grant) == grant

    grant = driver.update(grant, {**inputs, "privileges": ["SELECT"]})
    assert ask(
        "SELECT bool_and(has_table_privilege('acme', oid, 'SELECT')),"
        " bool_or(has_table_privilege('acme', oid, 'INSERT'))"
        " FROM pg_class WHERE relnamespace = 'shop'::regnamespace"
    ) == [(True, False)]

    ask("REVOKE SELECT ON shop.staff FROM acme")
    drifted = driver.read(grant)
    assert drifted is not None
    assert drifted.outputs["privileges"] == []
    assert driver.changed(drifted, {**inputs, "privileges": ["SELECT"]}) == ["privileges[0]"]
    driver.delete(grant)
    driver.delete(schema)
    assert driver.read(grant) is None


def test_everybody_can_be_shut_out(driver: Driver) -> None:
    ask("CREATE SCHEMA acme; GRANT USAGE ON SCHEMA acme TO public")
    inputs = {
        "role": "public",
        "database": "agents",
        "schema": "acme",
        "objectType": "schema",
        "privileges": [],
    }
    grant = driver.create(GRANT, "closed", inputs)
    assert not ask(
        "SELECT 1 FROM pg_namespace CROSS JOIN aclexplode(nspacl) WHERE nspname = 'acme' AND grantee = 0"
    )
    assert driver.read(grant) == grant
    ask("DROP SCHEMA acme")


def test_it_takes_over_what_the_official_plugin_made(driver: Driver) -> None:
    inputs = {"role": "public", "database": "agents", "schema": "public", "objectType": "schema"}
    grant = driver.create(GRANT, "closed", {**inputs, "privileges": []})
    theirs = replace(grant, outputs={**inputs, "withGrantOption": False})  # it leaves an empty set out
    assert driver.changed(theirs, {**inputs, "privileges": []}) == []
    assert driver.read(theirs) is not None
    driver.delete(driver.update(theirs, {**inputs, "privileges": ["USAGE"]}))


def test_only_words_of_the_language_reach_a_statement(driver: Driver) -> None:
    inputs = {
        "role": "public",
        "database": "agents",
        "schema": "public",
        "objectType": "table",
        "privileges": ["SELECT ON t TO x; DROP TABLE t; --"],
    }
    with pytest.raises(RefusedError, match="is not an allowed privilege for object type table"):
        driver.create(GRANT, "grant", inputs)


def test_default_privileges_hold_for_what_comes(driver: Driver) -> None:
    driver.create(ROLE, "owner", {"name": "acme"})
    inputs = {
        "role": "public",
        "database": "agents",
        "owner": "acme",
        "objectType": "function",
        "privileges": [],
    }
    closed = driver.create(DEFAULTS, "functions", inputs)
    assert closed.id == "public_agents_noschema_acme_function"
    assert driver.read(closed) == closed
    assert driver.changed(closed, inputs) == []

    driver.create(SCHEMA, "schema", {"name": "acme", "owner": "acme", "dropCascade": True})
    tables = driver.create(
        DEFAULTS,
        "tables",
        {**inputs, "schema": "acme", "objectType": "table", "privileges": ["SELECT"]},
    )
    ask(
        "SET ROLE acme; CREATE TABLE acme.t ();"
        " CREATE FUNCTION acme.f() RETURNS int LANGUAGE sql AS 'SELECT 1'"
    )
    assert ask("SELECT relacl::text FROM pg_class WHERE oid = 'acme.t'::regclass") == [
        ("{=r/acme,acme=arwdDxtm/acme}",)
    ]
    assert ask("SELECT proacl::text FROM pg_proc WHERE proname = 'f'") == [("{acme=X/acme}",)]
    driver.delete(tables)
    assert driver.read(tables) is None


def test_an_updated_role_loses_its_memberships_as_with_the_official_plugin(driver: Driver) -> None:
    issuer = driver.create(ROLE, "issuer", {"name": "issuer"})
    driver.create(ROLE, "role", {"name": "acme"})
    member = driver.create(MEMBER, "member", {"role": "issuer", "grantRole": "acme", "withAdminOption": True})
    assert member.id == "issuer_acme_true"
    assert driver.read(member) == member

    refreshed = driver.read(issuer)
    assert refreshed is not None
    assert driver.changed(refreshed, {"name": "issuer"}) == ["roles[0]"]
    assert not driver.changes(refreshed, {"name": "issuer"}, ignored=["roles"]).detailedDiff

    driver.update(issuer, {"name": "issuer", "connectionLimit": 5})
    assert driver.read(member) is None


def test_an_existing_role_is_refused(driver: Driver) -> None:
    driver.create(ROLE, "one", {"name": "acme"})
    with pytest.raises(
        RefusedError, match=r'^error creating role acme: pq: role "acme" already exists \(42710\)$'
    ):
        driver.create(ROLE, "two", {"name": "acme"})


def test_a_role_can_be_imported(driver: Driver) -> None:
    ask("CREATE ROLE acme CONNECTION LIMIT 3")
    found = driver.import_(ROLE, "role", "acme")
    assert found is not None
    assert found.inputs == {"name": "acme", "connectionLimit": 3, "__defaults": []}
    assert driver.changed(found, {"name": "acme", "connectionLimit": 3}) == []
    assert driver.import_(ROLE, "role", "nobody") is None


def test_many_at_once(driver: Driver) -> None:
    def tenant(number: int) -> None:
        name = f"tenant_{number}"
        role = driver.create(ROLE, name, {"name": name})
        schema = driver.create(SCHEMA, name, {"name": name, "owner": name})
        driver.create(MEMBER, name, {"role": "issuer", "grantRole": name, "withAdminOption": True})
        driver.delete(schema)
        driver.delete(role)

    driver.create(ROLE, "issuer", {"name": "issuer"})
    with ThreadPoolExecutor(max_workers=40) as pool:
        list(pool.map(tenant, range(60)))
    assert ask("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'tenant_%'") == [(0,)]


def test_a_server_that_is_away_is_one_message() -> None:
    driver = Driver(PostgreSQL(), {**configuration(), "port": "1"})
    with pytest.raises(RefusedError) as refused:
        driver.create(ROLE, "role", {"name": "acme"})
    driver.close()
    message = str(refused.value)
    assert message.startswith("error connecting to PostgreSQL server 127.0.0.1 (scheme: postgres): ")
    assert "Connection refused" in message
    assert "\n" not in message


def test_configuration_that_it_does_not_have_is_refused() -> None:
    driver = Driver(PostgreSQL(), {**configuration(), "awsRdsIamAuth": "true"})
    driver.close()
    assert driver.config_failures == [
        "awsRdsIamAuth: the stand-in does not support it; put the official plugin on PATH"
    ]


def test_a_database_lives_as_the_program_says(driver: Driver) -> None:
    driver.create(ROLE, "owner", {"name": "owner"})
    inputs = {"name": "apart", "owner": "owner"}
    database = driver.create(DATABASE, "apart", inputs)
    assert database.id == "apart"
    assert database.outputs["template"] == "template0"
    assert database.outputs["encoding"] == "UTF8"
    assert database.outputs["connectionLimit"] == -1
    assert driver.changed(database, inputs) == []
    assert driver.read(database) == database

    limited = inputs | {"connectionLimit": 5}
    assert driver.changed(database, limited) == ["connectionLimit"]
    database = driver.update(database, limited)
    assert ask("SELECT datconnlimit, datallowconn FROM pg_database WHERE datname = 'apart'") == [(5, True)]
    assert list(driver.changes(database, limited | {"encoding": "LATIN1"}).replaces) == ["encoding"]

    driver.delete(database)
    assert driver.read(database) is None
    driver.delete(database)


def test_a_database_goes_with_whoever_is_connected(driver: Driver) -> None:
    database = driver.create(DATABASE, "busy", {"name": "busy"})
    exports = postgres.environment()
    with psycopg.connect(
        host=exports["PGHOST"],
        port=int(exports["PGPORT"]),
        user=exports["PGUSER"],
        password=exports["PGPASSWORD"],
        dbname="busy",
        autocommit=True,
    ) as connection:
        driver.delete(database)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert ask("SELECT 1 FROM pg_database WHERE datname = 'busy'") == []


def test_nobody_enters_a_closed_database_but_whom_a_grant_names(driver: Driver) -> None:
    for name in ("owner", "guest"):
        driver.create(ROLE, name, {"name": name})
    database = driver.create(DATABASE, "closed", {"name": "closed", "owner": "owner"})
    common = {"database": "closed", "objectType": "database"}
    driver.create(GRANT, "everybody", {**common, "role": "public", "privileges": []})
    granted = {**common, "role": "guest", "privileges": ["CONNECT"], "withGrantOption": True}
    grant = driver.create(GRANT, "guest", granted)
    assert driver.read(grant) == grant
    may = "SELECT rolname, has_database_privilege(rolname, 'closed', 'CONNECT WITH GRANT OPTION')"
    assert ask(may + " FROM pg_roles WHERE rolname IN ('owner', 'guest', 'pg_monitor') ORDER BY 1") == [
        ("guest", True),
        ("owner", True),
        ("pg_monitor", False),
    ]
    driver.delete(grant)
    driver.delete(database)
