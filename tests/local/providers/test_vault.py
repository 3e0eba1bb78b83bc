"""The stand-in for the vault plugin, on a real OpenBao; it answers as the official one was seen to."""

import json
import time
from collections.abc import Iterator

import hvac  # type: ignore[import-untyped]
import jwt
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hvac.exceptions import RateLimitExceeded, VaultError  # type: ignore[import-untyped]
from rich.console import Console

from local import supervisor
from local.providers.values import UNKNOWN, Properties, Secret
from local.providers.vault import server
from local.providers.vault.plugin import VaultPlugin
from local.servers import postgres, vault
from tests.local.providers.driver import Driver, RefusedError

MOUNT = "vault:index/mount:Mount"
POLICY = "vault:index/policy:Policy"
RATE = "vault:index/quotaRateLimit:QuotaRateLimit"
AUTH = "vault:index/authBackend:AuthBackend"
KUBERNETES = "vault:kubernetes/authBackendConfig:AuthBackendConfig"
LOGIN = "vault:kubernetes/authBackendRole:AuthBackendRole"
JWT = "vault:jwt/authBackend:AuthBackend"
JWT_LOGIN = "vault:jwt/authBackendRole:AuthBackendRole"
CONNECTION = "vault:database/secretBackendConnection:SecretBackendConnection"
ROLE = "vault:database/secretBackendRole:SecretBackendRole"
SECRET = "vault:kv/secretV2:SecretV2"
KV = "vault:kv/secretBackendV2:SecretBackendV2"

READ_ONLY = 'path "tenants/data/acme/*" {\n  capabilities = ["read"]\n}\n'


@pytest.fixture(scope="module", autouse=True)
def _servers(console: Console) -> Iterator[None]:
    for module in (postgres, vault):
        module.prepare()
        for service in module.services():
            supervisor.start(service, console)
        module.bootstrap()
    yield
    for service in (*vault.services(), *postgres.services()):
        supervisor.stop(service.name)


def configuration(**more: object) -> Properties:
    return {"address": vault.url(), "token": Secret(vault.root_token()), **more}


@pytest.fixture(scope="module")
def client() -> hvac.Client:
    return hvac.Client(url=vault.url(), token=vault.root_token())


@pytest.fixture
def driver(client: hvac.Client) -> Iterator[Driver]:
    driver = Driver(VaultPlugin(), configuration(skipChildToken=True))
    yield driver
    driver.close()
    for path in ("tenants", "moved", "database"):
        client.sys.disable_secrets_engine(path)
    for path in ("kubernetes", "jwt", "other"):
        client.sys.disable_auth_method(path)
    client.sys.delete_policy("tenant-acme")


@pytest.fixture
def tenants(driver: Driver) -> str:
    inputs = {"path": "tenants", "type": "kv", "options": {"version": "2"}}
    return driver.create(MOUNT, "tenants", inputs).id


def test_a_mount_lives_as_the_program_says(driver: Driver, tenants: str, client: hvac.Client) -> None:
    inputs = {"path": "tenants", "type": "kv", "options": {"version": "2"}}
    mount = driver.import_(MOUNT, "tenants", tenants)
    assert mount is not None
    assert mount.outputs["accessor"].startswith("kv_")
    assert driver.changed(mount, inputs) == []
    assert driver.read(mount) == mount

    mount = driver.update(mount, {**inputs, "description": "Theirs", "maxLeaseTtlSeconds": 100})
    told = client.sys.read_mount_configuration("tenants")["data"]
    assert (told["description"], told["max_lease_ttl"]) == ("Theirs", 100)

    assert list(driver.changes(mount, {"path": "tenants", "type": "database"}).replaces) == ["type"]
    moved = driver.update(mount, {**inputs, "path": "moved"})
    assert moved.outputs["path"] == "moved"
    assert driver.read(moved) is not None
    driver.delete(moved)
    assert driver.read(moved) is None


def test_a_preview_tells_what_is_known(driver: Driver) -> None:
    mount = driver.preview(MOUNT, "tenants", {"path": "tenants", "type": "kv"})
    assert (mount["path"], mount["accessor"], mount["defaultLeaseTtlSeconds"]) == (
        "tenants",
        UNKNOWN,
        UNKNOWN,
    )
    secret = driver.preview(SECRET, "key", {"mount": "tenants", "name": "key", "dataJson": UNKNOWN})
    assert secret["dataJson"] == Secret(UNKNOWN)
    assert secret["path"] is UNKNOWN


