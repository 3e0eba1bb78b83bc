"""What the component registers for an entry of the roster, as the engine sees it."""

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from infra.cluster.cluster import Cluster
from infra.platform.platform import Platform
from infra.settings import load_settings
from infra.tenants.roster import load_roster
from infra.tenants.tenant import Tenant
from tests.infra.recording import ROOT, SECRETS, Recorder, Registered, configure, local_stack, record, stack

EVERYBODY = {
    "agent-platform:tenants:Tenant": 1,
    "pulumi-python:dynamic/agent-platform:Registration": 1,
    "postgresql:index/role:Role": 1,
    "postgresql:index/schema:Schema": 1,
    # The way into the database, and nobody else's into the schema.
    "postgresql:index/grant:Grant": 2,
    "postgresql:index/defaultPrivileges:DefaultPrivileges": 1,
    "postgresql:index/grantRole:GrantRole": 1,
    "pulumi-python:dynamic/agent-platform:Migration": 1,
    "pulumi-python:dynamic/agent-platform:SizeLimit": 1,
    "pulumi-python:dynamic/agent-platform:VaultHoldings": 1,
    "vault:index/policy:Policy": 1,
    # The keys to its objects and for its tokens.
    "vault:kv/secretV2:SecretV2": 2,
    "pulumi-python:dynamic/agent-platform:AccessKey": 1,
    "vault:database/secretBackendRole:SecretBackendRole": 1,
    "vault:index/quotaRateLimit:QuotaRateLimit": 1,
    "pulumi-python:dynamic/agent-platform:Prefix": 1,
    "exoscale:index/iamRole:IamRole": 1,
    "exoscale:index/iamApiKey:IamApiKey": 1,
    # Its route.
    "kubernetes:core/v1:ConfigMap": 1,
}
SHARED = {
    # By the gateway's word, as it has no account.
    "vault:jwt/authBackendRole:AuthBackendRole": 1,
}
NAMESPACE = {
    "vault:kubernetes/authBackendRole:AuthBackendRole": 1,
    "kubernetes:core/v1:Namespace": 1,
    "kubernetes:networking.k8s.io/v1:NetworkPolicy": 7,
    "kubernetes:core/v1:ResourceQuota": 1,
    "kubernetes:core/v1:LimitRange": 1,
    "kubernetes:core/v1:ServiceAccount": 1,
}
DEPLOYMENT = {
    # And what its agents are told.
    "kubernetes:core/v1:ConfigMap": 2,
    "kubernetes:apps/v1:Deployment": 1,
}
MACHINE = {
    # It tells the gateway what it is at.
    "kubernetes:networking.k8s.io/v1:NetworkPolicy": 8,
    "kubernetes:core/v1:PersistentVolumeClaim": 1,
    "pulumi-python:dynamic/agent-platform:Password": 1,
    # What tells the machine from one that comes after a move.
    "pulumi-python:dynamic/agent-platform:Generation": 1,
    # The volume's key, and what the guest is told.
    "kubernetes:core/v1:Secret": 2,
    "kubernetes:instancetype.kubevirt.io/v1beta1:VirtualMachineInstancetype": 1,
    "kubernetes:kubevirt.io/v1:VirtualMachine": 1,
}
NODES = {
    "exoscale:index/antiAffinityGroup:AntiAffinityGroup": 1,
    "exoscale:index/sksNodepool:SksNodepool": 1,
}
PARTS = {
    "bluebird": {**EVERYBODY, **SHARED},
    "corvus": {**EVERYBODY, **NAMESPACE, **DEPLOYMENT},
    "acme": {**EVERYBODY, **NAMESPACE, **MACHINE},
    "dufour": {**EVERYBODY, **NAMESPACE, **MACHINE, **NODES},
}
"""By tenant of the sample roster: one of each tier."""


def registered(roster: Path, values: dict[str, object] | None = None, *, preview: bool = False) -> Recorder:
    """The program's registrations for that roster."""

    def program() -> None:
        configure(values or local_stack(), None if values else SECRETS)
        settings = load_settings()
        platform = Platform("platform", settings, Cluster("cluster", settings).foundations)
        for entry in load_roster(roster).tenants:
            Tenant(entry, platform.services)

    return record(program, preview=preview)


