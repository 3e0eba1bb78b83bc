"""What a registration refuses and leaves behind, against PostgreSQL, OpenBao and an S3 server as they are.

The whole of a removal, Kubernetes and Exoscale included, is told in `tests/integration/test_lifecycle.py`.
"""

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import hvac  # type: ignore[import-untyped]
import jwt
import pulumi
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hvac.exceptions import InvalidRequest  # type: ignore[import-untyped]

from infra.cluster.object_storage import s3_client
from infra.tenants import clients, holdings, places, receipt, registration
from infra.tenants.places import Place
from infra.tenants.registration import RegistrationProvider
from local import supervisor
from tests.infra.tenants.conftest import Connect

_numbers = itertools.count()
BEFORE: Mapping[str, Any] = {
    "tenant": "acme",
    "tier": "enterprise",
    "state": "active",
    "workspaceGib": 50.0,
    "ownDatabase": False,
    "discard": [],
}


def refusals(olds: Mapping[str, Any], **changed: Any) -> list[str]:
    """Why the change is refused."""
    failures = RegistrationProvider().check({**olds}, {**olds, **changed}).failures
    return [failure.reason for failure in failures]


@pytest.fixture
def storage(s3_server: str) -> dict[str, str]:
    """Where the buckets are; that for logs is new."""
    where = {"endpoint": s3_server, "region": "ch-gva-2", "artifacts": "a", "logs": f"logs-{next(_numbers)}"}
    s3_client(s3_server, "ch-gva-2").create_bucket(Bucket=where["logs"])
    return where


@pytest.mark.parametrize("size", [50, 51, 2000])
def test_a_workspace_may_stay_and_grow(size: int) -> None:
    assert refusals(BEFORE, workspaceGib=size, tier="private-cloud") == []


def test_a_workspace_that_shrinks_is_refused_with_what_to_write() -> None:
    (reason,) = refusals(BEFORE, workspaceGib=20, discard=["workspace"])

    assert reason.startswith("acme: its workspace has 50 GiB and would get 20, but a volume cannot shrink")
    assert "`sizes: {workspaceGib: 50}` or more" in reason


def test_a_workspace_is_lost_only_where_an_earlier_update_said_so() -> None:
    lost = {"tier": "starter", "workspaceGib": 0}
    said = {**BEFORE, "discard": ["workspace"]}

    (reason,) = refusals(BEFORE, **lost)
    assert "tier starter has no volume" in reason
    assert "`state: moving`" in reason
    assert "`keep: [workspace]`" in reason
    # Said in the same breath, it protects nothing.
    assert refusals(BEFORE, **lost, discard=["workspace"]) == [reason]
    # Said once, and taken back.
    assert refusals(said, **lost, discard=[]) == [reason]
    assert refusals(said, **lost) == []


@pytest.fixture
def moving(s3_server: str) -> Mapping[str, Any]:
    """A tenant whose machine has been told to hand its workspace over."""
    where = {"endpoint": s3_server, "region": "ch-gva-2", "artifacts": f"moves-{next(_numbers)}"}
    s3_client(s3_server, "ch-gva-2").create_bucket(Bucket=where["artifacts"])
    return {**BEFORE, "state": "moving", "storage": where}


def put(before: Mapping[str, Any], key: str, content: bytes) -> None:
    where = before["storage"]
    client = s3_client(where["endpoint"], where["region"])
    client.put_object(Bucket=where["artifacts"], Key=key, Body=content)


MOVED = {"tier": "professional", "state": "active", "workspaceGib": 0}


def test_a_workspace_that_was_handed_over_may_leave_its_volume(moving: Mapping[str, Any]) -> None:
    put(moving, "tenant_acme/handover.json", b'{"state": "done", "files": 0, "bytes": 0}')

    assert refusals(moving, **MOVED) == []


@pytest.mark.parametrize(
    ("manifest", "told"),
    [
        (None, "its machine has not handed it over"),
        (b'{"state": "at work"}', "its machine has not handed all of it over (at work)"),
        (b'{"state": "refused"}', "(refused)"),
        (b"\xff not JSON", "its machine has not handed it over"),
        (b"[1]", "its machine has not handed it over"),
    ],
)
def test_a_workspace_that_was_not_handed_over_as_a_whole_stays(
    manifest: bytes | None, told: str, moving: Mapping[str, Any]
) -> None:
    if manifest is not None:
        put(moving, "tenant_acme/handover.json", manifest)

    (reason,) = refusals(moving, **MOVED)
    assert told in reason
    assert "keep `state: moving` and run that update until it succeeds" in reason


