"""The attack suite: nothing leaks, and each grant that is widened is found and named.

A suite that finds nothing proves little until it has been seen to find what is there.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from exoscale.api.v2 import Client  # type: ignore[import-untyped]
from redis import Redis

from tests.integration.conftest import Platform
from tests.integration.test_runtime_state import call, wait_for

pytestmark = pytest.mark.integration

ATTACKER, VICTIM, MACHINE, STARTER = "acme", "corvus", "dufour", "bluebird"
SERVERS = ("postgres", "vault", "object-storage", "exoscale", "kubernetes", "redis", "network")


def attack(platform: Platform, *servers: str) -> subprocess.CompletedProcess[str]:
    """`make attack`, on some servers or on all."""
    return platform.run("attack", *servers)


def figures(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Those of the last line."""
    pairs = (pair.split("=") for pair in done.stdout.splitlines()[-1].split())
    return {name: int(value) for name, value in pairs}


def assert_holds(done: subprocess.CompletedProcess[str]) -> None:
    """Something was tried, all of it was denied, and the exit status says so."""
    assert done.returncode == 0, done.stdout + done.stderr
    found = figures(done)
    assert list(found) == ["attempts", "denied", "leaked"]
    assert found["attempts"] == found["denied"] > 0 == found["leaked"]


@pytest.fixture(scope="module")
def whole(platform: Platform) -> subprocess.CompletedProcess[str]:
    """The whole suite, once."""
    return attack(platform)


def test_no_tenant_gets_at_what_is_anothers(whole: subprocess.CompletedProcess[str]) -> None:
    assert_holds(whole)


def test_every_server_and_every_ordered_pair_of_tenants_is_tried(
    platform: Platform, whole: subprocess.CompletedProcess[str]
) -> None:
    for server in ("PostgreSQL", "Vault", "Object storage", "Exoscale", "Kubernetes", "Redis", "Network"):
        assert server in whole.stdout
    tenants = len(platform.status()["tenants"])
    # Each attack on a tenant's data is one per ordered pair; there are over a hundred of them.
    assert figures(whole)["attempts"] > 100 * tenants * (tenants - 1)


def test_the_suite_leaves_nothing_behind(platform: Platform, whole: subprocess.CompletedProcess[str]) -> None:
    assert whole.returncode == 0
    with platform.database() as administrator:
        for query in (
            "SELECT relname FROM pg_class WHERE relname LIKE 'attack%'",
            "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'attack%'",
            "SELECT oid FROM pg_largeobject_metadata",
            "SELECT rolname FROM pg_roles WHERE rolname LIKE 'attack%'",
        ):
            assert administrator.execute(query.encode()).fetchall() == []
    vault = platform.vault()
    listed = vault.secrets.kv.v2.list_secrets(ATTACKER, mount_point="tenants")["data"]["keys"]
    assert not [key for key in listed if "attack" in key]
    assert not [name for name in vault.sys.list_policies()["data"]["policies"] if "attack" in name]
    s3 = platform.s3()
    for bucket in (found["Name"] for found in s3.list_buckets()["Buckets"]):
        assert "attack" not in bucket
        versions = s3.list_object_versions(Bucket=bucket)
        left = versions.get("Versions", []) + versions.get("DeleteMarkers", [])
        assert not [found["Key"] for found in left if "attack" in found["Key"]]
    secrets = platform.core().list_secret_for_all_namespaces().items
    assert not [found for found in secrets if "attack" in found.metadata.name]
    assert platform.changes()["update"] == 0


def test_a_machine_that_sleeps_is_woken_for_it_and_sleeps_again(platform: Platform) -> None:
    call(platform, MACHINE, "stop")
    wait_for(platform, MACHINE, "Stopped")
    try:
        assert_holds(attack(platform, "kubernetes"))
        wait_for(platform, MACHINE, "Stopped")
    finally:
        call(platform, MACHINE, "start")
        wait_for(platform, MACHINE, "Running")
    assert platform.changes()["update"] == 0


def test_a_server_that_is_not_known_is_told(platform: Platform) -> None:
    done = attack(platform, "mysql")

    assert done.returncode == 1
    assert "mysql" in done.stderr
    assert "postgres" in done.stderr
    assert "Traceback" not in done.stderr


@contextmanager
def sql(platform: Platform, widen: str, take_back: str) -> Iterator[None]:
    with platform.database() as administrator:
        administrator.execute(widen.encode())
        try:
            yield
        finally:
            administrator.execute(take_back.encode())