def test_a_secret_is_written_and_never_told(driver: Driver, tenants: str, client: hvac.Client) -> None:
    inputs = {
        "mount": tenants,
        "name": "acme/key",
        "dataJson": '{"b": 1, "a": "x"}',
        "deleteAllVersions": True,
    }
    secret = driver.create(SECRET, "key", inputs)
    assert secret.id == "tenants/data/acme/key"
    assert secret.outputs["dataJson"] == Secret('{"a":"x","b":1}')
    assert secret.outputs["data"] == Secret({})
    read = client.secrets.kv.v2.read_secret_version
    assert read("acme/key", mount_point=tenants, raise_on_deleted_version=True)["data"]["data"] == {
        "a": "x",
        "b": 1,
    }
    assert driver.changed(secret, {**inputs, "dataJson": '{"a":"x","b":1}'}) == []
    refreshed = driver.read(secret)
    assert refreshed is not None
    assert refreshed.outputs == secret.outputs
    assert driver.changed(refreshed, inputs) == []

    secret = driver.update(secret, {**inputs, "dataJson": json.dumps({"a": "y"})})
    assert secret.outputs["metadata"]["version"] == "2"
    driver.delete(secret)
    assert driver.read(secret) is None


def test_a_secret_that_is_no_object_is_refused_and_not_shown(driver: Driver) -> None:
    inputs = {"mount": "tenants", "name": "key", "dataJson": '["hush'}
    _, failures = driver.check(SECRET, "key", inputs)
    assert len(failures) == 1
    assert "no JSON object" in failures[0]
    assert "hush" not in failures[0]


def test_a_kv_mount_can_be_limited(driver: Driver, tenants: str) -> None:
    config = driver.create(KV, "limits", {"mount": tenants, "maxVersions": 5, "deleteVersionAfter": 3700})
    assert (config.id, config.outputs["deleteVersionAfter"]) == ("tenants/config", 3700)
    assert driver.read(config) == config
    assert driver.update(config, {"mount": tenants, "maxVersions": 7}).outputs["maxVersions"] == 7


def test_a_policy_that_is_gone_is_written_again(driver: Driver, client: hvac.Client) -> None:
    inputs = {"name": "tenant-acme", "policy": READ_ONLY}
    policy = driver.create(POLICY, "acme", inputs)
    assert policy.outputs["policy"] == READ_ONLY
    assert driver.read(policy) == policy
    assert driver.changed(policy, inputs) == []

    client.sys.delete_policy("tenant-acme")
    drifted = driver.read(policy)
    assert drifted is not None
    assert driver.changed(drifted, inputs) == ["policy"]
    driver.update(drifted, inputs)
    assert client.sys.read_policy("tenant-acme")["data"]["rules"] == READ_ONLY

    renamed = driver.changes(policy, {"name": "other", "policy": READ_ONLY})
    assert list(renamed.replaces) == ["name"]
    assert renamed.deleteBeforeReplace


def test_a_rate_is_written_read_changed_and_deleted(driver: Driver, client: hvac.Client) -> None:
    client.sys.enable_secrets_engine("kv", path="tenants")
    inputs = {"name": "acme-rate", "path": "tenants/acme", "rate": 2.0, "interval": 60.0}
    rate = driver.create(RATE, "acme", inputs)
    assert driver.read(rate) == rate
    assert driver.changed(rate, inputs) == []
    for _ in range(2):
        client.write_data("tenants/acme", data={"a": "b"})
    with pytest.raises(RateLimitExceeded):
        client.write_data("tenants/acme", data={"a": "b"})

    driver.update(rate, {**inputs, "rate": 1000.0})
    client.write_data("tenants/acme", data={"a": "b"})
    assert list(driver.changes(rate, {**inputs, "name": "other"}).replaces) == ["name"]

    driver.delete(rate)
    assert driver.read(rate) is None


def test_a_wrong_policy_is_one_message(driver: Driver) -> None:
    with pytest.raises(RefusedError) as refused:
        driver.create(POLICY, "acme", {"name": "tenant-acme", "policy": 'path "x" { capabilitie = [] }'})
    message = str(refused.value)
    assert message.startswith("error writing to Vault: Error making API request. URL: ")
    assert 'invalid key "capabilitie"' in message
    assert "\n" not in message