def of(recorder: Recorder, tenant: str) -> dict[str, Registered]:
    """One tenant's registrations by name."""
    own = {name: found for name, found in recorder.registered.items() if found.parent == tenant}
    return {tenant: recorder[tenant], **own}


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    return registered(ROOT / "tenants.yaml")


@pytest.fixture(scope="module")
def production() -> Recorder:
    return registered(ROOT / "tenants.yaml", stack("prod"))


@pytest.fixture(scope="module")
def acme(recorder: Recorder) -> dict[str, Registered]:
    return of(recorder, "acme")


@pytest.mark.parametrize("tenant", PARTS)
def test_every_tier_gets_its_parts_each_named_after_the_tenant(recorder: Recorder, tenant: str) -> None:
    own = of(recorder, tenant)

    assert Counter(found.type for found in own.values()) == PARTS[tenant]
    assert all(name == tenant or name.startswith(f"{tenant}-") for name in own)


@pytest.mark.parametrize("tenant", PARTS)
def test_the_production_stack_gives_a_tenant_the_same_parts(production: Recorder, tenant: str) -> None:
    assert Counter(found.type for found in of(production, tenant).values()) == PARTS[tenant]


def test_no_tenants_role_is_a_member_of_another(recorder: Recorder) -> None:
    """It could act as that one, and have it own what is counted, saved and removed as the tenant's."""
    found = [each for each in recorder.registered.values() if each.type == "postgresql:index/role:Role"]
    of_tenants = [each.inputs for each in found if each.inputs["name"].startswith("tenant_")]
    assert [each.get("roles", []) for each in of_tenants] == [[]] * len(PARTS)


def test_nothing_of_a_tenant_hangs_on_another(tmp_path: Path, recorder: Recorder) -> None:
    """So that adding one names that tenant's resources and nothing else."""
    document = yaml.safe_load((ROOT / "tenants.yaml").read_text())
    newcomer = {"id": "newcomer", "name": "N", "tier": "starter", "owner": "a@b.example"}
    document["tenants"].insert(1, newcomer)
    path = tmp_path / "tenants.yaml"
    path.write_text(yaml.safe_dump(document))

    after = registered(path)

    added = after.registered.keys() - recorder.registered.keys()
    assert added == of(after, "newcomer").keys()
    for name, before in recorder.registered.items():
        assert after[name] == before


@pytest.mark.parametrize("values", [None, stack("prod")], ids=["local", "prod"])
def test_a_preview_of_what_is_there_knows_the_way_into_vault(
    values: dict[str, object] | None,
) -> None:
    """Anything unknown in it would show as a change of every tenant, each time."""
    known, foreseen = (
        registered(ROOT / "tenants.yaml", values, preview=preview)["acme-holdings"].inputs
        for preview in (False, True)
    )

    assert foreseen == known


def test_nothing_of_a_tenant_outlives_it(acme: dict[str, Registered]) -> None:
    assert acme["acme-schema"].inputs["dropCascade"] is True
    assert acme["acme-object-storage"].inputs["deleteAllVersions"] is True
    # What the engine forgets without deleting it goes with the namespace.
    kept = [found for found in acme.values() if found.retain_on_delete]
    assert {found.name for found in kept} == {"acme-workspace", "acme-workspace-encryption"}
    assert all(found.inputs["metadata"]["namespace"] == "tenant-acme" for found in kept)


def test_a_workspace_is_never_deleted_but_with_its_namespace(acme: dict[str, Registered]) -> None:
    """A replacement would delete the data; so would that of a class that it took its name from."""
    volume = acme["acme-workspace"]

    assert volume.retain_on_delete
    assert volume.inputs["spec"]["storageClassName"] == "workspace-encrypted"
    assert "acme-namespace" in volume.depends_on
    # Whoever provides volumes is still there when the namespace, and so the volume, goes.
    assert {"platform-storage-workspace", "platform-storage-workspace-encrypted"} <= set(
        acme["acme-namespace"].depends_on
    )


