"""The agent against a real API server, KubeVirt and the Exoscale emulator."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from exoscale.api.v2 import Client  # type: ignore[import-untyped]
from kubernetes import client
from rich.console import Console

from local import supervisor, toolchain
from local.paths import LOGS
from local.servers import (
    Module,
    controller_manager,
    exoscale,
    kubernetes,
    kubernetes_api,
    kubevirt,
    node_agent,
    object_storage,
)

pytestmark = pytest.mark.integration

MODULES: tuple[Module, ...] = (
    object_storage,
    exoscale,
    kubernetes,
    kubevirt,
    controller_manager,
    node_agent,
)
NAMESPACE = "nodes"
VIRTUAL_MACHINES = ("kubevirt.io", "v1", NAMESPACE, "virtualmachines")
SCRIPT = """
from kubernetes import client, config
config.load_incluster_config()
api = client.CoreV1Api()
print(sorted(item.metadata.name for item in api.list_namespaced_config_map("nodes").items))
try:
    api.list_namespaced_secret("nodes")
except client.ApiException as error:
    print(error.status)
"""


@pytest.fixture(scope="module", autouse=True)
def _platform(console: Console) -> Iterator[None]:
    toolchain.ensure(console)
    try:
        for module in MODULES:
            module.prepare()
            for service in module.services():
                supervisor.start(service, console)
            module.bootstrap()
        _create_pool()
        kubernetes_api.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}])
        yield
    finally:
        for module in reversed(MODULES):
            for service in reversed(module.services()):
                supervisor.stop(service.name)


@pytest.fixture
def api() -> client.ApiClient:
    return kubernetes_api.client()


def _create_pool() -> None:
    found = exoscale.environment()
    cloud = Client(
        found["EXOSCALE_API_KEY"], found["EXOSCALE_API_SECRET"], url=found["EXOSCALE_API_ENDPOINT"]
    )
    version = cloud.list_sks_cluster_versions()["sks-cluster-versions"][0]
    operation = cloud.create_sks_cluster(name="test", level="starter", version=version, cni="cilium")
    cluster = cloud.wait(operation["id"])["reference"]["id"]
    types = cloud.list_instance_types()["instance-types"]
    large = next(t for t in types if (t["family"], t["size"]) == ("standard", "extra-large"))
    operation = cloud.create_sks_nodepool(
        id=cluster, name="tenants", size=2, instance_type={"id": large["id"]}, disk_size=100
    )
    cloud.wait(operation["id"])


def until(get: Callable[[], Any], wanted: Callable[[Any], bool], seconds: float = 90) -> Any:
    deadline = time.monotonic() + seconds
    while not wanted(found := get()):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


def test_the_pools_instances_are_nodes(api: client.ApiClient) -> None:
    nodes = until(lambda: client.CoreV1Api(api).list_node().items, lambda items: len(items) == 2)
    for node in nodes:
        assert {c.type: c.status for c in node.status.conditions}["Ready"] == "True"
        assert node.metadata.labels["kubevirt.io/schedulable"] == "true"


def test_a_machine_runs_stops_and_runs_again(api: client.ApiClient) -> None:
    objects = client.CustomObjectsApi(api)
    objects.create_namespaced_custom_object(*VIRTUAL_MACHINES, _machine("vm"))

    def state() -> Any:
        found: Any = objects.get_namespaced_custom_object(*VIRTUAL_MACHINES, "vm")
        return found.get("status", {}).get("printableStatus")

    until(state, lambda value: value == "Running")
    until(lambda: _ask(api, "stop"), lambda status: status == 202)
    until(state, lambda value: value == "Stopped")
    until(lambda: _ask(api, "start"), lambda status: status == 202)
    until(state, lambda value: value == "Running")


def test_a_cronjob_of_ours_runs_under_its_service_account(api: client.ApiClient) -> None:
    rbac = "rbac.authorization.k8s.io"
    rule = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}
    role = {"apiGroup": rbac, "kind": "Role", "name": "reader"}
    subject = {"kind": "ServiceAccount", "name": "reader", "namespace": NAMESPACE}
    container = {
        "name": "main",
        "image": "registry.example/agent-platform/reader:1",
        "command": ["python", "-c", SCRIPT],
    }
    pod = {"spec": {"serviceAccountName": "reader", "restartPolicy": "Never", "containers": [container]}}
    job = {"spec": {"backoffLimit": 0, "template": pod}}
    contents: list[tuple[str, str, dict[str, Any]]] = [
        ("v1", "ServiceAccount", {}),
        (f"{rbac}/v1", "Role", {"rules": [rule]}),
        (f"{rbac}/v1", "RoleBinding", {"roleRef": role, "subjects": [subject]}),
        ("batch/v1", "CronJob", {"spec": {"schedule": "* * * * *", "jobTemplate": job}}),
    ]
    metadata = {"name": "reader", "namespace": NAMESPACE}
    kubernetes_api.apply(
        [{"apiVersion": v, "kind": k, "metadata": metadata, **content} for v, k, content in contents]
    )
    batch = client.BatchV1Api(api)

    def finished() -> list[Any]:
        return [
            item
            for item in batch.list_namespaced_job(NAMESPACE).items
            if item.status and item.status.completion_time
        ]

    until(finished, bool, seconds=120)
    batch.delete_namespaced_cron_job("reader", NAMESPACE, propagation_policy="Orphan")
    (output, *_) = (LOGS / "pods").glob(f"{NAMESPACE}_reader-*/main/0.log")
    assert output.read_text().splitlines()[1:] == ["['kube-root-ca.crt']", "403"]


def _machine(name: str) -> dict[str, Any]:
    devices = {
        "disks": [{"name": "system", "disk": {"bus": "virtio"}}],
        "interfaces": [{"name": "default", "masquerade": {}}],
    }
    spec = {
        "domain": {"cpu": {"cores": 1}, "memory": {"guest": "1Gi"}, "devices": devices},
        "networks": [{"name": "default", "pod": {}}],
        "volumes": [{"name": "system", "containerDisk": {"image": "registry.example/disk:1"}}],
    }
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": name},
        "spec": {"runStrategy": "RerunOnFailure", "template": {"spec": spec}},
    }


def _ask(api: client.ApiClient, verb: str) -> int:
    path = f"/apis/subresources.kubevirt.io/v1/namespaces/{NAMESPACE}/virtualmachines/vm/{verb}"
    headers = {"Content-Type": "application/json"}
    request = api.param_serialize("PUT", path, header_params=headers, body={})
    return int(api.call_api(*request).status)
