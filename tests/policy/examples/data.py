"""Data: protection, backups, encryption, secrets."""

import json
from typing import Any

import pulumi

from policy.data import STEPS
from tests.policy.examples import failing, passing
from tests.policy.examples.customers import Customer
from tests.policy.scene import Scene, unknown

_SCHEMA = "postgresql:index/schema:Schema"
_DATABASE = "postgresql:index/database:Database"
_SERVERS = "postgresql.cnpg.io/v1:Cluster"
_BACKUP = "postgresql.cnpg.io/v1:ScheduledBackup"
_STORE = "barmancloud.cnpg.io/v1:ObjectStore"
_STORAGE_CLASS = "storage.k8s.io/v1:StorageClass"
_JOB = "longhorn.io/v1beta2:RecurringJob"
_SECRET = "core/v1:Secret"
_CONFIGURATION = "core/v1:ConfigMap"
_BUCKET = "pulumi-python:dynamic/agent-platform:Bucket"
_PREFIX = "pulumi-python:dynamic/agent-platform:Prefix"

_IN_GENEVA = {"region": "ch-gva-2", "endpoint": "https://sos-ch-gva-2.exo.io"}
_ARCHIVED = {"plugins": [{"name": "barman-cloud.cloudnative-pg.io", "isWALArchiver": True}]}


def _bucket(scene: Scene, *, protect: bool = True, **changed: Any) -> None:
    scene.declare(_BUCKET, {"name": scene.name, "versioned": True, **_IN_GENEVA, **changed}, protect=protect)


def _schema(customer: Customer, database: str = "nowhere", *, protect: bool = True) -> None:
    schema = {"name": f"tenant_{customer.id}", "database": database}
    customer.declare(_SCHEMA, schema, suffix="schema", protect=protect)


def _servers(scene: Scene, **changed: Any) -> None:
    """Servers in the scene's namespace, with a database of the scene's name."""
    bootstrap = {"initdb": {"database": scene.name}}
    spec = {"instances": 3, "bootstrap": bootstrap, **_ARCHIVED, **changed}
    scene.kubernetes(_SERVERS, {"spec": spec}, suffix="servers", protect=True)


def _scheduled(scene: Scene, **changed: Any) -> None:
    spec = {"schedule": "0 0 1 * * *", "cluster": {"name": f"{scene.name}.servers"}, **changed}
    scene.kubernetes(_BACKUP, {"spec": spec}, suffix="nightly")


@passing("data-protected")
def protected(scene: Scene) -> None:
    _bucket(scene)
    customer = Customer(scene, "enterprise", workspaceGib=20)
    customer.has_namespace(protect=True)
    customer.has_volume()
    _schema(customer)


@passing("data-protected")
def leaving(scene: Scene) -> None:
    customer = Customer(scene, "enterprise", state="offboarding", workspaceGib=20)
    customer.has_volume(protect=False)
    _schema(customer, protect=False)


@passing("data-protected")
def let_go_by_name(scene: Scene) -> None:
    Customer(scene, "enterprise", discard=["workspace"], workspaceGib=20).has_volume(protect=False)


@passing("data-protected")
def namespace_without_a_volume(scene: Scene) -> None:
    Customer(scene, "professional").has_namespace()


@failing("data-protected")
def bucket_unprotected(scene: Scene) -> None:
    _bucket(scene, protect=False)


@failing("data-protected")
def schema_unprotected(scene: Scene) -> None:
    _schema(Customer(scene, "starter", state="suspended"), protect=False)


@failing("data-protected")
def another_thing_let_go(scene: Scene) -> None:
    Customer(scene, "enterprise", discard=["database"], workspaceGib=20).has_volume(protect=False)


@failing("data-protected")
def prefix_unprotected(scene: Scene) -> None:
    customer = Customer(scene, "starter")
    prefix = {"bucket": "artifacts", "prefix": f"tenant_{customer.id}/", **_IN_GENEVA}
    customer.declare(_PREFIX, prefix, suffix="prefix")


@failing("data-protected")
def namespace_of_a_volume_unprotected(scene: Scene) -> None:
    customer = Customer(scene, "enterprise", workspaceGib=20)
    customer.has_namespace()
    customer.has_volume()


