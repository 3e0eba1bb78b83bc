"""The tables' steps against a real PostgreSQL."""

import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from pulumi.dynamic.dynamic import serialize_provider

from infra.platform import control_schema
from infra.tenants import migrations, roles
from infra.tenants.migration import MigrationProvider
from infra.tenants.migrations import MigrationError, runner
from infra.tenants.migrations.record import Record
from tests.infra.tenants.conftest import Connect

TABLES = {"agent_memory", "agents", "execution_logs", "run_events", "session_messages", "sessions"}
Schema = Callable[[str], str]


def properties(database: dict[str, Any], schema: str) -> dict[str, Any]:
    return {
        **database,
        "schema": schema,
        "revision": migrations.head(),
        "missing": [],
        "control": control_schema.NAME,
    }


def tables(connection: psycopg.Connection[Any], schema: str) -> dict[str, str]:
    query = "SELECT tablename, tableowner FROM pg_tables WHERE schemaname = %s"
    return dict(connection.execute(query, [schema]).fetchall())


def test_the_newest_revision_has_exactly_its_tables_owned_by_the_tenant(
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

    found = connect().execute(r"SELECT rolname FROM pg_roles WHERE rolname LIKE 'tenant\_%'").fetchall()
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

    def steps(session: Any, start: str, revision: str) -> None:
        session.exec_driver_sql("UPDATE agents SET model = 'newer'")

    monkeypatch.setattr(migrations, "take", steps)
    with pytest.raises(MigrationError, match=f"schema {name} should be on revision"):
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

    assert "It is on no revision now" in str(told.value)
    assert "must be owner of table execution_logs" in str(told.value)
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


def test_read_tells_the_revision_in_the_record(database: dict[str, Any], schema: Schema) -> None:
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
    props = properties(database, schema("acme"))
    MigrationProvider().create(props)
    connect().execute("UPDATE agent_platform.revisions SET revision = '9999' WHERE schema = 'tenant_acme'")

    with pytest.raises(
        MigrationError, match=f"9999, which is newer than {migrations.head()} or unknown here"
    ):
        MigrationProvider().create(props)


def test_what_a_tenant_writes_on_its_schema_is_no_revision(
    database: dict[str, Any], schema: Schema, connect: Connect
) -> None:
    """It owns the schema, so it may comment on it; where its tables stand is the platform's to say."""
    name = schema("mallory")
    props = properties(database, name)
    administrator = connect()
    administrator.execute(f"SET ROLE {name}")
    administrator.execute(f"COMMENT ON SCHEMA {name} IS 'agent-platform revision 9999'")
    for forbidden in ("TABLE agent_platform.revisions", "SELECT agent_platform.end_login('v-other')"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            administrator.execute(forbidden)

    MigrationProvider().create(props)

    assert MigrationProvider().read(name, props).outs == props


def test_tables_from_before_there_was_a_record_are_taken_over_as_they_are(
    database: dict[str, Any], schema: Schema, connect: Connect
) -> None:
    name = schema("acme")
    props = properties(database, name)
    MigrationProvider().create(props)
    connect().execute(f"INSERT INTO {name}.agents (name, model) VALUES ('a', 'm')")
    connect().execute("DELETE FROM agent_platform.revisions")
    old = {key: value for key, value in props.items() if key not in ("control", "missing")}
    assert MigrationProvider().read(name, old).outs == old
    assert MigrationProvider().diff(name, old, props).changes

    MigrationProvider().update(name, old, props)

    assert connect().execute(f"SELECT name FROM {name}.agents").fetchall() == [("a",)]
    assert MigrationProvider().read(name, props).outs == props


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ("DROP TABLE run_events", ["table run_events"]),
        (
            "DROP TABLE agents CASCADE",
            [
                "agent_memory: constraint agent_memory_agent_id_fkey FOREIGN KEY (agent_id)",
                "table agents",
                "execution_logs: constraint execution_logs_agent_id_fkey FOREIGN KEY (agent_id)",
                "sessions: constraint sessions_agent_id_fkey FOREIGN KEY (agent_id)",
            ],
        ),
        ("DROP INDEX execution_logs_started_at", ["execution_logs: index CREATE INDEX execution_logs_st"]),
        ("ALTER TABLE agents DISABLE ROW LEVEL SECURITY", ["agents: row-level security"]),
        ("DROP POLICY tenant ON agents", ["agents: policy tenant"]),
        ("ALTER TABLE agents DROP COLUMN model", ["agents: column model text NOT NULL"]),
        ("ALTER TABLE agents ALTER name TYPE varchar(9)", ["agents: column name text NOT NULL"]),
        (
            "ALTER TABLE agents ALTER id DROP DEFAULT",
            ["agents: column id uuid NOT NULL DEFAULT gen_"],
        ),
        ("ALTER TABLE agents ADD COLUMN mine int; CREATE TABLE own (); CREATE INDEX ON agents (mine)", []),
    ],
)
def test_a_refresh_sees_what_a_tenant_took_away_and_nothing_that_it_added(
    database: dict[str, Any], schema: Schema, connect: Connect, change: str, missing: list[str]
) -> None:
    name = schema("acme")
    props = properties(database, name)
    MigrationProvider().create(props)
    connect().execute(f"SET ROLE {name}; SET search_path = {name}; {change}")

    found = MigrationProvider().read(name, props).outs
    assert found is not None

    assert len(found["missing"]) == len(missing)
    assert all(there.startswith(told) for there, told in zip(found["missing"], missing, strict=True))
    assert found["revision"] == props["revision"]
    assert MigrationProvider().diff(name, found, props).changes == bool(missing)
    assert MigrationProvider().check(found, props).failures == []


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE execution_logs CASCADE",
        "DROP TABLE agents CASCADE",
        "DROP TABLE agents, agent_memory, execution_logs, sessions CASCADE",
        "ALTER TABLE execution_logs DROP COLUMN session_id",
        "ALTER TABLE agents DROP COLUMN id CASCADE",
        "ALTER TABLE execution_logs DROP CONSTRAINT status_known",
        "DROP INDEX execution_logs_started_at",
        "ALTER TABLE agents DISABLE ROW LEVEL SECURITY; DROP POLICY tenant ON agents",
    ],
)
def test_the_next_update_makes_it_again(
    database: dict[str, Any], schema: Schema, connect: Connect, change: str
) -> None:
    name = schema("acme")
    props = properties(database, name)
    MigrationProvider().create(props)
    connect().execute(f"SET ROLE {name}; SET search_path = {name}; CREATE TABLE own (); {change}")
    found = MigrationProvider().read(name, props).outs
    assert found is not None

    MigrationProvider().update(name, found, props)

    assert MigrationProvider().read(name, props).outs == props
    assert tables(connect(), name) == dict.fromkeys({*TABLES, "own"}, name)


