"""The platform as it is registered: everything managed (production) and everything given (one machine)."""

import json
from typing import Any

import pytest
import yaml

from infra.cluster.cluster import Cluster
from infra.platform import vault
from infra.platform.kubevirt import VERSION
from infra.platform.platform import Platform
from infra.platform.redis import RIGHTS
from infra.settings import load_settings
from tests.infra.recording import ROOT, SECRETS, Recorder, Registered, configure, local_stack, record, stack

RESTRICTED_OR = {
    "platform-system": "restricted",
    "databases": "restricted",
    "activity": "restricted",
    "vault": "restricted",
    "gateway": "restricted",
    "runtime": "restricted",
    "kubevirt": "privileged",
    "longhorn-system": "privileged",
    "monitoring": "privileged",
}


def platform(values: dict[str, Any], secrets: dict[str, str] | None = None) -> Recorder:
    configure(values, secrets)
    settings = load_settings()
    return record(lambda: Platform("platform", settings, Cluster("cluster", settings).foundations))


@pytest.fixture(scope="module")
def managed() -> Recorder:
    return platform(stack("prod"))


@pytest.fixture(scope="module")
def given() -> Recorder:
    return platform(local_stack(), SECRETS)


def secret(value: Any) -> Any:
    """What is inside a secret, which it has to be."""
    assert isinstance(value, dict), f"{value!r} would stand in the state in the clear"
    assert value["4dabf18193072939515e22adb298388d"] == "1b47061264138c4ac30d75fd1eb44270"
    return value["value"]


def releases(registered: Recorder) -> dict[str, Registered]:
    return {
        release.inputs["chart"]: release for release in registered.of_type("kubernetes:helm.sh/v3:Release")
    }


def test_each_namespace_says_what_its_pods_may_do(managed: Recorder, given: Recorder) -> None:
    def levels(registered: Recorder) -> dict[str, str]:
        found = registered.of_type("kubernetes:core/v1:Namespace")
        return {
            one.inputs["metadata"]["name"]: one.inputs["metadata"]["labels"][
                "pod-security.kubernetes.io/enforce"
            ]
            for one in found
        }

    assert levels(managed) == RESTRICTED_OR
    ours = ("platform-system", "gateway", "monitoring", "runtime")
    assert levels(given) == {name: RESTRICTED_OR[name] for name in ours}


def test_a_given_service_is_not_installed(given: Recorder) -> None:
    assert not releases(given)
    assert not given.of_type("kubernetes:kubevirt.io/v1:KubeVirt")
    assert {one.name for one in given.of_type("kubernetes:apps/v1:Deployment")} == {
        "platform-accounting-deployment",
        "platform-exporter-deployment",
        "platform-gateway-deployment",
        "platform-runtime-deployment",
    }


def test_every_chart_is_pinned_and_from_its_own_project(managed: Recorder) -> None:
    installed = releases(managed)
    assert set(installed) == {
        "cert-manager",
        "cloudnative-pg",
        "kube-prometheus-stack",
        "plugin-barman-cloud",
        "longhorn",
        "openbao",
        "opentelemetry-collector",
        "valkey",
    }
    for release in installed.values():
        assert release.inputs["version"].removeprefix("v")[0].isdigit()
        assert release.inputs["repositoryOpts"]["repo"].startswith("https://")
        assert "bitnami" not in json.dumps(release.inputs)


