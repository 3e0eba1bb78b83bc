"""What Vault issues to a tenant and how it takes it back, with OpenBao and PostgreSQL as they are."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import hvac  # type: ignore[import-untyped]
import psycopg
import pytest
from hvac.exceptions import Forbidden, InternalServerError, InvalidPath  # type: ignore[import-untyped]

from infra.platform import administrator, control_schema
from infra.tenants import roles, secrets
from infra.tenants.holdings import HoldingsProvider
from infra.tenants.migration import MigrationProvider
from infra.tenants.tiers import Logins
from tests.infra.tenants.conftest import Connect
from tests.infra.tenants.test_migrations import TABLES, properties

TENANTS = ("acme", "other")
LOGINS = Logins(3, 4)


@pytest.fixture
def root(openbao: dict[str, str]) -> hvac.Client:
    return hvac.Client(url=openbao["address"], token=openbao["token"])


@pytest.fixture
def furnished(
    root: hvac.Client, database: dict[str, Any], schema: Callable[[str], str], connect: Connect
) -> Iterator[hvac.Client]:
    """Two tenants, with statements and policy as declared and mounts as the platform's."""
    server = connect()
    root.sys.enable_secrets_engine("kv", path="tenants", options={"version": "2"})
    root.sys.enable_secrets_engine("database")
    root.secrets.database.configure(
        "agents",
        plugin_name="postgresql-database-plugin",
        allowed_roles=["tenant-*"],
        connection_url="postgresql://{{username}}:{{password}}@"
        f"{database['host']}:{int(database['port'])}/{database['database']}?sslmode=disable",
        username="vault",
        password="issuer",
    )
    for tenant in TENANTS:
        MigrationProvider().create(properties(database, schema(tenant)))
        server.execute(f"GRANT tenant_{tenant} TO vault WITH ADMIN OPTION")
        root.secrets.database.create_role(
            f"tenant-{tenant}",
            db_name="agents",
            creation_statements=secrets.creation_statements(f"tenant_{tenant}", LOGINS),
            revocation_statements=secrets._REVOKE,
            default_ttl="1h",
            max_ttl="24h",
        )
        root.sys.create_or_update_policy(
            f"tenant-{tenant}",
            secrets._POLICY.format(
                id=tenant,
                name=f"tenant-{tenant}",
                object_storage=secrets.OBJECT_STORAGE,
                gateway=secrets.GATEWAY,
                vpn=secrets.VPN,
                secrets="tenants",
                database="database",
            ),
        )
    for tenant in TENANTS:
        for name in (secrets.OBJECT_STORAGE, secrets.VPN, "openai_key"):
            root.secrets.kv.v2.create_or_update_secret(
                f"{tenant}/{name}", {"owner": tenant}, mount_point="tenants"
            )
    yield root
    root.sys.revoke_prefix("database/creds")
    root.sys.disable_secrets_engine("database")
    root.sys.disable_secrets_engine("tenants")
    for tenant in TENANTS:
        root.sys.delete_policy(f"tenant-{tenant}")


def test_openbao_keeps_the_statements_as_they_are_declared(furnished: hvac.Client) -> None:
    """It strips them; one that it changed would differ in every preview."""
    kept = furnished.read("database/roles/tenant-acme")["data"]
    assert kept["creation_statements"] == secrets.creation_statements("tenant_acme", LOGINS)
    assert kept["revocation_statements"] == secrets._REVOKE


@pytest.fixture
def acme(furnished: hvac.Client) -> hvac.Client:
    """A client with the token that acme's machine gets."""
    issued = furnished.auth.token.create(policies=["tenant-acme"], no_default_policy=True, ttl="1h")
    return hvac.Client(url=furnished.url, token=issued["auth"]["client_token"])


