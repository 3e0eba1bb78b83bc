"""PostgreSQL, entered with the login that Vault issues to the attacker.

Every statement runs in a transaction that is rolled back, so whatever is granted by mistake does no harm.
What PostgreSQL shows to everybody (names, definitions, sizes) is no leak; docs/threat-model.md lists it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from local import credentials, ports
from local.attack.attempt import Attack, Refused, Target
from local.attack.tenants import Tenant
from local.servers import postgres

SERVER = "PostgreSQL"

_REFUSED = "42501"
"""SQLSTATE insufficient_privilege; PostgreSQL says nothing else where a right is missing."""
_NOT_FOUND = "42P01"
"""It says this where a schema on `search_path` may not be looked into."""

_CLEAN = """
DROP TABLE IF EXISTS attack_canary CASCADE;
DROP FUNCTION IF EXISTS attack_secret();
SELECT lo_unlink(oid) FROM pg_largeobject_metadata
  WHERE lomowner = current_user::regrole AND obj_description(oid, 'pg_largeobject') = 'attack_canary';
"""
_PLANT = """
CREATE TABLE attack_canary (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text);
INSERT INTO attack_canary (text) SELECT 'canary' FROM generate_series(1, 100);
ANALYZE attack_canary;
CREATE FUNCTION attack_secret() RETURNS text SECURITY DEFINER LANGUAGE sql
  RETURN (SELECT min(text) FROM attack_canary);
DO $$ BEGIN
  EXECUTE format('COMMENT ON LARGE OBJECT %s IS %L', lo_from_bytea(0, 'canary'), 'attack_canary');
END $$;
"""
_BAIT = """
CREATE TABLE attack_bait.{victim} (text text);
INSERT INTO attack_bait.{victim} VALUES ('canary');
GRANT ALL ON attack_bait.{victim} TO PUBLIC;
ALTER TABLE attack_bait.{victim} ENABLE ROW LEVEL SECURITY;
ALTER TABLE attack_bait.{victim} FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON attack_bait.{victim} TO {victim} USING (true) WITH CHECK (true);
"""
"""Rows guarded as the migrations guard them, in a table whose grants somebody got wrong."""


@dataclass(frozen=True)
class Session:
    """One login; it enters a database when it first has something to do there."""

    user: str
    password: str
    connections: dict[str, psycopg.Connection[Any]] = field(default_factory=dict)

    def rows(self, database: str, statement: str, refusals: Sequence[str] = (_REFUSED,)) -> list[Any]:
        """Run a statement and take it back; what its last part returned."""
        connection = self.entered(database)
        try:
            cursor = connection.execute(statement.encode())
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            if error.sqlstate in refusals:
                raise Refused(error.diag.message_primary) from None
            raise
        finally:
            connection.rollback()

    def do(self, database: str, statement: str) -> None:
        """Run a statement for good."""
        connection = self.entered(database)
        connection.execute(statement.encode())
        connection.commit()

    def entered(self, database: str) -> psycopg.Connection[Any]:
        """The connection to a database."""
        if database not in self.connections:
            self.connections[database] = connect(database, self.user, self.password)
        return self.connections[database]

    def leave(self) -> None:
        """Close what is open."""
        for connection in self.connections.values():
            connection.close()


def connect(database: str, user: str, password: str) -> psycopg.Connection[Any]:
    """Connect; Refused where the login may not."""
    try:
        return psycopg.connect(
            host="127.0.0.1",
            port=ports.port("postgres"),
            dbname=database,
            user=user,
            password=password,
            sslmode="disable",
            connect_timeout=10,
            options="-c lock_timeout=10s",
        )
    except psycopg.OperationalError as error:
        # Before there is a connection, there is no SQLSTATE.
        if "permission denied for database" in str(error):
            raise Refused(str(error).strip().splitlines()[-1]) from None
        raise


@dataclass(frozen=True)
class _Facts:
    """What others may know about a tenant and aim at."""

    login: str
    process: int
    large_object: int


@dataclass(frozen=True, kw_only=True)
class _Statement:
    """An attack in SQL; {own} and {victim} are schemas and at the same time the roles that own them."""

    name: str
    sql: str
    shows: bool = False
    """Whoever is shown nothing is refused, too."""
    refusals: Sequence[str] = (_REFUSED,)
    by_owner: bool = True
    on_platform: bool = False
    within: str = ""
    """The database; empty: the victim's, or the one that all share for what is on the platform."""
    spares: Callable[[Tenant, Tenant], bool] = lambda _attacker, _victim: False

    def attack(self, facts: Mapping[Tenant, _Facts]) -> Attack[Session]:
        """Make an attack of it."""

        def run(session: Session, own: Tenant, victim: Tenant) -> None:
            # In a database of its own a tenant is at home; the platform is where the others are.
            database = self.within or (postgres.DATABASE if self.on_platform else victim.database)
            statement = self.sql.format(
                own=own.schema,
                login=facts[own].login,
                victim=victim.schema,
                victim_login=facts[victim].login,
                victim_process=facts[victim].process,
                victim_large_object=facts[victim].large_object,
                database=database,
            )
            found = session.rows(database, statement, self.refusals)
            if self.shows and not any(row[0] for row in found):
                raise Refused("nothing is shown")

        return Attack(
            name=self.name,
            tried=" ".join(self.sql.split()),
            run=run,
            by_owner=self.by_owner,
            on_platform=self.on_platform,
            spares=self.spares,
        )