def test_kubevirt_is_installed_whole_before_it_is_asked_for(managed: Recorder) -> None:
    manifest = ROOT / "infra" / "platform" / "manifests" / f"kubevirt-operator-v{VERSION}.yaml"
    documents = [document for document in yaml.load_all(manifest.read_text(), yaml.CSafeLoader) if document]
    kubevirt = managed["platform-kubevirt"]
    assert len(documents) == len(kubevirt.depends_on)
    operator = managed["platform-kubevirt-operator-deployment-virt-operator"]
    image = operator.inputs["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image.startswith(f"quay.io/kubevirt/virt-operator:v{VERSION}")
    spec = kubevirt.inputs["spec"]
    # Any node will do: SKS shows none of the control plane.
    assert spec["infra"]["nodePlacement"] == {"nodeSelector": {"kubernetes.io/os": "linux"}}
    configuration = spec["configuration"]["developerConfiguration"]
    assert configuration == {"useEmulation": False, "featureGates": ["ExpandDisks"]}


def test_what_every_machine_needs_runs_on_a_tenants_own_nodes_too(managed: Recorder) -> None:
    toleration = {"key": "tenant-id", "operator": "Exists", "effect": "NoSchedule"}
    workloads = managed["platform-kubevirt"].inputs["spec"]["workloads"]["nodePlacement"]
    assert workloads["tolerations"] == [toleration]
    values = releases(managed)["longhorn"].inputs["values"]
    for part in ("longhornManager", "longhornDriver"):
        assert values[part]["tolerations"] == [toleration]
    assert values["defaultSettings"]["taintToleration"] == "tenant-id:NoSchedule"
    # Its nodes hold nobody's data: disks are made where the stack's own pools say so.
    assert values["defaultSettings"]["createDefaultDiskLabeledNodes"] is True


def test_emulation_is_only_for_those_who_ask() -> None:
    values = stack("prod")
    values["kubevirt"] = {"managed": {"allowEmulation": True}}
    spec = platform(values)["platform-kubevirt"].inputs["spec"]
    assert spec["configuration"]["developerConfiguration"]["useEmulation"] is True


def test_sleeping_tenants_are_backed_up_too(managed: Recorder) -> None:
    values = releases(managed)["longhorn"].inputs["values"]
    assert values["defaultSettings"]["allowRecurringJobWhileVolumeDetached"] is True
    assert (
        values["defaultBackupStore"]["backupTarget"] == "s3://agent-platform-prod-backups@ch-gva-2/longhorn"
    )
    credentials = managed["platform-longhorn-backup"].inputs
    assert secret(credentials["stringData"])["AWS_ENDPOINTS"] == "https://sos-ch-gva-2.exo.io"


def test_a_backup_key_opens_the_backups_bucket_alone(managed: Recorder) -> None:
    for service in ("longhorn", "database"):
        policy = managed[f"platform-{service}-backup-role"].inputs["policy"]
        assert policy["defaultServiceStrategy"] == "deny"
        assert policy["services"]["sos"]["rules"] == [
            {"action": "allow", "expression": "parameters.bucket == 'agent-platform-prod-backups'"}
        ]


@pytest.mark.parametrize("mode", ["managed", "given"])
def test_workspaces_have_classes_and_jobs_whoever_runs_longhorn(
    mode: str, request: pytest.FixtureRequest
) -> None:
    registered: Recorder = request.getfixturevalue(mode)
    classes = {
        one.inputs["metadata"]["name"]: one.inputs
        for one in registered.of_type("kubernetes:storage.k8s.io/v1:StorageClass")
    }
    assert set(classes) == {"workspace", "workspace-encrypted"}
    for one in classes.values():
        assert one["provisioner"] == "driver.longhorn.io"
        assert one["allowVolumeExpansion"] is True
        assert json.loads(one["parameters"]["recurringJobSelector"]) == [
            {"name": "workspace", "isGroup": True}
        ]
        assert one["parameters"]["migratable"] == "true"
        assert one["parameters"]["numberOfReplicas"] == "3"
    encrypted = classes["workspace-encrypted"]["parameters"]
    assert encrypted["encrypted"] == "true"
    assert encrypted["csi.storage.k8s.io/provisioner-secret-name"] == "${pvc.name}"
    jobs = registered.of_type("kubernetes:longhorn.io/v1beta2:RecurringJob")
    assert {job.inputs["spec"]["task"] for job in jobs} == {"snapshot", "backup", "filesystem-trim"}
    assert all(job.inputs["spec"]["groups"] == ["workspace"] for job in jobs)


@pytest.mark.parametrize("mode", ["managed", "given"])
def test_vaults_own_role_in_postgresql_is_no_superuser(mode: str, request: pytest.FixtureRequest) -> None:
    role = request.getfixturevalue(mode)["platform-database-issuer"].inputs
    assert secret(role.pop("password")) == "drawn"
    assert role == {"name": "vault", "login": True, "createRole": True, "inherit": False}


def test_a_given_database_is_entered_as_configured(given: Recorder) -> None:
    provider = given["platform-database-provider"].inputs
    assert secret(provider.pop("password")) == "db-secret"
    assert provider == {
        "host": "127.0.0.1",
        "port": "5432",
        "database": "agents",
        "username": "postgres",
        "sslmode": "disable",
        "connectTimeout": "15",
    }


def test_a_managed_database_is_whole(managed: Recorder) -> None:
    spec = managed["platform-database-cluster"].inputs["spec"]
    assert managed["platform-database-cluster"].protect
    assert spec["instances"] == 3
    assert spec["storage"] == {"size": "100Gi", "storageClass": "exoscale-sbs"}
    assert ":" in spec["imageName"].rpartition("/")[2]
    assert spec["postgresql"]["pg_hba"] == ["hostnossl all all all reject"]
    limits = spec["postgresql"]["parameters"]
    room = int(limits["max_connections"]) - int(limits["superuser_reserved_connections"])
    # Vault makes logins however many connections tenants hold.
    assert room >= 500 + vault.DATABASE_CONNECTIONS
    assert limits["temp_file_limit"] == "1GB"
    # What one session takes in a minute leaves the others some (0068).
    assert int(limits["max_locks_per_transaction"]) >= 256
    assert limits["max_notify_queue_pages"] == "131072"
    assert limits["authentication_timeout"] == "10s"
    assert spec["plugins"][0]["isWALArchiver"] is True
    store = managed["platform-database-backup-store"].inputs["spec"]
    assert store["retentionPolicy"] == "30d"
    assert store["configuration"]["destinationPath"] == "s3://agent-platform-prod-backups/postgres"
    nightly = managed["platform-database-nightly-backup"].inputs["spec"]
    assert (nightly["method"], nightly["cluster"]) == ("plugin", {"name": "postgres"})
    admin = managed["platform-database-admin"].inputs
    assert secret(admin["stringData"])["password"] == "drawn"
    provider = managed["platform-database-provider"].inputs
    assert (provider["host"], provider["sslmode"]) == ("192.0.2.7", "verify-ca")


def test_every_server_has_a_certificate_for_the_names_it_is_called_by(managed: Recorder) -> None:
    names = {
        one.inputs["metadata"]["namespace"]: one.inputs["spec"]["dnsNames"]
        for one in managed.of_type("kubernetes:cert-manager.io/v1:Certificate")
        if not one.inputs["spec"].get("isCA")
    }
    # That in the system's namespace is nobody's: it shows the authority's certificate.
    assert set(names) == {"databases", "activity", "vault", "gateway", "platform-system"}
    assert names["gateway"] == ["*.agents.example.ch", "gateway.gateway.svc"]
    assert "postgres-rw.databases.svc" in names["databases"]
    assert "valkey.activity.svc" in names["activity"]
    assert {"vault.agents.example.ch", "vault-active.vault.svc", "*.vault-internal"} <= set(names["vault"])


def test_only_operators_reach_a_managed_service(managed: Recorder) -> None:
    services = [
        service
        for service in managed.of_type("kubernetes:core/v1:Service")
        if service.inputs["spec"].get("type") == "LoadBalancer"
        and service.inputs["metadata"]["namespace"] != "gateway"
    ]
    assert {service.inputs["metadata"]["name"] for service in services} == {
        "postgres-operators",
        "vault-operators",
        "activity-operators",
    }
    exoscale = "service.beta.kubernetes.io/exoscale-loadbalancer-service"
    for service in services:
        annotations = service.inputs["metadata"]["annotations"]
        # A tenant's own nodes make a second pool, and none is chosen for a Service that names none.
        assert annotations[f"{exoscale}-instancepool-id"] == "cluster-workers-instance-pool"
        assert annotations[f"{exoscale}-healthcheck-mode"] == "http"
        assert service.inputs["spec"]["loadBalancerSourceRanges"] == ["203.0.113.0/24"]
        assert service.inputs["spec"]["externalTrafficPolicy"] == "Local"


def test_valkey_speaks_tls_and_lets_nobody_do_more_than_it_has_to(managed: Recorder) -> None:
    values = releases(managed)["valkey"].inputs["values"]
    assert values["tls"]["enabled"] is True
    users = {name: user["permissions"] for name, user in values["auth"]["aclUsers"].items()}
    program = users.pop("default").split()
    assert program[:5] == ["~activity:*", "~suspension:*", "~usage:*", "resetchannels", "-@all"]
    assert program[-1] == "-@dangerous"
    assert users == RIGHTS
    drawn = secret(managed["platform-redis-users"].inputs["stringData"])
    assert drawn.keys() == {"default", *RIGHTS}


def test_a_given_redis_gets_the_same_users(given: Recorder) -> None:
    users = given.of_type("pulumi-python:dynamic/agent-platform:RedisUser")
    assert {user.inputs["name"]: user.inputs["rights"] for user in users} == RIGHTS
    for user in users:
        assert secret(user.inputs["password"]) == "drawn"
        assert secret(user.inputs["server"])["password"] == "redis-secret"


def test_vault_is_highly_available_tls_only_and_audited(managed: Recorder) -> None:
    release = releases(managed)["openbao"]
    assert release.protect
    values = release.inputs["values"]
    assert values["global"]["tlsDisable"] is False
    assert values["server"]["ha"]["replicas"] == 3
    configuration = values["server"]["ha"]["raft"]["config"]
    assert "tls_disable" not in configuration
    assert configuration.count("retry_join") == 3
    assert configuration.count('audit "file"') == 2
    provider = managed["platform-vault-provider"].inputs
    assert provider["address"] == "https://192.0.2.7:8200"
    assert provider["tlsServerName"] == "vault.agents.example.ch"
    assert "token" not in provider, "the operator's token comes from the environment and stays there"


def test_vault_is_backed_up_every_hour_by_who_may_do_nothing_else(managed: Recorder) -> None:
    agent = releases(managed)["openbao"].inputs["values"]["snapshotAgent"]
    assert agent["enabled"] is True
    assert agent["config"]["s3Uri"] == "s3://agent-platform-prod-backups/vault"
    assert agent["config"]["s3Host"] == "sos-ch-gva-2.exo.io"
    policy = managed["platform-vault-snapshot-policy"].inputs
    assert policy["policy"].split() == [
        *("path", '"sys/storage/raft/snapshot"', "{", "capabilities", "=", '["read"]', "}")
    ]
    role = managed["platform-vault-snapshot-role"].inputs
    assert role["boundServiceAccountNames"] == [agent["serviceAccount"]["name"]]
    assert role["boundServiceAccountNamespaces"] == ["vault"]
    key = managed["platform-vault-snapshot-key"].inputs
    assert key["metadata"]["name"] == agent["s3CredentialsSecret"]
    assert set(secret(key["stringData"])) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


@pytest.mark.parametrize("mode", ["managed", "given"])
def test_vault_is_furnished_for_tenants(mode: str, request: pytest.FixtureRequest) -> None:
    registered: Recorder = request.getfixturevalue(mode)
    kv = registered["platform-vault-tenants"]
    assert (kv.inputs["path"], kv.inputs["type"], kv.inputs["options"]) == ("tenants", "kv", {"version": "2"})
    assert kv.protect
    connection = registered["platform-vault-database-connection"].inputs
    assert (connection["backend"], connection["name"]) == ("database", "agents")
    assert connection["allowedRoles"] == ["tenant-*"]
    url = connection["postgresql"]["connectionUrl"]
    assert (
        url
        == {
            "managed": "postgresql://{{username}}:{{password}}@postgres-rw.databases.svc:5432/agents"
            "?sslmode=verify-full&sslrootcert=/openbao/tls/ca.crt",
            "given": "postgresql://{{username}}:{{password}}@127.0.0.1:5432/agents?sslmode=disable",
        }[mode]
    )
    assert registered["platform-vault-kubernetes"].inputs["path"] == "kubernetes"


def test_a_vault_outside_the_cluster_reaches_a_managed_database_encrypted() -> None:
    values, ours = local_stack(), stack("prod")
    values |= {"database": ours["database"], "operatorNetworks": ours["operatorNetworks"]}
    secrets = {key: value for key, value in SECRETS.items() if key != "databaseAdminPassword"}
    connection = platform(values, secrets)["platform-vault-database-connection"].inputs["postgresql"]
    assert connection["connectionUrl"].endswith("@192.0.2.7:5432/agents?sslmode=require")


def test_a_given_database_is_reached_by_vault_as_by_us() -> None:
    values = local_stack()
    values["database"]["given"] |= {"host": "db.example.ch", "sslMode": "verify-full"}
    connection = platform(values, SECRETS)["platform-vault-database-connection"].inputs["postgresql"]
    assert connection["connectionUrl"].endswith("@db.example.ch:5432/agents?sslmode=verify-full")


def test_a_vault_outside_the_cluster_reviews_tokens_with_an_account_of_its_own(given: Recorder) -> None:
    configured = given["platform-vault-kubernetes-config"].inputs
    assert secret(configured["tokenReviewerJwt"]) == "jwt"
    assert configured["kubernetesHost"] == "https://sks.test"
    assert configured["kubernetesCaCert"] == "ca"
    assert configured["disableLocalCaJwt"] is True
    binding = given["platform-vault-reviewer-binding"].inputs
    assert binding["roleRef"]["name"] == "system:auth-delegator"
    assert secret(given["platform-vault-provider"].inputs["token"]) == "vault-secret"


@pytest.mark.parametrize("mode", ["managed", "given"])
def test_no_secret_stands_in_the_clear(mode: str, request: pytest.FixtureRequest) -> None:
    registered: Recorder = request.getfixturevalue(mode)
    for one in registered.registered.values():
        written = json.dumps(_without_secrets(one.inputs))
        for value in (*SECRETS.values(), "EXOsecret"):
            assert value not in written, one.name


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        if "4dabf18193072939515e22adb298388d" in value:
            return None
        return {key: _without_secrets(inner) for key, inner in value.items()}
    return [_without_secrets(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("mode", ["managed", "given"])
def test_everything_belongs_to_the_component(mode: str, request: pytest.FixtureRequest) -> None:
    registered: Recorder = request.getfixturevalue(mode)
    children = [one for one in registered.registered.values() if one.name.startswith("platform-")]
    assert children
    assert all(child.parent == "platform" for child in children)


def test_a_removal_looks_at_the_cluster_and_has_volumes_backed_up_and_no_more(given: Recorder) -> None:
    rules = given["platform-registrar-role"].inputs["rules"]
    may = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}

    assert {resource for resource, verb in may if verb not in ("get", "list")} == {
        *("backups", "snapshots", "virtualmachines/start", "virtualmachines/stop")
    }
    assert {verb for _, verb in may} == {"get", "list", "create", "update"}
    assert "secrets" not in {resource for resource, _ in may}
    (subject,) = given["platform-registrar-binding"].inputs["subjects"]
    assert (subject["kind"], subject["name"]) == ("Group", "agent-platform:registrar")
    routes = given["platform-registrar-routes"].inputs
    assert routes["metadata"]["namespace"] == "gateway"
    assert routes["rules"] == [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}]
    (group,) = given["platform-registrar-routes-binding"].inputs["subjects"]
    assert group == subject
