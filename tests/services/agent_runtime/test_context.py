"""A tenant's context on real servers: OpenBao, PostgreSQL and object storage, as they are declared."""

import contextlib
import dataclasses
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hvac  # type: ignore[import-untyped]
import jwt
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.agent_runtime import database as runtime_database
from services.agent_runtime.body import BadRequestError
from services.agent_runtime.context import TenantContext
from services.agent_runtime.files import AbsentError, RefusedPathError
from services.agent_runtime.identity import Identity, NotReadyError, Server
from services.agent_runtime.settings import Settings
from services.agent_runtime.tables.agents import Agents
from services.agent_runtime.tables.agents import Settings as AgentSettings
from services.agent_runtime.tables.memory import Memory
from services.agent_runtime.vault import Vault
from tests.infra.tenants.conftest import Connect, openbao
from tests.infra.tenants.test_secrets import furnished, root
from tests.services.agent_runtime.conftest import Storage

__all__ = ["furnished", "openbao", "root"]

Open = Callable[..., TenantContext]


@dataclasses.dataclass
class Word:
    """A credential like the gateway's word, signed anew whenever it is shown."""

    tenant: str
    key: Ed25519PrivateKey

    def shown(self) -> str:
        claims = {"aud": "vault", "tenant": self.tenant, "sub": "somebody", "exp": time.time() + 60}
        return jwt.encode(claims, self.key, "EdDSA")


@pytest.fixture
def opened(
    furnished: hvac.Client, database: dict[str, Any], storage: Storage, tmp_path: Path
) -> Iterator[Open]:
    """Open the context of a tenant, let in by the gateway's word; what it is told can be changed."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    furnished.sys.enable_auth_method("jwt")
    furnished.write("auth/jwt/config", jwt_validation_pubkeys=[public])
    for tenant in ("acme", "other"):
        furnished.write(
            f"auth/jwt/role/tenant-{tenant}",
            role_type="jwt",
            user_claim="tenant",
            bound_audiences=["vault"],
            bound_claims={"tenant": tenant},
            token_policies=[f"tenant-{tenant}"],
            token_no_default_policy=True,
            token_ttl="15m",
            token_explicit_max_ttl="15m",
        )
    furnished.secrets.kv.v2.create_or_update_secret(
        "acme/object-storage", storage.secret("acme"), mount_point="tenants"
    )
    where = f"postgresql://{database['host']}:{int(database['port'])}/agents?sslmode=disable"
    settings = Settings.read({"VAULT_ADDR": furnished.url, "TMPDIR": str(tmp_path)})
    with contextlib.ExitStack() as stack:

        def open_one(tenant: str = "acme", **told: Any) -> TenantContext:
            known = Identity(
                tenant=tenant,
                tier="starter",
                vault=Server(address=furnished.url, authority=None),
                login="auth/jwt/login",
                role=f"tenant-{tenant}",
                secrets=f"tenants/{tenant}",
                logins=f"database/creds/tenant-{tenant}",
                database=where,
            )
            known = dataclasses.replace(known, **told)
            context = TenantContext(known, Vault(known, Word(tenant, key)), settings)
            return stack.enter_context(context)

        yield open_one
    furnished.sys.disable_auth_method("jwt")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_database, "_PATIENCE", 1.0)


def logins(connect: Connect) -> int:
    """Return the number of acme's logins."""
    counted = connect().execute(
        "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-jwt%' AND rolname LIKE '%tenant-a%'"
    )
    return int(counted.fetchall()[0][0])


def test_statements_run_in_the_tenants_schema_as_the_tenant(opened: Open, connect: Connect) -> None:
    with opened().database.connection() as connection:
        connection.execute("INSERT INTO agents (name, model) VALUES ('a', 'm')")
        row = connection.execute("SELECT current_user AS who, current_schema() AS place").fetchone()

    assert row == {"who": "tenant_acme", "place": "tenant_acme"}
    assert connect().execute("SELECT name FROM tenant_acme.agents").fetchall() == [("a",)]


def test_a_block_that_fails_leaves_nothing(opened: Open) -> None:
    context = opened()
    with pytest.raises(ZeroDivisionError), context.database.connection() as connection:
        connection.execute("INSERT INTO agents (name, model) VALUES ('a', 'm')")
        raise ZeroDivisionError

    with context.database.connection() as connection:
        assert connection.execute("SELECT name FROM agents").fetchall() == []