@contextmanager
def vault_policy(platform: Platform, addition: str) -> Iterator[None]:
    """The attacker's policy says more."""
    vault, name = platform.vault(), f"tenant-{ATTACKER}"
    policy = vault.sys.read_policy(name)["data"]["rules"]
    vault.sys.create_or_update_policy(name, policy + addition)
    try:
        yield
    finally:
        vault.sys.create_or_update_policy(name, policy)


@contextmanager
def vault_settings(platform: Platform, path: str, **changes: Any) -> Iterator[None]:
    """Settings in Vault are others."""
    vault = platform.vault()
    settings = vault.read(path)["data"]
    vault.write_data(path, data={**settings, **changes})
    try:
        yield
    finally:
        vault.write_data(path, data=settings)


@contextmanager
def let_in(platform: Platform, tenant: str, namespace: str, account: str) -> Iterator[None]:
    """Vault lets an account in as a starter, which has none."""
    path = f"auth/kubernetes/role/tenant-{tenant}"
    bound = {"bound_service_account_names": account, "bound_service_account_namespaces": namespace}
    platform.vault().write_data(path, data={**bound, "token_policies": f"tenant-{tenant}"})
    try:
        yield
    finally:
        platform.vault().delete(path)


@contextmanager
def storage_policy(platform: Platform, narrow: str, wide: str) -> Iterator[None]:
    """The IAM role of the attacker's key says `wide` where it said `narrow`."""
    exports = platform.exports()
    api = Client(
        exports["EXOSCALE_API_KEY"], exports["EXOSCALE_API_SECRET"], url=exports["EXOSCALE_API_ENDPOINT"]
    )
    role = next(role for role in api.list_iam_roles()["iam-roles"] if role["name"] == f"tenant-{ATTACKER}")
    policy = api.get_iam_role(id=role["id"])["policy"]
    widened = json.loads(json.dumps(policy).replace(narrow, wide))
    assert widened != policy

    def put(policy: dict[str, Any]) -> None:
        api.update_iam_role_policy(
            id=role["id"],
            default_service_strategy=policy["default-service-strategy"],
            services=policy["services"],
        )

    put(widened)
    try:
        yield
    finally:
        put(policy)