@pytest.fixture
def login(
    acme: hvac.Client, connect: Connect
) -> Callable[[], tuple[psycopg.Connection[Any], dict[str, Any]]]:
    """Have a login issued and use it; the connection and what Vault said."""

    def login() -> tuple[psycopg.Connection[Any], dict[str, Any]]:
        issued = acme.secrets.database.generate_credentials("tenant-acme")
        return connect(issued["data"]["username"], issued["data"]["password"]), issued

    return login


Login = Callable[[], tuple[psycopg.Connection[Any], dict[str, Any]]]


def test_a_login_acts_as_its_tenant_in_its_schema(login: Login) -> None:
    connection, _ = login()

    assert connection.execute("SELECT current_user, current_schema()").fetchone() == (
        "tenant_acme",
        "tenant_acme",
    )
    for table in TABLES:
        connection.execute(f"SELECT * FROM {table}")
    connection.execute("INSERT INTO agents (name, model) VALUES ('a', 'm')")
    connection.execute("CREATE TABLE notes (text text)")


def test_what_one_login_made_is_there_for_the_next_and_outlives_the_first(
    login: Login, furnished: hvac.Client
) -> None:
    first, issued = login()
    first.execute("CREATE TABLE notes (text text)")
    first.execute("INSERT INTO notes VALUES ('kept')")

    furnished.sys.revoke_lease(issued["lease_id"])

    second, _ = login()
    assert second.execute("SELECT text FROM notes").fetchall() == [("kept",)]


def test_a_login_is_refused_in_another_schema(login: Login) -> None:
    connection, _ = login()

    for statement in ("SELECT * FROM tenant_other.agents", "SET ROLE tenant_other", "SET ROLE vault"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)


def test_a_login_by_itself_may_do_nothing(login: Login) -> None:
    connection, _ = login()
    connection.execute("RESET ROLE")
    connection.execute("SET ROLE NONE")

    for statement in (
        "SELECT * FROM tenant_acme.agents",
        "CREATE TABLE tenant_acme.mine ()",
        "CREATE SCHEMA mine",
        "CREATE ROLE mine",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)


def test_revoking_ends_the_session_and_drops_the_login_whatever_it_owns(
    login: Login, furnished: hvac.Client, connect: Connect
) -> None:
    connection, issued = login()
    connection.execute("SET ROLE NONE")
    connection.execute("SELECT lo_create(0)")
    connection.execute("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC")

    furnished.sys.revoke_prefix("database/creds/tenant-acme")

    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    user = issued["data"]["username"]
    assert connect().execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [user]).fetchone() is None


def test_further_logins_retire_those_that_were_not_renewed_for_longest(
    login: Login, acme: hvac.Client, connect: Connect
) -> None:
    first, kept = login()
    second, retired = login()
    acme.sys.renew_lease(kept["lease_id"], increment=2 * 3600)
    login()

    login()

    assert first.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError):
        second.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
        connect(retired["data"]["username"], retired["data"]["password"])


def test_a_retired_login_is_revoked_as_any_other(
    login: Login, furnished: hvac.Client, connect: Connect
) -> None:
    _, retired = login()
    for _ in range(LOGINS.at_once):
        login()

    furnished.sys.revoke_lease(retired["lease_id"])

    user = retired["data"]["username"]
    assert connect().execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [user]).fetchone() is None


def test_however_many_logins_a_tenant_has_made_at_once_it_holds_no_more_than_its_bound(
    acme: hvac.Client, database: dict[str, Any], connect: Connect, furnished: hvac.Client
) -> None:
    held: list[psycopg.Connection[Any]] = []

    def grab(_: int) -> None:
        client = hvac.Client(url=acme.url, token=acme.token)
        issued = client.secrets.database.generate_credentials("tenant-acme")["data"]
        entrance = {"user": issued["username"], "password": issued["password"]}
        for _ in range(2 * LOGINS.connections):
            with contextlib.suppress(psycopg.OperationalError):
                held.append(psycopg.connect(**_address(database), **entrance, autocommit=True))

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(grab, range(20)))

    theirs = """
        SELECT count(*), count(DISTINCT usename)
        FROM pg_stat_activity JOIN pg_auth_members ON member = usesysid
        WHERE roleid = 'tenant_acme'::regrole AND backend_type = 'client backend' AND usename <> 'vault'
    """
    connections, logins = connect().execute(theirs).fetchone() or (-1, -1)
    assert 0 < logins <= LOGINS.at_once + 1
    assert LOGINS.connections <= connections <= LOGINS.bound
    # Nor does it keep others from coming.
    issued = furnished.secrets.database.generate_credentials("tenant-other")["data"]
    assert connect(issued["username"], issued["password"]).execute("SELECT 1").fetchone() == (1,)
    for connection in held:
        connection.close()