def test_tenants_get_logins_to_postgresql(driver: Driver, client: hvac.Client) -> None:
    exports = postgres.environment()
    url = (
        f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{exports['PGPORT']}/agents?sslmode=disable"
    )
    driver.create(MOUNT, "database", {"path": "database", "type": "database"})
    inputs = {
        "backend": "database",
        "name": "agents",
        "allowedRoles": ["tenant-*"],
        "postgresql": {
            "connectionUrl": url,
            "username": exports["PGUSER"],
            "password": exports["PGPASSWORD"],
            "passwordAuthentication": "scram-sha-256",
        },
    }
    connection = driver.create(CONNECTION, "agents", inputs)
    assert connection.id == "database/config/agents"
    block = connection.outputs["postgresql"]
    assert block["password"] == Secret(exports["PGPASSWORD"])
    assert (block["maxOpenConnections"], block["connectionUrl"]) == (2, url)
    assert driver.read(connection) == connection
    assert driver.changed(connection, inputs) == []

    statement = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"
    role_inputs = {
        "backend": "database",
        "name": "tenant-acme",
        "dbName": "agents",
        "creationStatements": [statement],
        "defaultTtl": 3600,
    }
    role = driver.create(ROLE, "acme", role_inputs)
    assert role.id == "database/roles/tenant-acme"
    assert driver.read(role) == role
    assert driver.changed(role, {**role_inputs, "defaultTtl": 60}) == ["defaultTtl"]

    login = client.secrets.database.generate_credentials("tenant-acme")["data"]
    with psycopg.connect(
        host="127.0.0.1",
        port=int(exports["PGPORT"]),
        user=login["username"],
        password=login["password"],
        dbname="agents",
    ) as session:
        assert session.execute("SELECT current_user").fetchone() == (login["username"],)
    client.sys.revoke_prefix("database/creds/tenant-acme")

    driver.delete(role)
    assert driver.read(role) is None
    driver.delete(connection)
    assert driver.read(connection) is None


def test_a_connection_that_does_not_work_is_refused(driver: Driver) -> None:
    driver.create(MOUNT, "database", {"path": "database", "type": "database"})
    with pytest.raises(RefusedError, match="no supported database engines configured"):
        driver.create(CONNECTION, "agents", {"backend": "database"})
    port = postgres.environment()["PGPORT"]
    block = {
        "connectionUrl": f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{port}/agents?sslmode=disable",
        "username": "postgres",
        "password": "wrong",
    }
    with pytest.raises(RefusedError, match="password authentication failed") as refused:
        driver.create(CONNECTION, "agents", {"backend": "database", "name": "agents", "postgresql": block})
    assert "wrong" not in str(refused.value)


def test_other_databases_are_refused(driver: Driver) -> None:
    _, failures = driver.check(CONNECTION, "x", {"backend": "database", "mysql": {"connectionUrl": "x"}})
    assert len(failures) == 1
    assert "does not support" in failures[0]
    block = {"connectionUrl": "x", "authType": "gcp_iam"}
    _, failures = driver.check(CONNECTION, "x", {"backend": "database", "postgresql": block})
    assert len(failures) == 1
    assert "x.postgresql.authType" in failures[0]


def test_service_accounts_log_in(driver: Driver, client: hvac.Client) -> None:
    auth = driver.create(AUTH, "kubernetes", {"type": "kubernetes", "description": "Machines"})
    assert auth.id == "kubernetes"
    assert auth.outputs["tune"]["maxLeaseTtl"] == "768h"
    assert driver.read(auth) == auth
    tuned = {"type": "kubernetes", "description": "Machines", "tune": {"maxLeaseTtl": "90s"}}
    auth = driver.update(auth, tuned)
    assert auth.outputs["tune"] == {"maxLeaseTtl": "90s"}
    assert client.sys.read_auth_method_tuning("kubernetes")["data"]["max_lease_ttl"] == 90
    assert driver.changed(auth, tuned) == []

    inputs = {
        "backend": "kubernetes",
        "kubernetesHost": "https://127.0.0.1:6443",
        "kubernetesCaCert": "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----",
        "tokenReviewerJwt": "a.b.c",
        "disableLocalCaJwt": True,
    }
    config = driver.create(KUBERNETES, "config", inputs)
    assert config.id == "auth/kubernetes/config"
    assert config.outputs["tokenReviewerJwt"] == Secret("a.b.c")
    assert driver.read(config) == config
    config = driver.update(config, {**inputs, "kubernetesHost": "https://127.0.0.1:6444"})
    assert client.read("auth/kubernetes/config")["data"]["kubernetes_host"] == "https://127.0.0.1:6444"

    role_inputs = {
        "backend": "kubernetes",
        "roleName": "tenant-acme",
        "boundServiceAccountNames": ["agent"],
        "boundServiceAccountNamespaces": ["tenant-acme"],
        "tokenPolicies": ["tenant-acme", "other"],
        "tokenTtl": 3600,
        "tokenBoundCidrs": ["10.0.0.1/32"],
        "audience": "vault",
    }
    role = driver.create(LOGIN, "acme", role_inputs)
    assert role.id == "auth/kubernetes/role/tenant-acme"
    assert driver.read(role) == role
    assert driver.changed(role, {**role_inputs, "tokenPolicies": ["other", "tenant-acme"]}) == []
    role = driver.update(role, {**role_inputs, "tokenPolicies": ["tenant-acme"], "tokenTtl": 60})
    told = client.read("auth/kubernetes/role/tenant-acme")["data"]
    assert (told["token_policies"], told["token_ttl"], told["audience"]) == (["tenant-acme"], 60, "vault")
    driver.delete(role)
    assert driver.read(role) is None
    driver.delete(config)
    driver.delete(auth)
    assert driver.read(auth) is None