def test_another_tenants_rows_objects_and_secrets_cannot_be_named(opened: Open) -> None:
    context = opened()
    with pytest.raises(psycopg.errors.InsufficientPrivilege), context.database.connection() as connection:
        connection.execute("SELECT * FROM tenant_other.agents")
    for name in ("../other/openai_key", "a//b", ".", "x/.."):
        with pytest.raises(RefusedPathError, match="no name of a secret"):
            context.secrets.read(name)
    with pytest.raises(RefusedPathError, match="leads out"):
        context.storage.artifacts.read("../../tenant_globex/artifacts/a")


def test_all_of_one_context_needs_one_login(opened: Open, connect: Connect) -> None:
    context = opened()
    for _ in range(5):
        with context.database.connection() as first, context.database.connection() as second:
            first.execute("SELECT 1")
            second.execute("SELECT 1")

    assert logins(connect) == 1


def test_a_login_that_is_not_used_is_not_issued(opened: Open, connect: Connect) -> None:
    context = opened()
    assert context.secrets.read("openai_key") == {"owner": "acme"}

    assert logins(connect) == 0


def test_closing_ends_the_login(opened: Open, connect: Connect) -> None:
    context = opened()
    with context.database.connection() as connection:
        connection.execute("SELECT 1")
    assert logins(connect) == 1

    context.close()

    until = time.monotonic() + 10
    while logins(connect) and time.monotonic() < until:
        time.sleep(0.05)
    assert logins(connect) == 0


def test_a_login_is_renewed_before_it_ends(opened: Open, furnished: hvac.Client, connect: Connect) -> None:
    declared = furnished.read("database/roles/tenant-acme")["data"]
    furnished.write("database/roles/tenant-acme", **{**declared, "default_ttl": "2s"})
    context = opened()
    until = time.monotonic() + 4
    while time.monotonic() < until:
        with context.database.connection() as connection:
            connection.execute("SELECT 1")
        time.sleep(0.2)

    assert logins(connect) == 1


@pytest.mark.usefixtures("impatient")
def test_a_login_that_was_revoked_gives_way_to_another(opened: Open, furnished: hvac.Client) -> None:
    context = opened()
    with context.database.connection() as connection:
        connection.execute("INSERT INTO agents (name, model) VALUES ('a', 'm')")
    furnished.sys.revoke_prefix("database/creds/tenant-acme")

    with context.database.connection() as connection:
        assert connection.execute("SELECT name FROM agents").fetchall() == [{"name": "a"}]


@pytest.mark.usefixtures("impatient")
def test_a_connection_that_was_ended_gives_way_to_another(opened: Open, connect: Connect) -> None:
    context = opened()
    with context.database.connection() as connection:
        connection.execute("SELECT 1")
    connect().execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'v-jwt%'")

    with context.database.connection() as connection:
        assert connection.execute("SELECT 1 AS one").fetchall() == [{"one": 1}]


@pytest.mark.usefixtures("impatient")
def test_too_many_at_once_is_told(opened: Open) -> None:
    context = opened()
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(context.database.connection())
        with pytest.raises(NotReadyError, match="All 3 connections of acme"):
            stack.enter_context(context.database.connection())


@pytest.mark.usefixtures("impatient")
def test_a_tenant_that_has_too_much_is_told_so(opened: Open, connect: Connect) -> None:
    connect().execute("COMMENT ON ROLE tenant_acme IS 'refused: it has 3 GiB of at most 2 GiB in PostgreSQL'")
    context = opened()

    with pytest.raises(OSError, match="it has 3 GiB of at most 2 GiB"), context.database.connection():
        pass


def test_a_table_that_was_dropped_is_told_with_who_makes_it_again(opened: Open, connect: Connect) -> None:
    connect().execute("DROP TABLE tenant_acme.agent_memory")

    with pytest.raises(NotReadyError, match="next update with a refresh makes"):
        Memory(opened().database).recall()


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"database": None}, "nothing says where its tables are"),
        ({"database": "postgresql://127.0.0.1:9/agents"}, "PostgreSQL at 127.0.0.1:9 does not serve acme"),
        ({"vault": Server(address="http://127.0.0.1:9", authority=None)}, "Vault at http://127.0.0.1:9 does"),
        ({"role": "tenant-none"}, "Vault refuses acme"),
        ({"logins": "database/creds/tenant-other"}, "Vault refuses acme a login to PostgreSQL"),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_what_is_missing_is_told_in_one_error(opened: Open, told: dict[str, Any], words: str) -> None:
    context = opened(**told)

    with pytest.raises(NotReadyError, match=words), context.database.connection():
        pass