def test_a_session_that_holds_its_own_role_keeps_no_login_from_being_retired(
    login: Login, connect: Connect
) -> None:
    holding, retired = login()
    user = retired["data"]["username"]
    holding.execute(f"BEGIN; SET ROLE none; ALTER ROLE \"{user}\" PASSWORD 'held'")
    for _ in range(LOGINS.at_once):
        login()

    known = connect().execute("SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", [user])
    assert known.fetchone() == (False,)


Attack = Callable[[psycopg.Connection[Any], str, Connect], None]


def _own_password(victim: psycopg.Connection[Any], user: str, _connect: Connect) -> None:
    """Hold the role itself: one's own password is one's own to change."""
    victim.execute(f"BEGIN; SET ROLE NONE; ALTER ROLE \"{user}\" PASSWORD 'mine'")


def _granted_by_another(_victim: psycopg.Connection[Any], user: str, connect: Connect) -> None:
    connect().execute(
        f"SET ROLE tenant_other; CREATE TABLE tenant_other.bait (); "
        f'GRANT SELECT ON tenant_other.bait TO "{user}"'
    )


def _in_a_policy_of_another(_victim: psycopg.Connection[Any], user: str, connect: Connect) -> None:
    connect().execute(f'SET ROLE tenant_other; CREATE POLICY bait ON tenant_other.agents TO "{user}"')


def _in_anothers_default_privileges(_victim: psycopg.Connection[Any], user: str, connect: Connect) -> None:
    connect().execute(f'SET ROLE tenant_other; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO "{user}"')


def _large_object(victim: psycopg.Connection[Any], _user: str, _connect: Connect) -> None:
    victim.execute("SET ROLE NONE; SELECT lo_from_bytea(0, 'hidden')")


def _own_settings(victim: psycopg.Connection[Any], user: str, _connect: Connect) -> None:
    """Hide whom the login acts as."""
    victim.execute(f'SET ROLE NONE; ALTER ROLE "{user}" RESET ALL; ALTER ROLE "{user}" SET role = none')


@pytest.mark.parametrize(
    "attack",
    [
        *(_own_password, _granted_by_another, _in_a_policy_of_another, _in_anothers_default_privileges),
        *(_large_object, _own_settings),
    ],
)
def test_no_tenant_keeps_a_login_from_being_revoked(
    login: Login, furnished: hvac.Client, connect: Connect, attack: Attack
) -> None:
    victim, issued = login()
    user = issued["data"]["username"]
    attack(victim, user, connect)

    furnished.sys.revoke_prefix("database/creds/tenant-acme")

    with pytest.raises(psycopg.OperationalError):
        victim.execute("SELECT 1")
    assert connect().execute("SELECT FROM pg_roles WHERE rolname = %s", [user]).fetchone() is None