def _on_tenant(name: str, statement: str, **options: Any) -> _Statement:
    """Something for which the victim itself has the right."""
    return _Statement(name=name, sql=statement, **options)


def _beyond_tenants(name: str, statement: str, **options: Any) -> _Statement:
    """Something that the victim itself may not do either."""
    return _Statement(name=name, sql=statement, by_owner=False, **options)


def _on_platform(name: str, statement: str, **options: Any) -> _Statement:
    return _Statement(name=name, sql=statement, on_platform=True, **options)


_STATEMENTS = (
    # Reading
    _on_tenant("read a table", "TABLE {victim}.attack_canary"),
    _on_tenant("read agents", "SELECT FROM {victim}.agents"),
    _on_tenant("read agent_memory", "SELECT FROM {victim}.agent_memory"),
    _on_tenant("read execution_logs", "SELECT FROM {victim}.execution_logs"),
    _on_tenant("read sessions", "SELECT FROM {victim}.sessions"),
    _on_tenant("read session_messages", "SELECT FROM {victim}.session_messages"),
    _on_tenant("read run_events", "SELECT FROM {victim}.run_events"),
    _on_tenant("look a table up by its name", "SELECT '{victim}.attack_canary'::regclass"),
    _on_tenant(
        "read through search_path",
        "SET search_path = {victim}; TABLE attack_canary",
        refusals=(_REFUSED, _NOT_FOUND),
    ),
    _on_tenant("read through a view", "CREATE VIEW attack_view AS TABLE {victim}.attack_canary"),
    _on_tenant("read through a child", "CREATE TEMP TABLE attack_child () INHERITS ({victim}.attack_canary)"),
    _on_tenant("copy a definition", "CREATE TEMP TABLE attack_copy (LIKE {victim}.attack_canary)"),
    _on_tenant(
        "probe values by a foreign key",
        "CREATE TABLE attack_probe (id bigint REFERENCES {victim}.attack_canary)",
        # It takes a permanent table, for which there is no room in somebody else's database.
        spares=lambda attacker, victim: attacker.database != victim.database,
    ),
    _on_tenant("draw from a sequence", "SELECT nextval('{victim}.attack_canary_id_seq')"),
    _beyond_tenants("read as the bare login", "RESET ROLE; TABLE {victim}.attack_canary"),
    _on_tenant(
        "read through a SECURITY DEFINER function of one's own",
        "CREATE FUNCTION pg_temp.thief() RETURNS bigint SECURITY DEFINER LANGUAGE plpgsql AS "
        "'BEGIN RETURN (SELECT count(*) FROM {victim}.attack_canary); END'; SELECT pg_temp.thief()",
    ),
    _on_tenant("call a SECURITY DEFINER function of the victim's", "SELECT {victim}.attack_secret()"),
    _on_tenant("read a large object", "SELECT lo_get({victim_large_object})"),
    # Row-level security
    _on_tenant("read rows that a policy hides", "SELECT true FROM attack_bait.{victim}", shows=True),
    _beyond_tenants("switch row-level security off", "SET row_security = off; TABLE attack_bait.{victim}"),
    _on_tenant("write rows past a policy", "INSERT INTO attack_bait.{victim} VALUES ('attack')"),
    # Writing
    _on_tenant("insert", "INSERT INTO {victim}.agents (name, model) VALUES ('attack', 'attack')"),
    _on_tenant("update", "UPDATE {victim}.attack_canary SET text = 'attack'"),
    _on_tenant("delete", "DELETE FROM {victim}.execution_logs"),
    _on_tenant("truncate", "TRUNCATE {victim}.attack_canary"),
    _on_tenant("lock a table", "LOCK TABLE {victim}.agents IN ACCESS SHARE MODE"),
    _on_tenant("overwrite a large object", "SELECT lo_put({victim_large_object}, 0, 'attack')"),
    _on_tenant("delete a large object", "SELECT lo_unlink({victim_large_object})"),
    # Changing definitions
    _on_tenant("create a table", "CREATE TABLE {victim}.attack_table ()"),
    _on_tenant("create a function", "CREATE FUNCTION {victim}.attack() RETURNS int LANGUAGE sql RETURN 1"),
    _on_tenant(
        "replace a function",
        "CREATE OR REPLACE FUNCTION {victim}.attack_secret() RETURNS text LANGUAGE sql RETURN 'attack'",
    ),
    _on_tenant("create an index", "CREATE INDEX ON {victim}.attack_canary (text)"),
    _on_tenant("add a policy", "CREATE POLICY attack ON {victim}.agents USING (true)"),
    _on_tenant("disable row-level security", "ALTER TABLE {victim}.agents DISABLE ROW LEVEL SECURITY"),
    _on_tenant(
        "add a trigger",
        "CREATE TRIGGER attack BEFORE UPDATE ON {victim}.agents "
        "FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    ),
    _on_tenant("drop a table", "DROP TABLE {victim}.run_events"),
    _on_tenant("drop the schema", "DROP SCHEMA {victim} CASCADE"),
    _on_tenant("change the schema's mark", "COMMENT ON SCHEMA {victim} IS 'attack'"),
    # Rights and roles
    _on_tenant("act as the victim", "SET ROLE {victim}"),
    _beyond_tenants("act as the victim's login", 'SET ROLE "{victim_login}"'),
    _beyond_tenants("become the victim's session", 'SET SESSION AUTHORIZATION "{victim_login}"'),
    _beyond_tenants("become a member", 'GRANT {victim} TO "{login}"'),
    _on_tenant("open the schema to everybody", "GRANT USAGE ON SCHEMA {victim} TO PUBLIC"),
    _on_tenant("open a table to everybody", "GRANT SELECT ON {victim}.attack_canary TO PUBLIC"),
    _on_tenant(
        "open tables to come",
        "ALTER DEFAULT PRIVILEGES FOR ROLE {victim} GRANT SELECT ON TABLES TO PUBLIC",
    ),
    _on_tenant("take over all it owns", "REASSIGN OWNED BY {victim} TO {own}"),
    _on_tenant("drop all it owns", "DROP OWNED BY {victim}"),
    _on_tenant(
        "plant a function that runs as the victim",
        "CREATE FUNCTION pg_temp.gift() RETURNS int SECURITY DEFINER LANGUAGE sql RETURN 1; "
        "ALTER FUNCTION pg_temp.gift() OWNER TO {victim}",
    ),
    _beyond_tenants("let the victim log in", "ALTER ROLE {victim} LOGIN PASSWORD 'attack'"),
    _beyond_tenants("set the victim's password", "ALTER ROLE \"{victim_login}\" PASSWORD 'attack'"),
    _beyond_tenants("set the victim's search_path", 'ALTER ROLE "{victim_login}" SET search_path = {own}'),
    _beyond_tenants("lock the victim's login out", 'ALTER ROLE "{victim_login}" NOLOGIN'),
    # Catalogs
    _beyond_tenants(
        "see a running query",
        "SELECT true FROM pg_stat_activity WHERE pid = {victim_process} AND query LIKE '%canary%'",
        shows=True,
    ),
    _beyond_tenants(
        "see where a session comes from",
        "SELECT client_addr FROM pg_stat_activity WHERE pid = {victim_process}",
        shows=True,
    ),
    _on_tenant(
        "see values in the planner's statistics",
        "SELECT most_common_vals FROM pg_stats WHERE schemaname = '{victim}' AND attname = 'text'",
        shows=True,
    ),
    _on_tenant(
        "list columns in information_schema",
        "SELECT column_name FROM information_schema.columns WHERE table_schema = '{victim}'",
        shows=True,
    ),
    _beyond_tenants(
        "read a password's hash", "SELECT rolpassword FROM pg_authid WHERE rolname = '{victim_login}'"
    ),
    _beyond_tenants(
        "read large objects in their table", "SELECT FROM pg_largeobject WHERE loid = {victim_large_object}"
    ),
    # Sessions
    # The role whose making is the lock of the migrations.
    _beyond_tenants("hold up the update of the victim's tables", "CREATE ROLE {victim}_migrating"),
    _beyond_tenants("cancel a query", "SELECT pg_cancel_backend({victim_process})"),
    _beyond_tenants("end a session", "SELECT pg_terminate_backend({victim_process})"),
    # The server itself
    *(
        _on_platform(f"enter the database {name}", "SELECT", within=name)
        for name in ("postgres", "template1")
    ),
    _on_platform("create a schema", "CREATE SCHEMA attack"),
    _on_platform("create a table in public", "CREATE TABLE public.attack ()"),
    _on_platform(
        "create a function in public", "CREATE FUNCTION public.attack() RETURNS int LANGUAGE sql RETURN 1"
    ),
    _on_platform("create an extension to other servers", "CREATE EXTENSION dblink SCHEMA public"),
    _on_platform("create an extension to files", "CREATE EXTENSION file_fdw SCHEMA public"),
    _on_platform(
        "create an event trigger",
        "CREATE FUNCTION pg_temp.attack() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; "
        "CREATE EVENT TRIGGER attack ON ddl_command_start EXECUTE FUNCTION pg_temp.attack()",
    ),
    _on_platform("change how much one may have", "UPDATE agent_platform.limits SET bytes = 2 ^ 60"),
    _on_platform("take the mark of who is refused off", "COMMENT ON ROLE {own} IS NULL"),
    _on_platform("let in who is refused", "ALTER EVENT TRIGGER agent_platform_admit DISABLE"),
    _on_platform("measure everybody", "SELECT agent_platform.measure()"),
    _on_platform("hold others to their limits", "SELECT agent_platform.hold_to_limits()"),
    _on_platform("create a publication", "CREATE PUBLICATION attack"),
    _on_platform("change the database", "ALTER DATABASE {database} SET search_path = {own}"),
    _on_platform("create a role", "CREATE ROLE attack"),
    *(
        _on_platform(f"become {attribute}", f"ALTER ROLE {{own}} {attribute}")
        for attribute in ("SUPERUSER", "BYPASSRLS", "CREATEROLE", "CREATEDB", "REPLICATION")
    ),
    _on_platform(
        "hold an attribute that opens doors",
        "SELECT true FROM pg_roles WHERE rolname IN (session_user, current_user) "
        "AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication)",
        shows=True,
    ),
    _on_platform("outlive one's lease", "ALTER ROLE \"{login}\" VALID UNTIL 'infinity'"),
    _on_platform("have a login without end", "ALTER ROLE {own} LOGIN PASSWORD 'attack'"),
    _on_platform("lift one's limit of connections", 'ALTER ROLE "{login}" CONNECTION LIMIT -1'),
    _on_platform("set the issuer's password", "ALTER ROLE vault PASSWORD 'attack'"),
    _on_platform("change everybody's settings", "ALTER ROLE ALL SET work_mem = '1GB'"),
    *(
        _on_platform(f"act as {role}", f"SET ROLE {role}")
        for role in (
            *("postgres", "vault", "limits", "tenants"),
            *("pg_read_all_data", "pg_monitor", "pg_signal_backend"),
        )
    ),
    _on_platform("have what one owns be another role's", "REASSIGN OWNED BY {own} TO tenants"),
    _on_platform("take a lock of which all have too few", "SELECT pg_advisory_xact_lock(1)"),
    _on_platform("become a member of a predefined role", 'GRANT pg_read_all_data TO "{login}"'),
    _on_platform("read files", "SELECT pg_read_file('PG_VERSION')"),
    _on_platform("list folders", "SELECT pg_ls_dir('.')"),
    _on_platform("load a file into a table", "CREATE TEMP TABLE t (t text); COPY t FROM '/dev/null'"),
    _on_platform("load a file into a large object", "SELECT lo_import('/dev/null')"),
    _on_platform("write files", "COPY (SELECT 1) TO '/dev/null'"),
    _on_platform("run programs, reading", "CREATE TEMP TABLE t (t text); COPY t FROM PROGRAM 'true'"),
    _on_platform("run programs, writing", "COPY (SELECT 1) TO PROGRAM 'cat > /dev/null'"),
    _on_platform("load a library", "LOAD 'auto_explain'"),
    _on_platform("fill the disk with temporary files", "SET temp_file_limit = -1"),
    _on_platform("switch triggers and constraints off", "SET session_replication_role = replica"),
    _on_platform("have the server log statements", "SET log_statement = 'all'"),
    _on_platform("reload the configuration", "SELECT pg_reload_conf()"),
    _on_platform("read who may log in from where", "SELECT FROM pg_hba_file_rules"),
    _on_platform("read where the server keeps its files", "SHOW config_file"),
    _on_platform("read all password hashes", "SELECT FROM pg_authid"),
    _on_platform(
        "stream the write-ahead log",
        "SELECT pg_create_physical_replication_slot('attack', false, true); "
        "SELECT pg_drop_replication_slot('attack')",
    ),
)


@contextmanager
def entered(tenants: Sequence[Tenant]) -> Iterator[Target[Session]]:
    """Plant a canary in every schema, have a login of each tenant's attack, and remove all of it."""
    administrator = Session(postgres.ADMIN, credentials.secret("postgres"))
    with ExitStack() as stack:
        stack.callback(administrator.leave)
        sessions = {tenant: Session(*tenant.login) for tenant in tenants}
        facts = {}
        for tenant, session in sessions.items():
            stack.callback(session.leave)
            session.do(tenant.database, _CLEAN + _PLANT)
            stack.callback(session.do, tenant.database, _CLEAN)
            facts[tenant] = _facts(tenant, session, stack)
        for database in {tenant.database for tenant in tenants}:
            administrator.do(database, "DROP SCHEMA IF EXISTS attack_bait CASCADE")
            administrator.do(
                database, "CREATE SCHEMA attack_bait; GRANT USAGE ON SCHEMA attack_bait TO PUBLIC"
            )
            stack.callback(administrator.do, database, "DROP SCHEMA attack_bait CASCADE")
        for tenant in tenants:
            administrator.do(tenant.database, _BAIT.format(victim=tenant.schema))
        yield Target(
            server=SERVER,
            sessions=sessions,
            victims=tenants,
            administrator=administrator,
            attacks=[statement.attack(facts) for statement in _STATEMENTS],
        )


def _facts(tenant: Tenant, session: Session, stack: ExitStack) -> _Facts:
    """A tenant's facts; the process is that of a second connection, whose last query names the canary."""
    bystander = connect(tenant.database, session.user, session.password)
    stack.callback(bystander.close)
    bystander.autocommit = True
    bystander.execute("SELECT 'canary'")
    ((large_object,),) = session.rows(
        tenant.database,
        "SELECT oid FROM pg_largeobject_metadata WHERE lomowner = current_user::regrole "
        "AND obj_description(oid, 'pg_largeobject') = 'attack_canary'",
    )
    return _Facts(session.user, bystander.info.backend_pid, large_object)
