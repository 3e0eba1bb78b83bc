"""The attack suite: nothing leaks, and each grant that is widened is found and named.

A suite that finds nothing proves little until it has been seen to find what is there.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from exoscale.api.v2 import Client  # type: ignore[import-untyped]
from redis import Redis

from tests.integration.conftest import Platform
from tests.integration.machines import call, wait_for

pytestmark = pytest.mark.integration

ENTERPRISE, STARTER, PROFESSIONAL, CLOUD = "acme", "bluebird", "corvus", "dufour"
SERVERS = ("postgres", "vault", "object-storage", "exoscale", "kubernetes", "redis", "network")


def attack(platform: Platform, *servers: str) -> subprocess.CompletedProcess[str]:
    """`make attack`, on some servers or on all."""
    return platform.run("attack", *servers)


def figures(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Those of the last line."""
    pairs = (pair.split("=") for pair in done.stdout.splitlines()[-1].split())
    return {name: int(value) for name, value in pairs}


@contextmanager
def sql(platform: Platform, widen: str, take_back: str) -> Iterator[None]:
    with platform.database() as administrator:
        administrator.execute(widen.encode())
        try:
            yield
        finally:
            administrator.execute(take_back.encode())


@contextmanager
def vault_policy(platform: Platform, tenant: str, addition: str) -> Iterator[None]:
    """A tenant's policy says more."""
    vault, name = platform.vault(), f"tenant-{tenant}"
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
def storage_policy(platform: Platform, tenant: str, narrow: str, wide: str) -> Iterator[None]:
    """The IAM role of a tenant's key says `wide` where it said `narrow`."""
    exports = platform.exports()
    api = Client(
        exports["EXOSCALE_API_KEY"], exports["EXOSCALE_API_SECRET"], url=exports["EXOSCALE_API_ENDPOINT"]
    )
    role = next(role for role in api.list_iam_roles()["iam-roles"] if role["name"] == f"tenant-{tenant}")
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
    """Have objects in the cluster."""
    kubectl(platform, "create", *manifests)
    try:
        yield
    finally:
        kubectl(platform, "delete", *manifests)


@contextmanager
def without_default_deny(platform: Platform, tenant: str) -> Iterator[None]:
    get = ["kubectl", "get", "networkpolicy", "default-deny", "-n", f"tenant-{tenant}", "-o", "json"]
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
    """A role in a namespace, or everywhere if that is empty, and its binding to the enterprise's account."""
    group, kind = "rbac.authorization.k8s.io", "Role" if namespace else "ClusterRole"
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    subject = {"kind": "ServiceAccount", "name": "agent", "namespace": f"tenant-{ENTERPRISE}"}
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