def test_a_login_that_cannot_be_dropped_ends_all_the_same_and_goes_with_a_later_one(
    login: Login, furnished: hvac.Client, connect: Connect, other_database: dict[str, Any]
) -> None:
    """Something in another database depends on it, which Vault's connection does not reach."""
    victim, issued = login()
    user, password = issued["data"]["username"], issued["data"]["password"]
    with administrator.connect(other_database) as inside:
        inside.execute(f'CREATE TABLE public.bait (); GRANT SELECT ON public.bait TO "{user}"')

    furnished.sys.revoke_lease(issued["lease_id"])

    with pytest.raises(psycopg.OperationalError):
        victim.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        connect(user, password)
    left = "SELECT rolcanlogin FROM pg_roles WHERE rolname = %s"
    assert connect().execute(left, [user]).fetchone() == (False,)

    with administrator.connect(other_database) as inside:
        inside.execute("DROP TABLE public.bait")
    _, issued = login()
    furnished.sys.revoke_lease(issued["lease_id"])

    assert connect().execute(left, [user]).fetchone() is None


@pytest.fixture
def other_database(database: dict[str, Any], connect: Connect) -> Iterator[dict[str, Any]]:
    """A database that is neither the tenants' nor Vault's."""
    connect().execute("CREATE DATABASE elsewhere")
    yield {**database, "database": "elsewhere"}
    connect().execute("DROP DATABASE elsewhere WITH (FORCE)")


def test_a_login_enters_no_database_but_its_tenants(
    login: Login,
    database: dict[str, Any],
    own_database: dict[str, Any],
    acme: hvac.Client,
    furnished: hvac.Client,
) -> None:
    own = acme.secrets.database.generate_credentials("tenant-acme")["data"]
    shared = furnished.secrets.database.generate_credentials("tenant-other")["data"]
    for issued, closed in (
        (shared, ("postgres", "template1", "tenant_acme")),
        (own, ("postgres", "template1", "agents")),
    ):
        for name in closed:
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                psycopg.connect(
                    **_address({**database, "database": name}),
                    user=issued["username"],
                    password=issued["password"],
                )


def test_a_login_of_before_is_let_in_after_the_database_was_closed(
    database: dict[str, Any], schema: Callable[[str], str], connect: Connect
) -> None:
    connect().execute(f"CREATE ROLE \"v-old\" LOGIN NOINHERIT PASSWORD 'x' IN ROLE {schema('acme')}")

    control_schema.ControlSchemaProvider().update(
        "", {}, {**database, "issuer": "vault", "members": "tenants"}
    )

    connect("v-old", "x").execute("SELECT 1")
    roles.end(database, "v-old")