def test_secrets_are_written_read_listed_and_deleted(opened: Open) -> None:
    secrets = opened().secrets
    secrets.write("model", base_url="https://a.example", model="m")
    secrets.write("a b/ü#?%41", key="odd")

    assert secrets.read("model") == {"base_url": "https://a.example", "model": "m"}
    assert secrets.read("a b/ü#?%41") == {"key": "odd"}
    assert {"model", "a b/", "openai_key"} <= set(secrets.names())
    secrets.delete("model")
    assert secrets.read("model") == {}


def test_what_the_platform_wrote_stays_the_platforms(opened: Open) -> None:
    with pytest.raises(NotReadyError, match="Vault refuses acme to write the secret object-storage"):
        opened().secrets.write("object-storage", endpoint="https://elsewhere.example")


def test_artifacts_can_be_given_to_others_for_a_while(opened: Open, storage: Storage) -> None:
    artifacts = opened().storage.artifacts
    artifacts.write("reports/ü.txt", [b"done"])

    assert storage.keys("tenant_acme/artifacts/") == ["reports/ü.txt"]
    address = artifacts.address("reports/ü.txt", 1)
    with urllib.request.urlopen(address) as answer:
        assert answer.read() == b"done"
    time.sleep(2.1)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(address)
    with pytest.raises(AbsentError):
        artifacts.address("none", 60)
    for seconds in (0, -1, 10**6):
        with pytest.raises(RefusedPathError, match="An address is good for"):
            artifacts.address("reports/ü.txt", seconds)


def test_uploads_are_apart_from_artifacts(opened: Open, storage: Storage) -> None:
    storage.owner.put_object(Bucket="artifacts", Key="tenant_acme/uploads/a", Body=b"given")
    context = opened()

    assert context.storage.uploads.read("a") == b"given"
    with pytest.raises(AbsentError):
        context.storage.artifacts.read("a")


def test_a_memory_outlives_its_context(opened: Open) -> None:
    with opened() as first:
        Memory(first.database).remember("colour", "blue")
        Memory(first.database).remember("Größe", "XL; '")

    memory = Memory(opened().database)
    assert memory.recall() == {"Größe": "XL; '", "colour": "blue"}
    assert memory.recall("BLU") == {"colour": "blue"}
    assert memory.recall("%") == {}
    memory.remember("colour", "red")
    assert memory.recall("colour") == {"colour": "red"}
    assert memory.forget("colour")
    assert not memory.forget("colour")
    assert memory.recall("colour") == {}


def test_what_has_expired_is_gone(opened: Open, connect: Connect) -> None:
    memory = Memory(opened().database)
    memory.remember("soon", "gone", days=0.5 / 86400)
    memory.remember("later", "kept", days=1)
    assert list(memory.recall()) == ["later", "soon"]
    time.sleep(0.6)

    assert memory.recall() == {"later": "kept"}
    assert connect().execute("SELECT count(*) FROM tenant_acme.agent_memory").fetchall() == [(1,)]


def test_each_agent_has_a_memory_of_its_own(opened: Open) -> None:
    tables = opened().database
    for name in ("first", "second"):
        Agents(tables).put(name, AgentSettings())
    Memory(tables, "first").remember("a", "1")

    assert Memory(tables, "second").recall() == {}
    assert not Memory(tables, "second").forget("a")


def test_what_cannot_be_remembered_is_refused(opened: Open) -> None:
    memory = Memory(opened().database)
    texts = [("", "a"), ("k" * 201, "a"), ("a\0", "a"), ("a", ""), ("a", "v" * 65537)]
    bad: list[tuple[str, str, float | None]] = [(*text, None) for text in texts]
    bad += [("a", "a", days) for days in (0, -1, float("nan"), float("inf"), 1e9)]
    for key, value, days in bad:
        with pytest.raises(BadRequestError, match="nothing is remembered"):
            memory.remember(key, value, days)

    assert memory.recall() == {}
