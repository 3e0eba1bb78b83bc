"""The tables' steps against a real PostgreSQL."""

import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from pulumi.dynamic.dynamic import serialize_provider

from infra.tenants import migrations
from infra.tenants.migration import MigrationProvider
from infra.tenants.migrations import MigrationError, runner
from tests.infra.tenants.conftest import Connect

TABLES = {"agent_memory", "agents", "execution_logs"}
Schema = Callable[[str], str]


def properties(database: dict[str, Any], schema: str) -> dict[str, Any]:
    return {**database, "schema": schema, "revision": migrations.head()}


def tables(connection: psycopg.Connection[Any], schema: str) -> dict[str, str]:
    query = "SELECT tablename, tableowner FROM pg_tables WHERE schemaname = %s"
    return dict(connection.execute(query, [schema]).fetchall())


def test_the_newest_revision_has_exactly_the_three_tables_owned_by_the_tenant(
    database: dict[str, Any], schema: Schema, connect: Connect
) -> None:
    name = schema("acme")

    MigrationProvider().create(properties(database, name))

    assert tables(connect(), name) == dict.fromkeys(TABLES, name)


def test_doing_it_again_changes_nothing(database: dict[str, Any], schema: Schema, connect: Connect) -> None:
    props = properties(database, schema("acme"))
    provider = MigrationProvider()
    provider.create(props)
    connect().execute("INSERT INTO tenant_acme.agents (name, model) VALUES ('a', 'm')")

    provider.create(props)
    provider.update("tenant_acme", props, props)

    # The administrator is a superuser, whom row-level security does not stop.
    assert connect().execute("SELECT name FROM tenant_acme.agents").fetchall() == [("a",)]


def test_it_leaves_no_login_behind(database: dict[str, Any], schema: Schema, connect: Connect) -> None:
    MigrationProvider().create(properties(database, schema("acme")))

    found = connect().execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'tenant%'").fetchall()
    assert found == [("tenant_acme",)]


def test_a_login_that_a_killed_run_left_is_no_obstacle(
    database: dict[str, Any], schema: Schema, connect: Connect
) -> None:
    name = schema("acme")
    connect().execute("CREATE ROLE tenant_acme_migration LOGIN IN ROLE tenant_acme")

    MigrationProvider().create(properties(database, name))

    assert tables(connect(), name).keys() == TABLES


def test_row_level_security_shows_rows_to_the_tenant_and_to_nobody_who_was_granted_by_mistake(
    database: dict[str, Any], schema: Schema, connect: Connect
) -> None:
    name = schema("acme")
    MigrationProvider().create(properties(database, name))
    administrator = connect()
    administrator.execute("CREATE ROLE stranger NOLOGIN")
    try:
        administrator.execute(f"GRANT USAGE ON SCHEMA {name} TO stranger")
        administrator.execute(f"GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA {name} TO stranger")
        administrator.execute(f"SET ROLE {name}")
        administrator.execute(f"INSERT INTO {name}.agents (name, model) VALUES ('a', 'm')")
        assert administrator.execute(f"SELECT count(*) FROM {name}.agents").fetchone() == (1,)

        administrator.execute("RESET ROLE")
        administrator.execute("SET ROLE stranger")
        assert administrator.execute(f"SELECT count(*) FROM {name}.agents").fetchone() == (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            administrator.execute(f"INSERT INTO {name}.agents (name, model) VALUES ('b', 'm')")
    finally:
        administrator.execute("RESET ROLE")
        administrator.execute("DROP OWNED BY stranger")
        administrator.execute("DROP ROLE stranger")


def test_every_table_has_forced_row_level_security(
    database: dict[str, Any], schema: Schema, connect: Connect
) -> None:
    MigrationProvider().create(properties(database, schema("acme")))

    query = (
        "SELECT relname, relrowsecurity, relforcerowsecurity FROM pg_class"
        " WHERE relnamespace = 'tenant_acme'::regnamespace AND relkind = 'r'"
    )
    assert set(connect().execute(query)) == {(table, True, True) for table in TABLES}


def test_what_a_tenant_planted_runs_with_its_own_rights(
    database: dict[str, Any], schema: Schema, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later step that touches rows sets off the tenant's trigger; it must not become an administrator."""
    name = schema("mallory")
    MigrationProvider().create(properties(database, name))
    administrator = connect()
    administrator.execute(f"INSERT INTO {name}.agents (name, model) VALUES ('a', 'm')")
    administrator.execute(
        f"""SET ROLE {name};
        CREATE FUNCTION {name}.plant() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RESET ROLE; CREATE ROLE planted SUPERUSER; RETURN new; END $$;
        CREATE TRIGGER plant BEFORE UPDATE ON {name}.agents FOR EACH ROW EXECUTE FUNCTION {name}.plant();
        RESET ROLE"""
    )

    def steps(session: Any, schema: str, revision: str) -> None:
        session.exec_driver_sql("UPDATE agents SET model = 'newer'")

    monkeypatch.setattr(migrations, "upgrade", steps)
    with pytest.raises(MigrationError, match=f"schema {name} could not be brought to revision"):
        MigrationProvider().create(properties(database, name))

    assert administrator.execute("SELECT 1 FROM pg_roles WHERE rolname = 'planted'").fetchone() is None
    assert administrator.execute(f"SELECT model FROM {name}.agents").fetchall() == [("m",)]


def test_a_step_that_fails_leaves_the_schema_as_it_was(
    database: dict[str, Any], schema: Schema, connect: Connect
) -> None:
    name = schema("acme")
    administrator = connect()
    # The first step's last table stands in its way.
    administrator.execute(f"CREATE TABLE {name}.execution_logs ()")

    with pytest.raises(MigrationError) as told:
        MigrationProvider().create(properties(database, name))

    assert "is as it was" in str(told.value)
    assert "execution_logs" in str(told.value)
    assert tables(administrator, name).keys() == {"execution_logs"}
    assert MigrationProvider().read(name, properties(database, name)).id == ""


def test_two_at_once_take_turns(database: dict[str, Any], schema: Schema, connect: Connect) -> None:
    props = properties(database, schema("acme"))
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(MigrationProvider().create, props) for _ in range(3)]

    assert [run.result().id for run in runs] == ["tenant_acme"] * 3
    assert tables(connect(), "tenant_acme").keys() == TABLES


def test_tenants_side_by_side_each_get_their_own_tables(
    database: dict[str, Any], schema: Schema, connect: Connect
) -> None:
    """The engine makes many at once in one process, where Alembic's operations are global."""
    names = [schema(f"side{number}") for number in range(6)]

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: MigrationProvider().create(properties(database, name)), names))

    for name in names:
        assert tables(connect(), name) == dict.fromkeys(TABLES, name)