def test_what_a_tenant_set_for_its_own_database_means_nothing_to_an_administrator(
    own_database: dict[str, Any], acme: hvac.Client
) -> None:
    """An owner of a database sets what names mean there, whoever uses them."""
    issued = acme.secrets.database.generate_credentials("tenant-acme")["data"]
    login = {"user": issued["username"], "password": issued["password"]}
    tenant = psycopg.connect(**_address(own_database), **login, autocommit=True)
    for forbidden in (
        "ALTER DATABASE tenant_acme SET search_path = tenant_acme",
        "DROP DATABASE tenant_acme",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            tenant.execute(forbidden)
    tenant.execute("CREATE EXTENSION citext")
    # As before, when it was the owner.
    with administrator.connect(own_database) as inside:
        inside.execute("ALTER DATABASE tenant_acme SET search_path = tenant_acme, pg_catalog")

    control_schema.ControlSchemaProvider().update("", {}, {**own_database, "issuer": "vault"})

    who = {"user": own_database["user"], "password": own_database["password"]}
    with psycopg.connect(**_address(own_database), **who) as provider:
        assert provider.execute("SHOW search_path").fetchone() == ("pg_catalog",)
    with psycopg.connect(**_address(own_database), **login) as tenant:
        assert tenant.execute("SHOW search_path").fetchone() == ("tenant_acme",)


@pytest.fixture
def own_database(
    furnished: hvac.Client, database: dict[str, Any], connect: Connect
) -> Iterator[dict[str, Any]]:
    """A database of acme's own, with rights, connection and statements as declared; how to enter it."""
    server = connect()
    server.execute("CREATE DATABASE tenant_acme")
    server.execute("REVOKE ALL ON DATABASE tenant_acme FROM PUBLIC")
    server.execute("GRANT CONNECT, CREATE, TEMPORARY ON DATABASE tenant_acme TO tenant_acme")
    server.execute("GRANT CONNECT ON DATABASE tenant_acme TO vault WITH GRANT OPTION")
    own = {**database, "database": "tenant_acme"}
    control_schema.ControlSchemaProvider().create({**own, "issuer": "vault"})
    with psycopg.connect(**_address(own), user=own["user"], password=own["password"]) as inside:
        inside.execute("CREATE SCHEMA tenant_acme AUTHORIZATION tenant_acme")
    MigrationProvider().create(properties(own, "tenant_acme"))
    furnished.secrets.database.configure(
        "tenant-acme",
        plugin_name="postgresql-database-plugin",
        allowed_roles=["tenant-acme"],
        connection_url="postgresql://{{username}}:{{password}}@"
        f"{own['host']}:{int(own['port'])}/tenant_acme?sslmode=disable",
        username="vault",
        password="issuer",
    )
    furnished.secrets.database.create_role(
        "tenant-acme",
        db_name="tenant-acme",
        creation_statements=secrets.creation_statements("tenant_acme", LOGINS, own_database=True),
        revocation_statements=[*secrets._SHUT_OUT_OWN, *secrets._REVOKE],
    )
    yield own
    furnished.sys.revoke_prefix("database/creds")
    furnished.secrets.database.delete_connection("tenant-acme")
    server.execute("DROP DATABASE tenant_acme WITH (FORCE)")


def _address(where: dict[str, Any]) -> dict[str, Any]:
    return {"host": where["host"], "port": int(where["port"]), "dbname": where["database"]}


def test_a_database_of_its_own_is_entered_by_its_own_logins_only(
    own_database: dict[str, Any], furnished: hvac.Client, acme: hvac.Client, connect: Connect
) -> None:
    issued = acme.secrets.database.generate_credentials("tenant-acme")
    login = {"user": issued["data"]["username"], "password": issued["data"]["password"]}
    connection = psycopg.connect(**_address(own_database), **login, autocommit=True)
    connection.execute("INSERT INTO agents (name, model) VALUES ('a', 'm')")

    other = furnished.secrets.database.generate_credentials("tenant-other")["data"]
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(**_address(own_database), user=other["username"], password=other["password"])

    furnished.sys.revoke_lease(issued["lease_id"])
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    found = connect().execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [login["user"]])
    assert found.fetchone() is None


def test_a_connection_makes_logins_for_its_own_tenant_alone(
    own_database: dict[str, Any], furnished: hvac.Client
) -> None:
    furnished.secrets.database.create_role(
        "tenant-other",
        db_name="tenant-acme",
        creation_statements=secrets.creation_statements("tenant_other", LOGINS),
    )
    with pytest.raises(InternalServerError, match="not an allowed role"):
        furnished.secrets.database.generate_credentials("tenant-other")


def test_a_token_reads_and_writes_its_own_secrets(acme: hvac.Client) -> None:
    kv = acme.secrets.kv.v2

    assert kv.list_secrets("acme", mount_point="tenants")["data"]["keys"] == [
        "object-storage",
        "openai_key",
        "vpn",
    ]
    kv.create_or_update_secret("acme/slack_oauth", {"token": "x"}, mount_point="tenants")
    kv.patch("acme/slack_oauth", {"more": "y"}, mount_point="tenants")
    kv.delete_latest_version_of_secret("acme/slack_oauth", mount_point="tenants")
    read = kv.read_secret_version("acme/object-storage", mount_point="tenants", raise_on_deleted_version=True)
    assert read["data"]["data"] == {"owner": "acme"}