def test_a_workspace_that_was_used_again_after_its_handover_stays(moving: Mapping[str, Any]) -> None:
    put(moving, "tenant_acme/handover.json", b'{"state": "done", "files": 0, "bytes": 0}')

    (reason,) = refusals({**moving, "state": "active"}, **MOVED)
    assert "would be lost; first write `state: moving`" in reason


def test_a_workspace_stays_where_nobody_can_ask_whether_it_was_handed_over(moving: Mapping[str, Any]) -> None:
    nowhere = {**moving["storage"], "endpoint": "http://127.0.0.1:9"}

    (reason,) = refusals({**moving, "storage": nowhere}, **MOVED, storage=nowhere)
    assert "object storage cannot be asked" in reason


@pytest.mark.parametrize("parked", [0, 50])
def test_a_machines_volume_that_cannot_take_the_prefix_is_refused_with_the_size_it_needs(
    moving: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch, parked: int
) -> None:
    before = {**moving, "tier": "professional", "state": "active", "workspaceGib": parked}
    put(moving, "tenant_acme/workspace/a", bytes(1000))
    assert refusals(before, tier="enterprise", workspaceGib=50) == []

    monkeypatch.setattr("infra.tenants.handover.held", lambda *_: (1, 60 * 2**30))
    (reason,) = refusals(before, tier="enterprise", workspaceGib=50)
    assert "which a volume of 50 GiB does not take" in reason
    assert "`sizes: {workspaceGib: 63}` or more" in reason


@pytest.mark.parametrize("own", [True, False])
def test_a_change_of_database_is_refused_both_ways_until_it_was_said(own: bool) -> None:
    before = {**BEFORE, "ownDatabase": own}

    (reason,) = refusals(before, ownDatabase=not own)
    assert "those it has would be lost" in reason
    assert "`discard: [database]`" in reason
    assert refusals({**before, "discard": ["database"]}, ownDatabase=not own) == []


def test_all_that_would_be_lost_is_told_at_once() -> None:
    assert len(refusals({**BEFORE, "ownDatabase": True}, workspaceGib=0, ownDatabase=False)) == 2


def test_an_id_with_a_receipt_is_refused_in_the_preview_and_in_the_update(storage: dict[str, str]) -> None:
    news = {**BEFORE, "storage": storage}
    assert RegistrationProvider().check({}, news).failures == []
    assert RegistrationProvider().create(news).id == "acme"

    receipt.write("acme", storage, {"tenant": "acme"})

    (failure,) = RegistrationProvider().check({}, news).failures
    assert failure.reason.startswith("acme: a tenant of this id was removed before (receipts/acme.json")
    with pytest.raises(RuntimeError, match="removed before"):
        RegistrationProvider().create(news)
    # A tenant that is there is not asked about.
    assert RegistrationProvider().check({**news}, news).failures == []


@pytest.mark.parametrize(
    "nowhere", [pulumi.runtime.rpc.UNKNOWN, {"logs": pulumi.runtime.rpc.UNKNOWN}], ids=["all", "bucket"]
)
def test_a_plan_from_nothing_asks_nobody(nowhere: Any) -> None:
    assert RegistrationProvider().check({}, {**BEFORE, "storage": nowhere}).failures == []


def test_a_preview_without_storage_passes_and_the_update_asks_again(storage: dict[str, str]) -> None:
    news = {**BEFORE, "storage": {**storage, "endpoint": "http://127.0.0.1:1"}}

    assert RegistrationProvider().check({}, news).failures == []
    with pytest.raises(Exception, match=r"127\.0\.0\.1:1"):
        RegistrationProvider().create(news)


def test_only_another_id_is_another_registration() -> None:
    provider = RegistrationProvider()

    assert not provider.diff("", {**BEFORE}, {**BEFORE}).changes
    changed = provider.diff("", {**BEFORE}, {**BEFORE, "tier": "starter"})
    assert (changed.changes, changed.replaces) == (True, [])
    assert provider.diff("", {**BEFORE}, {**BEFORE, "tenant": "other"}).replaces == ["tenant"]


def place(look: Callable[[], list[str]]) -> Place:
    return Place(server="PostgreSQL", what="role", how="SELECT", look=look)


def test_what_goes_by_itself_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "_PAUSE", 0)
    answers = iter([["pvc-1"], ["pvc-1"], []])

    (checked,) = registration._all_gone([place(lambda: next(answers))])

    assert (checked["server"], checked["what"], checked["found"]) == ("PostgreSQL", "role", "nothing")