def _pair() -> tuple[Ed25519PrivateKey, str]:
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    # Vault keeps it without the line's end, and the plugin would see a change for ever.
    return key, public.decode().strip()


JWT_ROLE = {
    "backend": "jwt",
    "roleName": "tenant-acme",
    "roleType": "jwt",
    "userClaim": "tenant",
    "boundAudiences": ["vault"],
    "boundClaims": {"tenant": "acme"},
    "boundClaimsType": "string",
    "claimMappings": {"sub": "subject"},
    "clockSkewLeeway": 30,
    "tokenPolicies": ["tenant-acme"],
    "tokenNoDefaultPolicy": True,
    "tokenTtl": 60,
    "tokenExplicitMaxTtl": 60,
}


def test_a_login_method_for_signed_words_lives_as_the_program_says(
    driver: Driver, client: hvac.Client
) -> None:
    (_, first), (_, second) = _pair(), _pair()
    inputs = {"description": "Words", "boundIssuer": "gateway", "jwtValidationPubkeys": [first, second]}
    auth = driver.create(JWT, "jwt", inputs)
    assert (auth.id, auth.outputs["type"], auth.outputs["local"]) == ("jwt", "jwt", False)
    assert auth.outputs["accessor"].startswith("auth_jwt_")
    assert driver.read(auth) == auth
    assert driver.changed(auth, inputs) == []
    assert driver.changed(auth, {**inputs, "jwtValidationPubkeys": [first, f"{second}\n"]}) != []
    told = client.read("auth/jwt/config")["data"]
    assert (told["bound_issuer"], told["jwt_validation_pubkeys"]) == ("gateway", [first, second])

    less = {"jwtValidationPubkeys": [second], "jwtSupportedAlgs": ["EdDSA"]}
    auth = driver.update(auth, less)
    told = client.read("auth/jwt/config")["data"]
    assert (told["bound_issuer"], told["jwt_supported_algs"]) == ("", ["EdDSA"])
    assert told["jwt_validation_pubkeys"] == [second]
    assert list(driver.changes(auth, {**less, "type": "oidc"}).replaces) == ["type"]
    moved = driver.update(auth, {**less, "path": "other"})
    assert client.read("auth/other/config")["data"]["jwt_supported_algs"] == ["EdDSA"]
    assert driver.read(moved) is not None
    driver.delete(moved)
    assert driver.read(moved) is None


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ({}, "exactly one of oidc_discovery_url, jwks_url, jwks_pairs, or jwt_validation_pubkeys"),
        ({"jwtValidationPubkeys": ["x"], "type": "saml"}, "expected type to be one of"),
        ({"jwtValidationPubkeys": ["x"], "jwksUrl": "https://x"}, "conflicts with jwt_validation_pubkeys"),
        ({"oidcDiscoveryUrl": "https://x"}, "does not support this property"),
    ],
)
def test_a_login_method_without_a_key_is_refused(driver: Driver, inputs: Properties, why: str) -> None:
    assert why in "; ".join(driver.check(JWT, "jwt", inputs)[1])