def test_a_token_is_refused_everything_else(acme: hvac.Client) -> None:
    kv, refused = acme.secrets.kv.v2, []
    attempts: list[Callable[[], object]] = [
        lambda: kv.list_secrets("", mount_point="tenants"),
        lambda: kv.list_secrets("other", mount_point="tenants"),
        lambda: kv.read_secret_version(
            "other/openai_key", mount_point="tenants", raise_on_deleted_version=True
        ),
        lambda: kv.create_or_update_secret("other/x", {"a": "b"}, mount_point="tenants"),
        # A path that only begins like its own.
        lambda: kv.create_or_update_secret("acmeother/x", {"a": "b"}, mount_point="tenants"),
        # What the platform wrote is the platform's.
        lambda: kv.create_or_update_secret("acme/object-storage", {"a": "b"}, mount_point="tenants"),
        lambda: kv.create_or_update_secret("acme/vpn", {"a": "b"}, mount_point="tenants"),
        lambda: kv.delete_latest_version_of_secret("acme/vpn", mount_point="tenants"),
        lambda: kv.delete_metadata_and_all_versions("acme/openai_key", mount_point="tenants"),
        lambda: acme.secrets.database.generate_credentials("tenant-other"),
        lambda: acme.sys.list_policies(),
        lambda: acme.auth.token.create(),
        lambda: acme.sys.renew_lease("database/creds/tenant-other/abc"),
    ]
    for attempt in attempts:
        with pytest.raises(Forbidden):
            attempt()
        refused.append(attempt)
    assert len(refused) == len(attempts)


def test_a_token_renews_itself_and_its_logins(acme: hvac.Client, login: Login) -> None:
    _, issued = login()

    assert acme.sys.renew_lease(issued["lease_id"], increment=60)["renewable"]
    assert acme.auth.token.renew_self()["auth"]["policies"] == ["tenant-acme"]
    assert acme.auth.token.lookup_self()["data"]["policies"] == ["tenant-acme"]


def test_removal_takes_back_logins_and_deletes_secrets_and_nothing_of_the_others(
    openbao: dict[str, str], furnished: hvac.Client, login: Login, connect: Connect
) -> None:
    connection, issued = login()
    kv = furnished.secrets.kv.v2
    for version in ("1", "2"):
        kv.create_or_update_secret("acme/deep/er/key", {"version": version}, mount_point="tenants")
    kv.create_or_update_secret("acme/gone", {"a": "b"}, mount_point="tenants")
    kv.delete_latest_version_of_secret("acme/gone", mount_point="tenants")
    # As it stands in a URL: a question mark, a hash, and percent signs that stand for themselves.
    for awkward in ("a%3Fb", "a%23b", "a%2541b", "%252e%252e%252fother%252fown", "f/" * 100 + "deep"):
        kv.create_or_update_secret(f"acme/{awkward}", {"a": "b"}, mount_point="tenants")
    furnished.secrets.database.delete_role("tenant-acme")
    props = holdings(openbao)

    HoldingsProvider().delete("tenants/acme", props)

    with pytest.raises(InvalidPath):
        kv.list_secrets("acme", mount_point="tenants")
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    user = issued["data"]["username"]
    assert connect().execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [user]).fetchone() is None
    assert kv.list_secrets("other", mount_point="tenants")["data"]["keys"]
    # A run that was cut off is repeated.
    HoldingsProvider().delete("tenants/acme", props)


def test_removal_without_the_right_token_says_so(openbao: dict[str, str], furnished: hvac.Client) -> None:
    with pytest.raises(RuntimeError, match="Vault refused LIST identity") as told:
        HoldingsProvider().delete("tenants/acme", {**holdings(openbao), "token": "s.wrong"})

    assert "s.wrong" not in str(told.value)


def test_removal_without_a_token_names_the_variable(
    openbao: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VAULT_TOKEN", raising=False)
    with pytest.raises(RuntimeError, match="VAULT_TOKEN: not set"):
        HoldingsProvider().delete("tenants/acme", {**holdings(openbao), "token": None})


def holdings(openbao: dict[str, str]) -> dict[str, Any]:
    return {
        "mount": "tenants",
        "secrets": "acme",
        "namespace": "tenant-acme",
        "logins": "database/creds/tenant-acme",
        "serverName": None,
        **openbao,
    }
