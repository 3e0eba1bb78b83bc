"""What a tenant has on every server: put there as the tenant would, looked for with each server's client.

Nothing here asks the program where to look: an independent scan is to find what it forgot.
"""

import base64
import contextlib
import subprocess
import time
from collections.abc import Iterator

import jwt
import redis
from exoscale.api.v2 import Client  # type: ignore[import-untyped]
from hvac.exceptions import InvalidPath  # type: ignore[import-untyped]
from kubernetes import client

from tests.integration.conftest import Platform

_NAMES = (
    '{range .items[*]}{.kind}/{.metadata.namespace}/{.metadata.name}={.spec.claimRef.namespace}{"\\n"}{end}'
)


def leave_data_everywhere(platform: Platform, tenant: str, *, machine: bool) -> str:
    """Rows, secrets, objects with versions, a live login, an identity, activity; returns the login's name."""
    with platform.database() as administrator:
        administrator.execute(f"insert into tenant_{tenant}.agents (name, model) values ('a', 'x')")
        administrator.execute(f"create table tenant_{tenant}.extra as select 1 as one")
        administrator.execute(f"alter table tenant_{tenant}.extra owner to tenant_{tenant}")
        administrator.execute(f"set role tenant_{tenant}")
        administrator.execute("select lo_from_bytea(0, 'off')")
    vault = platform.vault(_let_in(platform, tenant, machine=machine))
    for value in ("old", "new"):
        vault.secrets.kv.v2.create_or_update_secret(f"{tenant}/own", {"key": value}, mount_point="tenants")
    vault.secrets.kv.v2.create_or_update_secret(f"{tenant}/deep/er", {"key": "x"}, mount_point="tenants")
    vault.secrets.kv.v2.delete_latest_version_of_secret(f"{tenant}/deep/er", mount_point="tenants")
    login: str = vault.secrets.database.generate_credentials(f"tenant-{tenant}")["data"]["username"]
    s3, bucket, prefix = platform.s3(), bucket_of(platform, "artifacts"), f"tenant_{tenant}/uploads"
    for body in (b"one", b"two"):
        s3.put_object(Bucket=bucket, Key=f"{prefix}/deleted", Body=body)
    s3.delete_object(Bucket=bucket, Key=f"{prefix}/deleted")
    s3.put_object(Bucket=bucket, Key=f"{prefix}/kept ü", Body=b"kept")
    for awkward in ("a\x01b", "n" * 256):
        s3.put_object(Bucket=bucket, Key=f"{prefix}/{awkward}", Body=b"kept")
    for unfinished in ("unfinished", "\ufffe"):
        s3.create_multipart_upload(Bucket=bucket, Key=f"{prefix}/{unfinished}")
    activity = redis.Redis.from_url(platform.exports()["REDIS_URL"])
    activity.hset(f"activity:{tenant}", "seen", 1)
    activity.set(f"activity:{tenant}:session", "now")
    activity.set(f"suspension:{tenant}:verdict", "awake")
    return login


def _let_in(platform: Platform, tenant: str, *, machine: bool) -> str:
    """A token of Vault's, got by its machine's account or, in the shared runtime, by the gateway's word."""
    if machine:
        request = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[]))
        issued = platform.core().create_namespaced_service_account_token("agent", f"tenant-{tenant}", request)
        method, shown = "kubernetes", issued.status.token
    else:
        said = {"iss": "gateway", "aud": "vault", "sub": "ada", "tenant": tenant, "exp": time.time() + 60}
        method, shown = "jwt", jwt.encode(said, signing_key(platform), "EdDSA")
    entered = platform.vault().write(f"auth/{method}/login", role=f"tenant-{tenant}", jwt=shown)
    return str(entered["auth"]["client_token"])


def signing_key(platform: Platform) -> bytes:
    """The key with which the gateway vouches for requests of the shared runtime."""
    held = platform.core().read_namespaced_secret("gateway-assertions", "gateway").data["key.pem"]
    return base64.b64decode(held)


def bucket_of(platform: Platform, purpose: str) -> str:
    """The bucket for artifacts, backups or logs."""
    names: list[str] = [bucket["Name"] for bucket in platform.s3().list_buckets()["Buckets"]]
    return next(name for name in names if purpose in name)


def traces(platform: Platform, tenant: str, login: str = "none") -> list[str]:
    """Where anything of the tenant is still found, asked of every server itself."""
    return [
        *_in_postgresql(platform, tenant, login),
        *_in_vault(platform, tenant),
        *_in_object_storage(platform, tenant),
        *_at_exoscale(platform, tenant),
        *_in_kubernetes(platform, tenant),
        *_in_redis(platform, tenant),
    ]