@failing("data-protected")
def cluster_unprotected(scene: Scene) -> None:
    scene.declare("exoscale:index/sksCluster:SksCluster", {"name": scene.name, "zone": "ch-gva-2"})


@failing("data-protected")
def secrets_unprotected(scene: Scene) -> None:
    scene.declare("vault:index/mount:Mount", {"path": scene.name, "type": "kv"})


@passing("data-workspace-encrypted")
def encrypted(scene: Scene) -> None:
    customer = Customer(scene, "enterprise", workspaceGib=20)
    customer.has_volume()
    key = {"stringData": {"CRYPTO_KEY_VALUE": pulumi.Output.secret("drawn once")}}
    customer.has(_SECRET, key, metadata={"name": f"workspace-{customer.id}"}, suffix="key")


@failing("data-workspace-encrypted")
def in_the_clear(scene: Scene) -> None:
    Customer(scene, "enterprise", workspaceGib=20).has_volume("workspace")


@failing("data-workspace-encrypted")
def without_a_key(scene: Scene) -> None:
    Customer(scene, "enterprise", workspaceGib=20).has_volume()


def _class(scene: Scene, name: str, parameters: dict[str, str]) -> None:
    inputs = {"provisioner": "driver.longhorn.io", "parameters": parameters}
    scene.kubernetes(_STORAGE_CLASS, inputs, metadata={"name": name, "namespace": None}, suffix="class")


def _own_key(secret: str = "${pvc.name}") -> dict[str, str]:
    parameters = {"encrypted": "true"}
    for step in STEPS:
        parameters[f"csi.storage.k8s.io/{step}-secret-name"] = secret
        parameters[f"csi.storage.k8s.io/{step}-secret-namespace"] = "${pvc.namespace}"
    return parameters


@passing("data-key-per-volume")
def key_of_the_claim(scene: Scene) -> None:
    _class(scene, f"{scene.name}-encrypted", _own_key())


@failing("data-key-per-volume")
def one_key_for_all(scene: Scene) -> None:
    _class(scene, scene.name, _own_key("longhorn-crypto"))


@failing("data-key-per-volume")
def encrypted_by_name_only(scene: Scene) -> None:
    _class(scene, f"{scene.name}-encrypted", {})


def _volume_of(scene: Scene, selector: list[dict[str, Any]]) -> None:
    """A volume of a class of its own, whose volumes the jobs of `selector` are for."""
    _class(scene, scene.name, {"recurringJobSelector": json.dumps(selector)})
    Customer(scene, "enterprise", workspaceGib=20).has_volume(scene.name)


def _job(scene: Scene, task: str, **changed: Any) -> None:
    spec = {
        "name": scene.name,
        "task": task,
        "groups": [scene.name],
        "cron": "0 1 * * *",
        "retain": 30,
        **changed,
    }
    scene.kubernetes(_JOB, {"spec": spec}, suffix=task)


@passing("data-volume-backed-up")
def backed_up_by_group(scene: Scene) -> None:
    _volume_of(scene, [{"name": scene.name, "isGroup": True}])
    _job(scene, "backup")


@passing("data-volume-backed-up")
def backed_up_by_job(scene: Scene) -> None:
    _volume_of(scene, [{"name": scene.name, "isGroup": False}])
    _job(scene, "backup", groups=[])


@failing("data-volume-backed-up")
def snapshots_alone(scene: Scene) -> None:
    _volume_of(scene, [{"name": scene.name, "isGroup": True}])
    _job(scene, "snapshot")


@failing("data-volume-backed-up")
def class_without_a_schedule(scene: Scene) -> None:
    _class(scene, scene.name, {"numberOfReplicas": "3"})


@failing("data-volume-backed-up")
def of_a_class_from_elsewhere(scene: Scene) -> None:
    Customer(scene, "enterprise", workspaceGib=20).has_volume("from-elsewhere")


@passing("data-schema-backed-up")
def on_servers_of_the_stack(scene: Scene) -> None:
    _servers(scene)
    _scheduled(scene)
    customer = Customer(scene, "private-cloud")
    _schema(customer, scene.name)