@contextmanager
def public_bucket(platform: Platform) -> Iterator[None]:
    s3 = platform.s3()
    bucket = next(
        name for name in (each["Name"] for each in s3.list_buckets()["Buckets"]) if "artifacts" in name
    )
    statement = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{bucket}/*",
    }
    s3.put_bucket_policy(
        Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    )
    try:
        yield
    finally:
        s3.delete_bucket_policy(Bucket=bucket)


@contextmanager
def objects(platform: Platform, *manifests: dict[str, Any]) -> Iterator[None]:
    """Objects that are in the cluster for a while."""
    kubectl(platform, "create", *manifests)
    try:
        yield
    finally:
        kubectl(platform, "delete", *manifests)


@contextmanager
def without_default_deny(platform: Platform) -> Iterator[None]:
    get = ["kubectl", "get", "networkpolicy", "default-deny", "-n", f"tenant-{VICTIM}", "-o", "json"]
    found = subprocess.run(get, env=platform.exports(), capture_output=True, text=True, check=True).stdout
    policy = json.loads(found)
    for field in ("resourceVersion", "uid", "creationTimestamp"):
        del policy["metadata"][field]
    kubectl(platform, "delete", policy)
    try:
        yield
    finally:
        kubectl(platform, "create", policy)


def kubectl(platform: Platform, action: str, *manifests: dict[str, Any]) -> None:
    subprocess.run(
        ["kubectl", action, "-f", "-"],
        env=platform.exports(),
        input=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)}),
        capture_output=True,
        text=True,
        check=True,
    )


def rights(name: str, namespace: str, rule: dict[str, list[str]]) -> list[dict[str, Any]]:
    """A role in a namespace, or everywhere if that is empty, and its binding to the attacker's account."""
    group, kind = "rbac.authorization.k8s.io", "Role" if namespace else "ClusterRole"
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    subject = {"kind": "ServiceAccount", "name": "agent", "namespace": f"tenant-{ATTACKER}"}
    return [
        {"apiVersion": f"{group}/v1", "kind": kind, "metadata": metadata, "rules": [rule]},
        {
            "apiVersion": f"{group}/v1",
            "kind": f"{kind}Binding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": kind, "name": name},
            "subjects": [subject],
        },
    ]


def network_policy(tenant: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "widened", "namespace": f"tenant-{tenant}"},
        "spec": {"podSelector": {}, **spec},
    }


@contextmanager
def redis(platform: Platform, widen: list[str], take_back: list[str]) -> Iterator[None]:
    with Redis.from_url(platform.exports()["REDIS_URL"]) as administrator:
        administrator.execute_command(*widen)
        try:
            yield
        finally:
            administrator.execute_command(*take_back)


@dataclass(frozen=True)
class Mutation:
    """A grant that is widened for a while, and the attack that has to find it."""

    name: str
    server: str
    found_by: str
    widened: Callable[[Platform], AbstractContextManager[None]]


SECRETS = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list"]}
STARTING = {
    "apiGroups": ["subresources.kubevirt.io"],
    "resources": ["virtualmachines/start"],
    "verbs": ["update"],
}
BINDING = {"apiGroups": [""], "resources": ["resourcequotas"], "verbs": ["deletecollection"]}
REDIS_USER = ["ACL", "SETUSER", ATTACKER, "on", ">password", "~activity:*", "+get"]

MUTATIONS = [
    Mutation(
        "a schema open to everybody",
        "postgres",
        "look a table up by its name",
        lambda platform: sql(
            platform,
            f"GRANT USAGE ON SCHEMA tenant_{VICTIM} TO PUBLIC",
            f"REVOKE USAGE ON SCHEMA tenant_{VICTIM} FROM PUBLIC",
        ),
    ),
    Mutation(
        "tables that another tenant may read",
        "postgres",
        "read agents",
        lambda platform: sql(
            platform,
            f"GRANT USAGE ON SCHEMA tenant_{VICTIM} TO tenant_{ATTACKER};"
            f"GRANT SELECT ON ALL TABLES IN SCHEMA tenant_{VICTIM} TO tenant_{ATTACKER}",
            f"REVOKE ALL ON ALL TABLES IN SCHEMA tenant_{VICTIM} FROM tenant_{ATTACKER};"
            f"REVOKE ALL ON SCHEMA tenant_{VICTIM} FROM tenant_{ATTACKER}",
        ),
    ),
    Mutation(
        "a tenant that is a member of another",
        "postgres",
        "act as the victim",
        lambda platform: sql(
            platform,
            f"GRANT tenant_{VICTIM} TO tenant_{ATTACKER}",
            f"REVOKE tenant_{VICTIM} FROM tenant_{ATTACKER}",
        ),
    ),
    Mutation(
        "a tenant past row-level security",
        "postgres",
        "read rows that a policy hides",
        lambda platform: sql(
            platform, f"ALTER ROLE tenant_{ATTACKER} BYPASSRLS", f"ALTER ROLE tenant_{ATTACKER} NOBYPASSRLS"
        ),
    ),
    Mutation(
        "a tenant that runs programs on the server",
        "postgres",
        "run programs, reading",
        lambda platform: sql(
            platform,
            f"GRANT pg_execute_server_program TO tenant_{ATTACKER}",
            f"REVOKE pg_execute_server_program FROM tenant_{ATTACKER}",
        ),
    ),
    Mutation(
        "a tenant that sees everybody's queries",
        "postgres",
        "see a running query",
        lambda platform: sql(
            platform,
            f"GRANT pg_read_all_stats TO tenant_{ATTACKER}",
            f"REVOKE pg_read_all_stats FROM tenant_{ATTACKER}",
        ),
    ),
    Mutation(
        "the schema public open for writing",
        "postgres",
        "create a table in public",
        lambda platform: sql(
            platform, "GRANT CREATE ON SCHEMA public TO PUBLIC", "REVOKE CREATE ON SCHEMA public FROM PUBLIC"
        ),
    ),
    Mutation(
        "a tenant that makes roles",
        "postgres",
        "create a role",
        lambda platform: sql(
            platform, f"ALTER ROLE tenant_{ATTACKER} CREATEROLE", f"ALTER ROLE tenant_{ATTACKER} NOCREATEROLE"
        ),
    ),
    Mutation(
        "a policy for everybody's secrets",
        "vault",
        "read a secret",
        lambda platform: vault_policy(platform, 'path "tenants/data/+/*" { capabilities = ["read"] }'),
    ),
    Mutation(
        "a policy for everything",
        "vault",
        "seal the server",
        lambda platform: vault_policy(
            platform, 'path "*" { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }'
        ),
    ),
    Mutation(
        "a policy for everybody's database logins",
        "vault",
        "get a database login",
        lambda platform: vault_policy(platform, 'path "database/creds/+" { capabilities = ["read"] }'),
    ),
    Mutation(
        "a login with another tenant's policy",
        "vault",
        "list secrets",
        lambda platform: vault_settings(
            platform,
            f"auth/kubernetes/role/tenant-{ATTACKER}",
            token_policies=[f"tenant-{ATTACKER}", f"tenant-{VICTIM}"],
        ),
    ),
    Mutation(
        "a login that another tenant's account may use",
        "vault",
        "log in as the victim with one's own account",
        lambda platform: vault_settings(
            platform,
            f"auth/kubernetes/role/tenant-{MACHINE}",
            bound_service_account_namespaces=[f"tenant-{MACHINE}", f"tenant-{ATTACKER}"],
        ),
    ),
    Mutation(
        "a login that a word for another tenant opens",
        "vault",
        "log in as the victim with the gateway's word for oneself",
        lambda platform: vault_settings(platform, f"auth/jwt/role/tenant-{STARTER}", bound_claims={}),
    ),
    Mutation(
        "a login that the shared runtime's account may use",
        "vault",
        "log in as anybody with the shared runtime's account",
        lambda platform: let_in(platform, STARTER, "runtime", "agent-runtime"),
    ),
    Mutation(
        "a key to the whole bucket",
        "object-storage",
        "get an object",
        lambda platform: storage_policy(platform, f"tenant_{ATTACKER}/", "tenant_"),
    ),
    Mutation(
        "a key to all of Exoscale's API",
        "exoscale",
        "list nodes",
        lambda platform: storage_policy(
            platform, '"default-service-strategy": "deny"', '"default-service-strategy": "allow"'
        ),
    ),
    Mutation("a public bucket", "object-storage", "get an object unsigned", public_bucket),
    Mutation(
        "an account that reads secrets everywhere",
        "kubernetes",
        "list all secrets",
        lambda platform: objects(platform, *rights("widened", "", SECRETS)),
    ),
    Mutation(
        "an account that starts another tenant's machine",
        "kubernetes",
        "start a machine",
        lambda platform: objects(platform, *rights("widened", f"tenant-{MACHINE}", STARTING)),
    ),
    Mutation(
        "an account that lifts its own quota",
        "kubernetes",
        "delete the quota, one's own",
        lambda platform: objects(platform, *rights("widened", f"tenant-{ATTACKER}", BINDING)),
    ),
    Mutation(
        "a namespace that is open by default", "network", "reach the platform's pods", without_default_deny
    ),
    Mutation(
        "two namespaces open to each other",
        "network",
        "reach another tenant's pods",
        lambda platform: objects(
            platform,
            network_policy(ATTACKER, {"policyTypes": ["Egress"], "egress": [{}]}),
            network_policy(VICTIM, {"policyTypes": ["Ingress"], "ingress": [{}]}),
        ),
    ),
    Mutation(
        "a way to the metadata service",
        "network",
        "reach the metadata service",
        lambda platform: objects(
            platform,
            network_policy(
                ATTACKER,
                {
                    "policyTypes": ["Egress"],
                    "egress": [{"to": [{"ipBlock": {"cidr": "169.254.0.0/16"}}], "ports": [{"port": 80}]}],
                },
            ),
        ),
    ),
    Mutation(
        "a common password for everything in Redis",
        "redis",
        "read when a tenant was active",
        lambda platform: redis(
            platform, ["ACL", "SETUSER", "default", ">password"], ["ACL", "SETUSER", "default", "<password"]
        ),
    ),
    Mutation(
        "a user of Redis with a common password",
        "redis",
        "log in",
        lambda platform: redis(platform, REDIS_USER, ["ACL", "DELUSER", ATTACKER]),
    ),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])
def test_a_widened_grant_is_found_and_named(platform: Platform, mutation: Mutation) -> None:
    with mutation.widened(platform):
        done = attack(platform, mutation.server)

    assert done.returncode == 1
    assert figures(done)["leaked"] > 0
    leaks = [line for line in done.stderr.splitlines() if line.startswith("leaked: ")]
    assert any(f": {mutation.found_by} (" in line for line in leaks), done.stderr


@pytest.mark.parametrize("server", SERVERS)
def test_every_server_holds_again_once_the_grant_is_taken_back(platform: Platform, server: str) -> None:
    assert_holds(attack(platform, server))