def test_removal_goes_in_an_order_that_leaves_nothing(acme: dict[str, Registered]) -> None:
    """Deletion runs against the dependencies: what depends on something goes before it."""
    # No key opens the prefix while it is emptied.
    assert "acme-prefix" in acme["acme-storage-role"].depends_on
    assert "acme-storage-role" in acme["acme-storage-key"].depends_on
    # No new login or secret comes while the old ones are taken back, which is before their role goes.
    for name in ("acme-logins", "acme-object-storage", "acme-policy"):
        assert "acme-holdings" in acme[name].depends_on
    assert {"acme-issuer", "acme-tables"} <= set(acme["acme-holdings"].depends_on)
    assert {"acme-closed", "acme-schema"} <= set(acme["acme-tables"].depends_on)


def test_agents_start_when_they_can_get_in_everywhere_and_nowhere_else(recorder: Recorder) -> None:
    """The network is closed and the quota there before the first pod is."""
    guards = ("agent", "login", "quota", "limits", "default-deny", "to-vault", "from-gateway")
    for agent, more in (
        ("acme-machine", ("workspace", "size", "cloud-init")),
        ("corvus-deployment", ("configuration",)),
    ):
        tenant = agent.partition("-")[0]
        wanted = {f"{tenant}-{part}" for part in (*guards, *more)}
        assert wanted <= set(recorder[agent].depends_on)


def test_nobody_can_log_in_as_the_owner_of_a_schema(acme: dict[str, Registered]) -> None:
    role = acme["acme-role"].inputs

    assert role["login"] is False
    assert not any(role[right] for right in ("superuser", "createDatabase", "createRole"))
    assert "password" not in role


def test_no_credential_is_in_the_clear(recorder: Recorder) -> None:
    """Secrets are registered as such, wherever they go: the engine encrypts them in the state."""
    signature = "4dabf18193072939515e22adb298388d"

    def visible(value: object) -> object:
        if isinstance(value, dict):
            return "secret" if signature in value else {key: visible(item) for key, item in value.items()}
        return [visible(item) for item in value] if isinstance(value, list) else value

    shown = json.dumps([visible(found.inputs) for found in recorder.registered.values()])
    for secret in (*SECRETS.values(), "EXOsecret"):
        assert secret not in shown


def test_every_kubernetes_object_carries_tenant_and_tier(acme: dict[str, Registered]) -> None:
    objects = [found for found in acme.values() if found.type.startswith("kubernetes:")]

    assert len(objects) == 18
    for found in objects:
        marked = found.inputs["metadata"]["labels"]
        assert (marked["tenant-id"], marked["tier"]) == ("acme", "enterprise")


def test_a_machine_is_declared_without_saying_whether_it_runs(acme: dict[str, Registered]) -> None:
    spec = acme["acme-machine"].inputs["spec"]

    assert spec["runStrategy"] == "RerunOnFailure"
    assert "running" not in spec
    assert acme["acme-machine"].ignore_changes == []


def test_a_machine_has_what_the_guide_gives_it(acme: dict[str, Registered]) -> None:
    spec = acme["acme-machine"].inputs["spec"]
    guest = spec["template"]["spec"]

    assert [disk["name"] for disk in guest["domain"]["devices"]["disks"]] == [
        volume["name"] for volume in guest["volumes"]
    ]
    kinds = [next(key for key in volume if key != "name") for volume in guest["volumes"]]
    assert kinds == ["containerDisk", "persistentVolumeClaim", "cloudInitNoCloud", "serviceAccount"]
    (interface,) = guest["domain"]["devices"]["interfaces"]
    # Behind the pod's address, and reached on the agent's port alone.
    assert interface["masquerade"] == {}
    assert [port["port"] for port in interface["ports"]] == [8080]
    assert ":latest" not in guest["volumes"][0]["containerDisk"]["image"]
    # What the instance type says must not be said here, too: KubeVirt refuses a conflict.
    assert not {"cpu", "memory", "resources"} & guest["domain"].keys()


def test_another_size_is_another_instance_type(acme: dict[str, Registered]) -> None:
    size = acme["acme-size"].inputs

    assert size["metadata"]["name"] == acme["acme-machine"].inputs["spec"]["instancetype"]["name"]
    assert size["spec"] == {"cpu": {"guest": 4}, "memory": {"guest": "8Gi"}}
    assert size["metadata"]["name"] == "cpu4-memory8"