@passing("data-schema-backed-up")
def in_a_database_of_its_own(scene: Scene) -> None:
    _servers(scene)
    _scheduled(scene)
    customer = Customer(scene, "private-cloud")
    customer.declare(_DATABASE, {"name": f"tenant_{customer.id}"}, suffix="database", protect=True)
    _schema(customer, f"tenant_{customer.id}")


@failing("data-schema-backed-up")
def on_servers_of_somebody(scene: Scene) -> None:
    _schema(Customer(scene, "starter"))


@passing("data-servers-backed-up")
def servers_backed_up(scene: Scene) -> None:
    _servers(scene)
    _scheduled(scene)


@failing("data-servers-backed-up")
def servers_without_a_schedule(scene: Scene) -> None:
    _servers(scene)


@failing("data-servers-backed-up")
def schedule_suspended(scene: Scene) -> None:
    _servers(scene)
    _scheduled(scene, suspend=True)


@failing("data-servers-backed-up")
def log_not_archived(scene: Scene) -> None:
    _servers(scene, plugins=[])
    _scheduled(scene)


@passing("data-backups-kept")
def kept_for_a_month(scene: Scene) -> None:
    endpoint = {"configuration": {"endpointURL": "https://sos-ch-gva-2.exo.io"}}
    scene.kubernetes(_STORE, {"spec": {"retentionPolicy": "4w", **endpoint}}, suffix="store")
    _job(scene, "backup")
    _job(scene, "snapshot", retain=2)


@failing("data-backups-kept")
def kept_for_days(scene: Scene) -> None:
    scene.kubernetes(_STORE, {"spec": {"retentionPolicy": "3d", "configuration": {}}})


@failing("data-backups-kept")
def kept_for_nobody_knows(scene: Scene) -> None:
    scene.kubernetes(_STORE, {"spec": {"configuration": {}}})


@failing("data-backups-kept")
def the_last_one_kept(scene: Scene) -> None:
    _job(scene, "backup", retain=1)


@passing("data-bucket-versioned")
def versioned(scene: Scene) -> None:
    _bucket(scene)


@failing("data-bucket-versioned")
def not_versioned(scene: Scene) -> None:
    _bucket(scene, versioned=False)


@passing("data-no-plaintext-secret")
def secrets_marked(scene: Scene) -> None:
    drawn = pulumi.Output.secret("drawn once")
    scene.kubernetes(_SECRET, {"stringData": {"password": drawn}}, suffix="secret")
    scene.kubernetes(_CONFIGURATION, {"data": {"tokenPath": "/var/run/token", "url": "https://a.example/"}})
    login = {"name": scene.name, "login": True, "password": drawn}
    scene.declare("postgresql:index/role:Role", login, suffix="role")


@passing("data-no-plaintext-secret")
def unknown_and_marked(scene: Scene) -> None:
    login = {"name": scene.name, "login": True, "password": unknown()}
    scene.declare("postgresql:index/role:Role", login, additional_secret_outputs=["password"])


@failing("data-no-plaintext-secret")
def password_in_the_clear(scene: Scene) -> None:
    scene.declare("postgresql:index/role:Role", {"name": scene.name, "login": True, "password": "hunter2"})


@failing("data-no-plaintext-secret")
def secret_in_the_clear(scene: Scene) -> None:
    scene.kubernetes(_SECRET, {"stringData": {"anything": "in the clear"}})


@failing("data-no-plaintext-secret")
def key_in_a_config_map(scene: Scene) -> None:
    scene.kubernetes(_CONFIGURATION, {"data": {"notes": f"ask with EXO{'0a' * 12}"}})


@failing("data-no-plaintext-secret")
def private_key_in_a_file(scene: Scene) -> None:
    key = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE"
    scene.kubernetes(_CONFIGURATION, {"data": {"server.pem": key}})


@failing("data-no-plaintext-secret")
def token_in_the_environment(scene: Scene) -> None:
    variable = {"name": "VAULT_TOKEN", "value": "plain"}
    container = {"name": "agent", "image": "ghcr.io/agent-platform/agent:1", "env": [variable]}
    scene.kubernetes("core/v1:Pod", {"spec": {"containers": [container]}})


@failing("data-no-plaintext-secret")
def password_in_an_address(scene: Scene) -> None:
    scene.kubernetes(
        _CONFIGURATION, {"data": {"database": "postgresql://agent:hunter2@postgres:5432/agents"}}
    )