def network_policy(tenant: str, direction: str, rule: dict[str, Any]) -> dict[str, Any]:
    """All that a rule lets through to (`ingress`) or from (`egress`) a tenant's pods."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"widened-{direction}", "namespace": f"tenant-{tenant}"},
        "spec": {"podSelector": {}, "policyTypes": [direction.capitalize()], direction: [rule]},
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
    """A grant that is widened for a while, and the finding that names it."""

    name: str
    server: str
    found_by: str
    between: str
    """The attacker and its victim; that all grants are widened at once gives this attack to nobody else."""
    widened: Callable[[Platform], AbstractContextManager[None]]


SECRETS = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list"]}
STARTING = {
    "apiGroups": ["subresources.kubevirt.io"],
    "resources": ["virtualmachines/start"],
    "verbs": ["update"],
}
LIFTING = {"apiGroups": [""], "resources": ["resourcequotas"], "verbs": ["deletecollection"]}
METADATA = {"to": [{"ipBlock": {"cidr": "169.254.0.0/16"}}], "ports": [{"port": 80}]}
REDIS_USER = ["ACL", "SETUSER", ENTERPRISE, "on", ">password", "~activity:*", "+hgetall"]

MUTATIONS = [
    Mutation(
        "a schema open to everybody",
        "PostgreSQL",
        "look a table up by its name",
        f"{PROFESSIONAL} on {STARTER}",
        lambda platform: sql(
            platform,
            f"GRANT USAGE ON SCHEMA tenant_{STARTER} TO PUBLIC",
            f"REVOKE USAGE ON SCHEMA tenant_{STARTER} FROM PUBLIC",
        ),
    ),
    Mutation(
        "tables that another tenant may read",
        "PostgreSQL",
        "read agents",
        f"{ENTERPRISE} on {PROFESSIONAL}",
        lambda platform: sql(
            platform,
            f"GRANT USAGE ON SCHEMA tenant_{PROFESSIONAL} TO tenant_{ENTERPRISE};"
            f"GRANT SELECT ON ALL TABLES IN SCHEMA tenant_{PROFESSIONAL} TO tenant_{ENTERPRISE}",
            f"REVOKE ALL ON ALL TABLES IN SCHEMA tenant_{PROFESSIONAL} FROM tenant_{ENTERPRISE};"
            f"REVOKE ALL ON SCHEMA tenant_{PROFESSIONAL} FROM tenant_{ENTERPRISE}",
        ),
    ),
    Mutation(
        "a tenant that is a member of another",
        "PostgreSQL",
        "act as the victim",
        f"{PROFESSIONAL} on {ENTERPRISE}",
        lambda platform: sql(
            platform,
            f"GRANT tenant_{ENTERPRISE} TO tenant_{PROFESSIONAL}",
            f"REVOKE tenant_{ENTERPRISE} FROM tenant_{PROFESSIONAL}",
        ),
    ),
    Mutation(
        "a tenant past row-level security",
        "PostgreSQL",
        "read rows that a policy hides",
        f"{ENTERPRISE} on {STARTER}",
        lambda platform: sql(
            platform,
            f"ALTER ROLE tenant_{ENTERPRISE} BYPASSRLS",
            f"ALTER ROLE tenant_{ENTERPRISE} NOBYPASSRLS",
        ),
    ),
    Mutation(
        "a tenant that runs programs on the server",
        "PostgreSQL",
        "run programs, reading",
        f"{ENTERPRISE} on platform",
        lambda platform: sql(
            platform,
            f"GRANT pg_execute_server_program TO tenant_{ENTERPRISE}",
            f"REVOKE pg_execute_server_program FROM tenant_{ENTERPRISE}",
        ),
    ),
    Mutation(
        "a tenant that sees everybody's queries",
        "PostgreSQL",
        "see a running query",
        f"{ENTERPRISE} on {STARTER}",
        lambda platform: sql(
            platform,
            f"GRANT pg_read_all_stats TO tenant_{ENTERPRISE}",
            f"REVOKE pg_read_all_stats FROM tenant_{ENTERPRISE}",
        ),
    ),
    Mutation(
        "the schema public open for writing",
        "PostgreSQL",
        "create a table in public",
        f"{STARTER} on platform",
        lambda platform: sql(
            platform, "GRANT CREATE ON SCHEMA public TO PUBLIC", "REVOKE CREATE ON SCHEMA public FROM PUBLIC"
        ),
    ),
    Mutation(
        "a tenant that makes roles",
        "PostgreSQL",
        "create a role",
        f"{ENTERPRISE} on platform",
        lambda platform: sql(
            platform,
            f"ALTER ROLE tenant_{ENTERPRISE} CREATEROLE",
            f"ALTER ROLE tenant_{ENTERPRISE} NOCREATEROLE",
        ),
    ),
    Mutation(
        "a policy for everybody's secrets",
        "Vault",
        "read a secret",
        f"{ENTERPRISE} on {STARTER}",
        lambda platform: vault_policy(
            platform, ENTERPRISE, 'path "tenants/data/+/*" { capabilities = ["read"] }'
        ),
    ),
    Mutation(
        "a policy for everything",
        "Vault",
        "seal the server",
        f"{PROFESSIONAL} on platform",
        lambda platform: vault_policy(
            platform,
            PROFESSIONAL,
            'path "*" { capabilities = ["create", "read", "update", "delete", "list", "sudo"] }',
        ),
    ),
    Mutation(
        "a policy for everybody's database logins",
        "Vault",
        "get a database login",
        f"{ENTERPRISE} on {STARTER}",
        lambda platform: vault_policy(
            platform, ENTERPRISE, 'path "database/creds/+" { capabilities = ["read"] }'
        ),
    ),
    Mutation(
        "a login with another tenant's policy",
        "Vault",
        "list secrets",
        f"{ENTERPRISE} on {CLOUD}",
        lambda platform: vault_settings(
            platform,
            f"auth/kubernetes/role/tenant-{ENTERPRISE}",
            token_policies=[f"tenant-{ENTERPRISE}", f"tenant-{CLOUD}"],
        ),
    ),
    Mutation(
        "a login that another tenant's account may use",
        "Vault",
        "log in as the victim with one's own account",
        f"{ENTERPRISE} on {CLOUD}",
        lambda platform: vault_settings(
            platform,
            f"auth/kubernetes/role/tenant-{CLOUD}",
            bound_service_account_namespaces=[f"tenant-{CLOUD}", f"tenant-{ENTERPRISE}"],
        ),
    ),
    Mutation(
        "a login that a word for another tenant opens",
        "Vault",
        "log in as the victim with the gateway's word for oneself",
        f"{ENTERPRISE} on {STARTER}",
        lambda platform: vault_settings(platform, f"auth/jwt/role/tenant-{STARTER}", bound_claims={}),
    ),
    Mutation(
        "a login that the shared runtime's account may use",
        "Vault",
        "log in as anybody with the shared runtime's account",
        "",
        lambda platform: let_in(platform, STARTER, "runtime", "agent-runtime"),
    ),
    Mutation(
        "a key to the whole bucket",
        "Object storage",
        "get an object",
        f"{ENTERPRISE} on {STARTER}",
        lambda platform: storage_policy(platform, ENTERPRISE, f"tenant_{ENTERPRISE}/", "tenant_"),
    ),
    Mutation(
        "a key to all of Exoscale's API",
        "Exoscale",
        "list nodes",
        f"{PROFESSIONAL} on platform",
        lambda platform: storage_policy(
            platform,
            PROFESSIONAL,
            '"default-service-strategy": "deny"',
            '"default-service-strategy": "allow"',
        ),
    ),
    Mutation(
        "a public bucket",
        "Object storage",
        "get an object unsigned",
        f"{STARTER} on {ENTERPRISE}",
        public_bucket,
    ),
    Mutation(
        "an account that reads secrets everywhere",
        "Kubernetes",
        "list all secrets",
        f"{ENTERPRISE} on platform",
        lambda platform: objects(platform, *rights("widened", "", SECRETS)),
    ),
    Mutation(
        "an account that starts another tenant's machine",
        "Kubernetes",
        "start a machine",
        f"{ENTERPRISE} on {CLOUD}",
        lambda platform: objects(platform, *rights("widened", f"tenant-{CLOUD}", STARTING)),
    ),
    Mutation(
        "an account that lifts its own quota",
        "Kubernetes",
        "delete the quota, one's own",
        f"{ENTERPRISE} on platform",
        lambda platform: objects(platform, *rights("widened", f"tenant-{ENTERPRISE}", LIFTING)),
    ),
    Mutation(
        "a namespace that is open by default",
        "Network",
        "reach the platform's pods",
        f"{PROFESSIONAL} on platform",
        lambda platform: without_default_deny(platform, PROFESSIONAL),
    ),
    Mutation(
        "two namespaces open to each other",
        "Network",
        "reach another tenant's pods",
        f"{ENTERPRISE} on {CLOUD}",
        lambda platform: objects(
            platform,
            network_policy(ENTERPRISE, "egress", {}),
            network_policy(CLOUD, "ingress", {}),
        ),
    ),
    Mutation(
        "a way to the metadata service",
        "Network",
        "reach the metadata service",
        f"{CLOUD} on platform",
        lambda platform: objects(platform, network_policy(CLOUD, "egress", METADATA)),
    ),
    Mutation(
        "a common password for everything in Redis",
        "Redis",
        "read when a tenant was active",
        "",
        lambda platform: redis(
            platform, ["ACL", "SETUSER", "default", ">password"], ["ACL", "SETUSER", "default", "<password"]
        ),
    ),
    Mutation(
        "a user of Redis with a common password",
        "Redis",
        "log in",
        "",
        lambda platform: redis(platform, REDIS_USER, ["ACL", "DELUSER", ENTERPRISE]),
    ),
]


@pytest.fixture(scope="module")
def widened(platform: Platform) -> subprocess.CompletedProcess[str]:
    """Everything that takes a right, while every grant is widened; afterwards they are as before."""
    with ExitStack() as grants:
        for mutation in MUTATIONS:
            grants.enter_context(mutation.widened(platform))
        return attack(platform, *SERVERS)


@pytest.fixture(scope="module")
def whole(
    platform: Platform, widened: subprocess.CompletedProcess[str]
) -> Iterator[subprocess.CompletedProcess[str]]:
    """The whole suite once every grant was taken back, while a machine sleeps."""
    call(platform, CLOUD, "stop")
    wait_for(platform, CLOUD, "Stopped")
    yield attack(platform)
    call(platform, CLOUD, "start")
    wait_for(platform, CLOUD, "Running")


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])
def test_a_widened_grant_is_found_and_named(
    widened: subprocess.CompletedProcess[str], mutation: Mutation
) -> None:
    assert widened.returncode == 1
    assert figures(widened)["leaked"] > 0
    found = f"leaked: {mutation.server}: {mutation.found_by} ("
    told = [line.removeprefix(found) for line in widened.stderr.splitlines() if line.startswith(found)]
    assert [pairs for pairs in told if mutation.between in pairs], widened.stderr


def test_no_tenant_gets_at_what_is_anothers_once_the_grants_are_taken_back(
    whole: subprocess.CompletedProcess[str],
) -> None:
    assert whole.returncode == 0, whole.stdout + whole.stderr
    found = figures(whole)
    assert list(found) == ["attempts", "denied", "leaked"]
    assert found["attempts"] == found["denied"] > 0 == found["leaked"]


def test_every_server_and_every_ordered_pair_of_tenants_is_tried(
    platform: Platform, whole: subprocess.CompletedProcess[str]
) -> None:
    told = whole.stdout.casefold().replace(" ", "-")
    for tried in (*SERVERS, "holds-up-others", "cannot-be-removed"):
        assert tried in told
    tenants = len(platform.status()["tenants"])
    # Each attack on a tenant's data is one per ordered pair; there are over a hundred of them.
    assert figures(whole)["attempts"] > 100 * tenants * (tenants - 1)


def test_a_machine_that_sleeps_is_woken_for_it_and_sleeps_again(
    platform: Platform, whole: subprocess.CompletedProcess[str]
) -> None:
    assert whole.returncode == 0
    wait_for(platform, CLOUD, "Stopped")


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
    listed = vault.secrets.kv.v2.list_secrets(ENTERPRISE, mount_point="tenants")["data"]["keys"]
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
    assert "update" not in platform.changes()


def test_a_server_that_is_not_known_is_told(platform: Platform) -> None:
    done = attack(platform, "mysql")

    assert done.returncode == 1
    assert "mysql" in done.stderr
    assert "postgres" in done.stderr
    assert "Traceback" not in done.stderr