def test_the_guest_is_told_who_it_is_and_no_credential(acme: dict[str, Registered]) -> None:
    data = acme["acme-cloud-init"].inputs["stringData"]
    first, _, rest = data.get("value", data)["userdata"].partition("\n")
    document = yaml.safe_load(rest)
    identity = json.loads(document["write_files"][0]["content"])

    assert first == "#cloud-config"
    assert document["hostname"] == "tenant-acme"
    assert identity["vault"]["authentication"] == {"path": "auth/kubernetes", "role": "tenant-acme"}
    assert identity["commands"] is True
    assert identity["objectStorage"] == "http://127.0.0.1:8333"
    assert "token" not in rest
    assert "password" not in rest


def test_the_guest_can_verify_a_vault_of_the_platforms_own() -> None:
    def told(values: dict[str, object] | None) -> tuple[object, dict[str, str]]:
        data = registered(ROOT / "tenants.yaml", values)["acme-cloud-init"].inputs["stringData"]
        document = yaml.safe_load(data.get("value", data)["userdata"])
        files = {file["path"]: file["content"] for file in document["write_files"]}
        identity = json.loads(files["/etc/agent-platform/identity.json"])
        return identity["vault"]["authority"], files

    path, files = told(stack("prod"))
    assert path == "/etc/agent-platform/vault-ca.pem"
    assert files["/etc/agent-platform/vault-ca.pem"] == "ca"
    path, files = told(None)
    assert path is None
    assert "/etc/agent-platform/vault-ca.pem" not in files


def test_the_configuration_names_the_image_of_machines_whose_entry_does_not() -> None:
    image = "registry.example.ch/agent@sha256:" + "0" * 64
    machine = registered(ROOT / "tenants.yaml", {**stack("prod"), "machineImage": image})["acme-machine"]
    assert machine.inputs["spec"]["template"]["spec"]["volumes"][0]["containerDisk"] == {"image": image}


def test_a_namespace_keeps_to_the_baseline_and_hands_out_no_token(acme: dict[str, Registered]) -> None:
    marked = acme["acme-namespace"].inputs["metadata"]["labels"]

    assert marked["pod-security.kubernetes.io/enforce"] == "baseline"
    assert acme["acme-agent"].inputs["automountServiceAccountToken"] is False


def test_the_key_opens_the_prefix_reads_the_tenants_logs_and_nothing_beside(
    acme: dict[str, Registered],
) -> None:
    policy = acme["acme-storage-role"].inputs["policy"]

    assert policy["defaultServiceStrategy"] == "deny"
    assert policy["services"].keys() == {"sos"}
    rules = policy["services"]["sos"]["rules"]
    places = [(bucket, confined) for bucket in ("artifacts", "logs") for confined in ("prefix", "key")]
    for rule, (bucket, confined) in zip(rules, places, strict=True):
        assert rule["action"] == "allow"
        assert rule["expression"].endswith(
            f"&& parameters.bucket == 'agent-platform-local-{bucket}'"
            f" && parameters.{confined}.startsWith('tenant_acme/')"
        )
        assert "delete-objects" not in rule["expression"]
    assert rules[3]["expression"].startswith("operation in ['get-object', 'head-object'] &&")


def test_logins_are_made_no_faster_than_their_tenants_rate(acme: dict[str, Registered]) -> None:
    quota = acme["acme-logins-rate"].inputs

    assert quota["path"] == f"database/creds/{acme['acme-logins'].inputs['name']}"
    assert 0 < quota["rate"] <= 30
    assert quota["interval"] == 60
    assert "acme-logins-rate" in acme["acme-login"].depends_on


def test_a_kubernetes_login_is_bound_to_one_account_in_one_namespace(acme: dict[str, Registered]) -> None:
    login = acme["acme-login"].inputs

    assert login["boundServiceAccountNames"] == ["agent"]
    assert login["boundServiceAccountNamespaces"] == ["tenant-acme"]
    assert login["tokenPolicies"] == ["tenant-acme"]
    assert login["tokenNoDefaultPolicy"] is True


def test_a_tenants_share_of_the_registrations_is_small(acme: dict[str, Registered]) -> None:
    """What is sent and stored per tenant, so that a stack of hundreds stays light."""
    assert sum(len(json.dumps(found.inputs)) for found in acme.values()) < 21 * 1024