def test_a_role_for_signed_words_lives_as_the_program_says(driver: Driver, client: hvac.Client) -> None:
    _, public = _pair()
    driver.create(JWT, "jwt", {"jwtValidationPubkeys": [public]})
    role = driver.create(JWT_LOGIN, "acme", JWT_ROLE)
    assert role.id == "auth/jwt/role/tenant-acme"
    assert driver.read(role) == role
    assert driver.changed(role, JWT_ROLE) == []
    assert role.outputs["boundClaims"] == {"tenant": "acme"}

    wider = {**JWT_ROLE, "boundClaims": {"tenant": "acme, globex"}, "tokenTtl": 30}
    role = driver.update(role, wider)
    told = client.read(role.id)["data"]
    assert (told["bound_claims"], told["token_ttl"]) == ({"tenant": ["acme", "globex"]}, 30)
    whole = {**wider, "disableBoundClaimsParsing": True}
    role = driver.update(role, whole)
    assert client.read(role.id)["data"]["bound_claims"] == {"tenant": ["acme, globex"]}
    assert list(driver.changes(role, {**whole, "roleType": "oidc"}).replaces) == ["roleType"]
    driver.delete(role)
    assert driver.read(role) is None


def test_a_signed_word_lets_in_whom_the_role_names_and_nobody_else(
    driver: Driver, client: hvac.Client
) -> None:
    (key, public), (other_key, _) = _pair(), _pair()
    driver.create(POLICY, "acme", {"name": "tenant-acme", "policy": READ_ONLY})
    driver.create(
        JWT,
        "jwt",
        {"boundIssuer": "gateway", "jwtSupportedAlgs": ["EdDSA"], "jwtValidationPubkeys": [public]},
    )
    driver.create(JWT_LOGIN, "acme", JWT_ROLE)

    def log_in(key: Ed25519PrivateKey = key, **claims: object) -> Properties:
        now = int(time.time())
        said = {"iss": "gateway", "aud": "vault", "sub": "ada", "tenant": "acme", "nbf": now, "exp": now + 60}
        word = jwt.encode({**said, **claims}, key, "EdDSA")
        answer = client.write("auth/jwt/login", role="tenant-acme", jwt=word)
        return dict(answer["auth"])

    entered = log_in()
    assert (entered["policies"], entered["lease_duration"]) == (["tenant-acme"], 60)
    assert entered["metadata"] == {"role": "tenant-acme", "subject": "ada"}
    (alias,) = client.read(f"identity/entity/id/{entered['entity_id']}")["data"]["aliases"]
    assert alias["metadata"]["role"] == "tenant-acme"
    # The clocks of two servers differ; by how much they may, the role says.
    assert log_in(nbf=int(time.time()) + 20)
    for wrong in (
        {"key": other_key},
        {"aud": "gateway"},
        {"iss": "somebody"},
        {"tenant": "globex"},
        {"tenant": None},
        {"exp": int(time.time()) - 40, "nbf": int(time.time()) - 100},
        {"nbf": int(time.time()) + 50},
    ):
        with pytest.raises(VaultError):
            log_in(**wrong)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (5, "5s"), (65, "1m5s"), (3600, "1h"), (3660, "1h1m"), (3605, "1h0m5s")]
)
def test_durations_are_written_as_vault_does(seconds: int, text: str) -> None:
    assert server.short(seconds) == text
    assert server.seconds(text) == seconds


def test_it_works_with_a_child_of_the_token(client: hvac.Client) -> None:
    before = set(client.list("auth/token/accessors")["data"]["keys"])
    driver = Driver(VaultPlugin(), configuration(maxLeaseTtlSeconds=300))
    driver.create(POLICY, "acme", {"name": "tenant-acme", "policy": READ_ONLY})
    driver.close()
    (accessor,) = set(client.list("auth/token/accessors")["data"]["keys"]) - before
    token = client.lookup_token(accessor, accessor=True)["data"]
    assert (token["explicit_max_ttl"], token["renewable"]) == (300, False)


def test_a_server_that_is_away_and_a_wrong_token_are_one_message() -> None:
    for more, expected in (
        ({"address": "http://127.0.0.1:1", "maxRetries": 0}, "no answer from Vault at http://127.0.0.1:1"),
        ({"token": "wrong"}, "failed to lookup token: Error making API request."),
    ):
        driver = Driver(VaultPlugin(), configuration(**more))
        with pytest.raises(RefusedError) as refused:
            driver.create(POLICY, "acme", {"name": "tenant-acme", "policy": READ_ONLY})
        driver.close()
        assert expected in str(refused.value)
        assert "\n" not in str(refused.value)