def test_a_table_that_a_tenant_changed_is_told_and_left_to_it(
    database: dict[str, Any], schema: Schema, connect: Connect
) -> None:
    """To put a column back could lose what is in there instead."""
    name = schema("acme")
    props = properties(database, name)
    MigrationProvider().create(props)
    tenant = connect()
    tenant.execute(
        f"SET ROLE {name}; SET search_path = {name}; ALTER TABLE agents ALTER model TYPE int USING 1"
    )

    with pytest.raises(MigrationError, match=r"Missing: agents: column model text NOT NULL\. Put that back"):
        MigrationProvider().update(name, props, props)

    tenant.execute("ALTER TABLE agents ALTER model TYPE text")
    MigrationProvider().update(name, props, props)


def test_a_refresh_waits_for_no_tenant(
    database: dict[str, Any], schema: Schema, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = schema("acme")
    props = properties(database, name)
    MigrationProvider().create(props)
    monkeypatch.setattr(runner, "_GLANCE", "100ms")
    with connect() as tenant, tenant.transaction(force_rollback=True):
        tenant.execute(f"SET LOCAL ROLE {name}; LOCK TABLE {name}.agents")

        assert MigrationProvider().read(name, props).outs == props


def test_a_functions_name_that_means_another_one_is_not_fallen_for(
    database: dict[str, Any], schema: Schema, connect: Connect
) -> None:
    """Whoever looks is an administrator, so nothing that a tenant can define may be called."""
    name = schema("mallory")
    props = properties(database, name)
    MigrationProvider().create(props)
    trap = "RETURNS {} LANGUAGE plpgsql AS $$ BEGIN CREATE ROLE planted SUPERUSER; RETURN null; END $$"
    connect().execute(
        f"SET ROLE {name}; SET search_path = {name};"
        f"CREATE FUNCTION format_type(oid, int) {trap.format('text')};"
        f"CREATE FUNCTION pg_get_constraintdef(oid) {trap.format('text')};"
        f"CREATE FUNCTION obj_description(oid, name) {trap.format('text')};"
        f"CREATE VIEW pg_namespace AS SELECT oid, obj_description(oid, 'a')::name AS nspname FROM pg_class"
    )

    assert MigrationProvider().read(name, props).outs == props
    MigrationProvider().update(name, props, props)

    assert connect().execute("SELECT FROM pg_roles WHERE rolname = 'planted'").fetchone() is None


def test_a_message_tells_what_was_committed_when_the_login_cannot_be_dropped(
    database: dict[str, Any], schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = schema("acme")
    props = properties(database, name)
    end, calls = roles.end, []

    def end_once(where: dict[str, Any], role: str) -> None:
        calls.append(role)
        if len(calls) == 2:
            raise roles.RoleError(f"the role {role} cannot be dropped")
        end(where, role)

    monkeypatch.setattr(roles, "end", end_once)
    with pytest.raises(
        MigrationError, match=rf"_migration cannot be dropped\. It is on revision {migrations.head()} now"
    ):
        MigrationProvider().create(props)

    assert MigrationProvider().read(name, props).outs == props
    MigrationProvider().create(props)


def test_a_run_that_was_cut_off_after_it_committed_is_known_to_have(
    database: dict[str, Any], schema: Schema, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = schema("acme")
    props = properties(database, name)

    def cut_off(_record: Record) -> None:
        raise psycopg.OperationalError("the connection is lost")

    with monkeypatch.context() as patched:
        patched.setattr(Record, "note", cut_off)
        with pytest.raises(MigrationError, match=rf"is lost\. It is on revision {migrations.head()} now"):
            MigrationProvider().create(props)

    assert MigrationProvider().read(name, props).outs == props


def test_an_emptied_schema_has_nothing_and_nobody_in_it(
    database: dict[str, Any], schema: Schema, connect: Connect
) -> None:
    """Its owner let another tenant in, who holds a table open and makes its own there."""
    name, guest = schema("leaving"), schema("guest")
    props = properties(database, name)
    MigrationProvider().create(props)
    owner, visitor = connect(), connect()
    owner.execute(
        f"SET ROLE {name}; SET search_path = {name}; GRANT ALL ON SCHEMA {name} TO {guest};"
        f"GRANT ALL ON ALL TABLES IN SCHEMA {name} TO {guest};"
        "CREATE TYPE pair AS (a int, b int); CREATE TYPE mood AS ENUM ('ok'); CREATE SEQUENCE counter;"
        "CREATE VIEW shown AS TABLE agents; CREATE MATERIALIZED VIEW kept AS TABLE agents;"
        "CREATE FUNCTION one() RETURNS int LANGUAGE sql RETURN 1; CREATE DOMAIN short AS text;"
        "CREATE TABLE numbered (id serial); CREATE STATISTICS s ON agent_id, key FROM agent_memory;"
        "CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int)"
    )
    owner.execute(
        "DO $$BEGIN FOR i IN 1..600 LOOP EXECUTE format('CREATE TABLE many%s ()', i); END LOOP; END$$"
    )
    visitor.execute(f"CREATE ROLE \"v-guest\" LOGIN PASSWORD 'x' IN ROLE {guest}")
    inside = connect("v-guest", "x")
    inside.execute("BEGIN")
    inside.execute(
        f"SET ROLE {guest}; LOCK TABLE {name}.agents IN ACCESS SHARE MODE; CREATE TABLE {name}.mine ()"
    )

    MigrationProvider().delete(name, props)

    left = "SELECT FROM pg_depend WHERE refobjid = %s::regnamespace AND refclassid = 'pg_namespace'::regclass"
    assert connect().execute(left, [name]).fetchone() is None
    recorded = "SELECT FROM agent_platform.revisions WHERE schema = %s"
    assert connect().execute(recorded, [name]).fetchone() is None
    with pytest.raises(psycopg.OperationalError):
        inside.execute("SELECT 1")
    roles.end(database, "v-guest")


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
    stepped = provider.diff("tenant_acme", old, {**old, "revision": "9999"})
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