def test_what_stays_is_named_and_nothing_is_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "_PATIENCE", 0)
    monkeypatch.setattr(registration, "_PAUSE", 0)

    with pytest.raises(RuntimeError, match="still there after 0 s: PostgreSQL, role: tenant_acme"):
        list(registration._all_gone([place(lambda: ["tenant_acme"])]))


def test_a_failed_removal_is_one_message_without_a_receipt(
    storage: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = {"host": "127.0.0.1", "port": 1, "tls": False, "password": "hidden-word"}

    with pytest.raises(RuntimeError, match="acme: removed as far as it went, without a receipt") as told:
        RegistrationProvider().delete("acme", {**BEFORE, "storage": storage, "redis": redis})

    assert "hidden-word" not in str(told.value)
    assert not receipt.exists("acme", storage)


def _writable(root: hvac.Client) -> None:
    try:
        root.secrets.kv.v2.create_or_update_secret("first", {}, mount_point="tenants")
    except InvalidRequest as error:
        raise supervisor.NotReady(str(error)) from None


@pytest.fixture
def vault(openbao: dict[str, str]) -> Iterator[dict[str, str]]:
    """Mounts as the platform's."""
    root = hvac.Client(url=openbao["address"], token=openbao["token"])
    root.sys.enable_secrets_engine("kv", path="tenants", options={"version": "2"})
    root.sys.enable_secrets_engine("database")
    for method in ("kubernetes", "jwt"):
        root.sys.enable_auth_method(method)
    # A new KV mount is busy with itself for a moment.
    supervisor.wait_until(lambda: _writable(root), timeout=30, what="the mount `tenants`")
    yield {
        **openbao,
        "mount": "tenants",
        "databaseMount": "database",
        "kubernetesPath": "kubernetes",
        "jwtPath": "jwt",
    }
    for method in ("kubernetes", "jwt"):
        root.sys.disable_auth_method(method)
    root.sys.disable_secrets_engine("database")
    root.sys.disable_secrets_engine("tenants")


def found(these: Iterator[Place]) -> dict[str, list[str]]:
    """What is where; empty places are left out."""
    return {one.what: names for one in these if (names := one.look())}


def test_postgresql_is_searched_for_schema_role_database_and_logins(
    database: dict[str, Any], connect: Connect
) -> None:
    administrator = connect()
    assert found(places._in_postgresql("tenant_acme", database)) == {}
    # Somebody whose id only begins the same is another tenant.
    made = ["CREATE ROLE tenant_acme2", "CREATE SCHEMA tenant_acme2", "CREATE DATABASE tenant_acme2"]
    made += ["CREATE ROLE tenant_acme", "CREATE SCHEMA tenant_acme", "CREATE DATABASE tenant_acme"]
    made += ['CREATE ROLE "v-left-over" LOGIN', 'GRANT tenant_acme TO "v-left-over"']
    made += ["CREATE ROLE tenant_acme_migration"]
    try:
        for statement in made:
            administrator.execute(statement.encode())
        assert found(places._in_postgresql("tenant_acme", database)) == {
            "database of its own": ["tenant_acme"],
            "schema": ["tenant_acme"],
            "role": ["tenant_acme"],
            "logins": ["v-left-over"],
            "logins of this program": ["tenant_acme_migration"],
        }
    finally:
        for name in ("tenant_acme", "tenant_acme2"):
            administrator.execute(f"DROP DATABASE IF EXISTS {name}".encode())
            administrator.execute(f"DROP SCHEMA IF EXISTS {name}".encode())
        for name in ("tenant_acme", "tenant_acme2", '"v-left-over"', "tenant_acme_migration"):
            administrator.execute(f"DROP ROLE IF EXISTS {name}".encode())


def _let_in_by_word(root: hvac.Client, *tenants: str) -> dict[str, dict[str, str]]:
    """The login of each, by a word that somebody has signed for it."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    root.write("auth/jwt/config", jwt_validation_pubkeys=[public])
    logins = {}
    for tenant in tenants:
        bound = {"bound_audiences": "vault", "bound_claims": {"tenant": tenant}, "user_claim": "tenant"}
        policies = {"token_policies": f"tenant-{tenant}"}
        root.write(f"auth/jwt/role/tenant-{tenant}", role_type="jwt", **bound, **policies)
        shown = jwt.encode({"aud": "vault", "tenant": tenant, "exp": time.time() + 60}, key, "EdDSA")
        logins[tenant] = root.write("auth/jwt/login", role=f"tenant-{tenant}", jwt=shown)["auth"]
    return logins


def test_vault_is_searched_for_secrets_policy_roles_and_identities(
    vault: dict[str, str], openbao: dict[str, str]
) -> None:
    root = hvac.Client(url=openbao["address"], token=openbao["token"])
    assert found(places._in_vault("acme", vault)) == {}
    for tenant in ("acme", "acme2"):
        root.secrets.kv.v2.create_or_update_secret(f"{tenant}/a/b", {"x": "y"}, mount_point="tenants")
        root.secrets.kv.v2.delete_latest_version_of_secret(f"{tenant}/a/b", mount_point="tenants")
        root.sys.create_or_update_policy(f"tenant-{tenant}", 'path "x" { capabilities = ["read"] }')
        root.auth.kubernetes.create_role(f"tenant-{tenant}", "agent", f"tenant-{tenant}")

    logins = _let_in_by_word(root, "acme", "acme2")
    seen = found(places._in_vault("acme", vault))
    holdings.end_logins(clients.VaultClient(vault), "tenant-acme", "database/creds/tenant-acme")
    left = {
        tenant: hvac.Client(url=openbao["address"], token=login["client_token"]).is_authenticated()
        for tenant, login in logins.items()
    }
    for tenant in ("acme", "acme2"):
        root.sys.delete_policy(f"tenant-{tenant}")

    assert seen == {
        "secrets, with deleted versions": ["acme/a/b"],
        "policy": ["tenant-acme"],
        "role for Kubernetes logins": ["tenant-acme"],
        "role for logins by the gateway's word": ["tenant-acme"],
        "identities and their aliases": [logins["acme"]["entity_id"]],
    }
    # A login ends with its identity, and nobody else's does.
    assert left == {"acme": False, "acme2": True}


def test_a_mount_that_is_not_there_is_a_failure_and_no_proof(vault: dict[str, str]) -> None:
    look = next(
        place.look
        for place in places._in_vault("acme", {**vault, "mount": "mistyped"})
        if place.what == "secrets, with deleted versions"
    )

    with pytest.raises(RuntimeError, match="Vault refused LIST mistyped/metadata/acme"):
        look()


def test_object_storage_is_searched_for_versions_markers_and_uploads(
    s3_server: str, storage: dict[str, str]
) -> None:
    client, bucket = s3_client(s3_server, "ch-gva-2"), f"artifacts-of-{storage['logs']}"
    where = {**storage, "artifacts": bucket}
    client.create_bucket(Bucket=bucket)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    client.put_object(Bucket=bucket, Key="tenant_acme2/x", Body=b"")
    assert found(places._in_object_storage("tenant_acme/", where)) == {}

    client.put_object(Bucket=bucket, Key="tenant_acme/x", Body=b"")
    client.delete_object(Bucket=bucket, Key="tenant_acme/x")
    client.create_multipart_upload(Bucket=bucket, Key="tenant_acme/y")

    seen = found(places._in_object_storage("tenant_acme/", where))
    assert len(seen["objects, versions, delete markers"]) == 2
    assert seen["unfinished uploads"] == ["'tenant_acme/y'"]


def test_the_activity_store_is_searched_for_both_kinds_of_keys_and_no_other_tenants(
    activity_store: dict[str, Any],
) -> None:
    store = clients.activity(activity_store)
    for key in ("activity:acme2", "activity:acme2:leases", "suspension:acme2", "suspension:sweep"):
        store.set(key, "")
    assert found(places._in_redis("acme", activity_store)) == {}

    for key in ("activity:acme", "activity:acme:leases", "suspension:acme:verdict"):
        store.set(key, "")

    seen = {what: sorted(names) for what, names in found(places._in_redis("acme", activity_store)).items()}
    assert seen == {
        "activity": ["activity:acme", "activity:acme:leases"],
        "suspension": ["suspension:acme:verdict"],
    }
    store.flushall()


@pytest.mark.parametrize(
    ("name", "is_its_own"),
    [
        ("tenant-acme", True),
        ("tenant-acme-vpn", True),
        ("tenant-acme2", False),
        ("acme", False),
        (None, False),
    ],
)
def test_a_name_at_exoscale_is_a_tenants_if_nothing_or_a_hyphen_follows(
    name: str | None, is_its_own: bool
) -> None:
    assert places._is_of("tenant-acme", name) is is_its_own


def test_the_receipt_is_readable_json(storage: dict[str, str]) -> None:
    receipt.write("acme", storage, {"tenant": "acme", "reason": "Kündigung"})

    body = s3_client(storage["endpoint"], storage["region"]).get_object(
        Bucket=storage["logs"], Key="receipts/acme.json"
    )["Body"]
    assert json.loads(body.read()) == {"tenant": "acme", "reason": "Kündigung"}