def test_a_lock_held_by_the_tenant_is_not_waited_for_without_end(
    database: dict[str, Any], schema: Schema, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = schema("acme")
    monkeypatch.setattr(runner, "_PATIENCE", "200ms")
    with connect() as tenant, tenant.transaction(force_rollback=True):
        tenant.execute(f"SET LOCAL ROLE {name}; CREATE TABLE {name}.agents ()")

        with pytest.raises(MigrationError, match="lock timeout"):
            MigrationProvider().create(properties(database, name))


def test_read_tells_the_revision_in_the_database(database: dict[str, Any], schema: Schema) -> None:
    name = schema("acme")
    props = properties(database, name)
    provider = MigrationProvider()
    assert provider.read(name, props).id == ""
    provider.create(props)

    assert provider.read(name, {**props, "revision": "0000"}).outs == props
    assert provider.read("tenant_gone", props).id == ""


def test_a_schema_newer_than_the_checkout_is_left_alone(
    database: dict[str, Any], schema: Schema, connect: Connect
) -> None:
    name = schema("acme")
    connect().execute(f"COMMENT ON SCHEMA {name} IS 'agent-platform revision 9999'")

    with pytest.raises(MigrationError, match="9999, which is newer than 0001 or unknown here"):
        MigrationProvider().create(properties(database, name))


def test_a_preview_refuses_the_way_back(database: dict[str, Any]) -> None:
    old = {**properties(database, "tenant_acme"), "revision": "9999"}
    new = properties(database, "tenant_acme")

    assert [failure.property for failure in MigrationProvider().check(old, new).failures] == ["revision"]
    assert MigrationProvider().check(new, new).failures == []
    assert MigrationProvider().check({}, new).failures == []


def test_a_preview_shows_a_new_step_as_an_update_and_another_schema_as_a_replacement(
    database: dict[str, Any],
) -> None:
    old = properties(database, "tenant_acme")
    provider = MigrationProvider()

    assert not provider.diff("tenant_acme", old, old).changes
    stepped = provider.diff("tenant_acme", old, {**old, "revision": "0002"})
    assert (stepped.changes, stepped.replaces) == (True, [])
    assert provider.diff("tenant_acme", old, {**old, "schema": "tenant_other"}).replaces == ["schema"]


def test_an_unreachable_database_is_told_in_one_line_without_the_password(database: dict[str, Any]) -> None:
    props = {**properties(database, "tenant_acme"), "port": 1}

    with pytest.raises(MigrationError) as told:
        MigrationProvider().create(props)

    assert "\n" not in str(told.value)
    assert database["password"] not in str(told.value)


def test_revisions_form_one_line() -> None:
    steps = list(migrations._steps().walk_revisions())

    assert all(not step.is_branch_point and not step.is_merge_point for step in steps)
    assert [step.revision for step in steps] == sorted((step.revision for step in steps), reverse=True)
    assert {step.path.rpartition("/")[2][:4] for step in steps} == {step.revision for step in steps}


@pytest.mark.parametrize(
    ("module", "provider"),
    [("migration", "MigrationProvider"), ("prefix", "PrefixProvider"), ("holdings", "HoldingsProvider")],
)
def test_a_provider_is_serialised_as_its_name_alone(module: str, provider: str) -> None:
    """It is sent with every registration and kept in the state of every tenant."""
    made = getattr(importlib.import_module(f"infra.tenants.{module}"), provider)

    assert serialize_provider(made()) == serialize_provider(made())
    assert len(serialize_provider(made())) < 150