def _in_postgresql(platform: Platform, tenant: str, login: str) -> Iterator[str]:
    with platform.database() as administrator:
        for kind, query in {
            "schema": "select nspname from pg_namespace where position(%s in nspname) > 0",
            "role": "select rolname from pg_roles where position(%s in concat(rolname, rolconfig)) > 0",
            "database": "select datname from pg_database where position(%s in datname) > 0",
            "large object": (
                "select o.oid::text from pg_largeobject_metadata o"
                " where position(%s in concat(lomowner::regrole, lomacl)) > 0"
            ),
            "session": "select usename from pg_stat_activity where position(%s in usename) > 0",
        }.items():
            for wanted in (tenant, login):
                found = administrator.execute(query.encode(), [wanted]).fetchall()
                yield from (f"{kind} {row[0]}" for row in found)


def _in_vault(platform: Platform, tenant: str) -> Iterator[str]:
    vault = platform.vault()
    policies = vault.sys.list_policies()["data"]["policies"]
    yield from (f"policy {name}" for name in policies if tenant in name)
    roles = ("database/roles", "auth/kubernetes/role", "auth/jwt/role")
    for path in ("tenants/metadata", "database/config", "sys/quotas/rate-limit", *roles):
        yield from (f"{path}/{name}" for name in listed(platform, path) if tenant in name)
    leases = listed(platform, f"sys/leases/lookup/database/creds/tenant-{tenant}")
    yield from (f"lease {name}" for name in leases)
    for entity in listed(platform, "identity/entity/id"):
        known = vault.read(f"identity/entity/id/{entity}")["data"]
        if f"tenant-{tenant}" in str(known):
            yield f"identity {entity}"


def listed(platform: Platform, path: str) -> list[str]:
    """The names of what Vault has at a path; none where it has nothing."""
    with contextlib.suppress(InvalidPath):
        answer = platform.vault().list(path)
        return list(answer["data"]["keys"]) if answer else []
    return []


def _in_object_storage(platform: Platform, tenant: str) -> Iterator[str]:
    s3, bucket = platform.s3(), bucket_of(platform, "artifacts")
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        held = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        yield from (item["Key"] for item in held if tenant in item["Key"])
    uploads = s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    yield from (upload["Key"] for upload in uploads if tenant in upload["Key"])


def _at_exoscale(platform: Platform, tenant: str) -> Iterator[str]:
    exports = platform.exports()
    api = Client(
        exports["EXOSCALE_API_KEY"], exports["EXOSCALE_API_SECRET"], url=exports["EXOSCALE_API_ENDPOINT"]
    )
    held = {
        "API key": api.list_api_keys()["api-keys"],
        "IAM role": api.list_iam_roles()["iam-roles"],
        "security group": api.list_security_groups()["security-groups"],
        "anti-affinity group": api.list_anti_affinity_groups()["anti-affinity-groups"],
        "instance pool": api.list_instance_pools()["instance-pools"],
        "cluster": api.list_sks_clusters()["sks-clusters"],
    }
    for kind, items in held.items():
        yield from (f"{kind} {item['name']}" for item in items if tenant in str(item))


def _in_kubernetes(platform: Platform, tenant: str) -> Iterator[str]:
    """Every object of every kind, by kubectl; its Longhorn backups remain by intention."""
    exports = platform.exports()

    def kubectl(*arguments: str) -> list[str]:
        done = subprocess.run(
            ["kubectl", *arguments], env=exports, capture_output=True, text=True, check=True
        )
        return done.stdout.split()

    for namespaced in ("true", "false"):
        kinds = kubectl("api-resources", "--verbs=list", f"--namespaced={namespaced}", "-o", "name")
        skipped = ("backups.longhorn.io", "snapshots.longhorn.io", "events", "events.events.k8s.io")
        asked = ",".join(kind for kind in kinds if kind not in skipped)
        found = kubectl("get", asked, "--all-namespaces", "-o", f"jsonpath={_NAMES}")
        yield from (name for name in found if tenant in name)


def _in_redis(platform: Platform, tenant: str) -> Iterator[str]:
    activity = redis.Redis.from_url(platform.exports()["REDIS_URL"], decode_responses=True)
    yield from (f"key {name!s}" for name in activity.keys("*") if tenant in str(name))
