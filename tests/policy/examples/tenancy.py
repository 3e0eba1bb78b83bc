"""Tenancy: what a tenant has, where it is, and whom it names."""

from typing import Any

from tests.policy.examples import failing, passing
from tests.policy.examples.customers import NODE_POOL, SIZE, Customer
from tests.policy.examples.pods import container, deployment, pod
from tests.policy.scene import Scene

_ROLE = "postgresql:index/role:Role"
_GRANT = "postgresql:index/grantRole:GrantRole"
_CONFIGURATION = "core/v1:ConfigMap"

_BOUND: dict[str, Any] = {"default": {"cpu": "1", "memory": "1Gi"}, "max": {"cpu": "4", "memory": "8Gi"}}
_HARD = {
    "requests.cpu": "4",
    "requests.memory": "8Gi",
    "limits.cpu": "4",
    "limits.memory": "8Gi",
    "pods": "2",
    "requests.storage": "0",
    "persistentvolumeclaims": "0",
    "services.loadbalancers": "0",
    "services.nodeports": "0",
}


def _size(customer: Customer, cpu: int, memory: str) -> None:
    spec = {"cpu": {"guest": cpu}, "memory": {"guest": memory}}
    customer.has(SIZE, {"spec": spec}, metadata={"name": f"cpu{cpu}"}, suffix="size")


def _of_size(name: str) -> dict[str, Any]:
    return {"instancetype": {"kind": "VirtualMachineInstancetype", "name": name}}


def _guarded(customer: Customer, hard: dict[str, str], limits: dict[str, Any]) -> None:
    customer.has_namespace()
    customer.has("core/v1:ResourceQuota", {"spec": {"hard": hard}}, suffix="quota")
    item = {"type": "Container", **limits}
    customer.has("core/v1:LimitRange", {"spec": {"limits": [item]}}, suffix="limits")


@passing("tenancy-registered")
def registered(scene: Scene) -> None:
    Customer(scene, "starter")


@failing("tenancy-registered")
def not_registered(scene: Scene) -> None:
    scene.tenant()


@failing("tenancy-registered")
def registered_as_another(scene: Scene) -> None:
    Customer(scene, "starter", tenant="somebody")


@failing("tenancy-registered")
def of_no_tier(scene: Scene) -> None:
    Customer(scene, "platinum")


@passing("tenancy-own-namespace")
@passing("tenancy-labels")
def at_home(scene: Scene) -> None:
    customer = Customer(scene, "professional")
    customer.has_namespace()
    customer.has(_CONFIGURATION, {"data": {}}, suffix="configuration")


@passing("tenancy-own-namespace")
def platform_at_home(scene: Scene) -> None:
    scene.kubernetes(_CONFIGURATION, {"data": {}})


@passing("tenancy-own-namespace")
def route(scene: Scene) -> None:
    customer = Customer(scene, "starter")
    place = {"name": f"route-{customer.id}", "namespace": "gateway"}
    customer.has(_CONFIGURATION, {"data": {}}, metadata=place, suffix="route")


@failing("tenancy-own-namespace")
def anothers_route(scene: Scene) -> None:
    customer = Customer(scene, "starter")
    place = {"name": "route-somebody", "namespace": "gateway"}
    customer.has(_CONFIGURATION, {"data": {}}, metadata=place, suffix="route")


@failing("tenancy-own-namespace")
def at_the_gateway(scene: Scene) -> None:
    customer = Customer(scene, "starter")
    place = {"name": f"route-{customer.id}", "namespace": "gateway"}
    customer.has("core/v1:Secret", {"stringData": {}}, metadata=place, suffix="secret")


@failing("tenancy-own-namespace")
def in_the_system(scene: Scene) -> None:
    customer = Customer(scene, "professional")
    customer.has(_CONFIGURATION, {"data": {}}, metadata={"namespace": "kube-system"}, suffix="configuration")


@failing("tenancy-own-namespace")
def at_a_neighbours(scene: Scene) -> None:
    customer = Customer(scene, "professional")
    customer.has(_CONFIGURATION, {"data": {}}, metadata={"namespace": "tenant-other"}, suffix="configuration")


@failing("tenancy-own-namespace")
def platform_at_a_tenants(scene: Scene) -> None:
    scene.kubernetes(_CONFIGURATION, {"data": {}}, metadata={"namespace": f"tenant-{scene.tenant_id}"})


@failing("tenancy-own-namespace")
def for_the_whole_cluster(scene: Scene) -> None:
    customer = Customer(scene, "enterprise")
    metadata = {"namespace": None}
    customer.has("rbac.authorization.k8s.io/v1:ClusterRole", {"rules": []}, metadata=metadata, suffix="role")


@failing("tenancy-own-namespace")
def namespace_of_another_name(scene: Scene) -> None:
    Customer(scene, "professional").has_namespace(name="somewhere")


@failing("tenancy-labels")
def without_labels(scene: Scene) -> None:
    customer = Customer(scene, "professional")
    customer.has(_CONFIGURATION, {"data": {}}, metadata={"labels": {}}, suffix="configuration")


@failing("tenancy-labels")
def labelled_as_a_higher_tier(scene: Scene) -> None:
    customer = Customer(scene, "professional")
    labels = {**customer.labels, "tier": "enterprise"}
    customer.has(_CONFIGURATION, {"data": {}}, metadata={"labels": labels}, suffix="configuration")


@failing("tenancy-labels")
def pods_without_labels(scene: Scene) -> None:
    Customer(scene, "professional").has("apps/v1:Deployment", deployment(pod()), suffix="agent")


@passing("tenancy-own-names")
def own_names(scene: Scene) -> None:
    customer = Customer(scene, "enterprise")
    role = customer.declare(_ROLE, {"name": f"tenant_{customer.id}"}, suffix="role", protect=True)
    customer.declare(_GRANT, {"role": "vault", "grantRole": role.id}, suffix="grant")
    customer.has(_CONFIGURATION, {"data": {"path": f"tenants/{customer.id}"}}, suffix="configuration")
    customer.has_volume()


@failing("tenancy-own-names")
def names_a_neighbours_schema(scene: Scene) -> None:
    Customer(scene, "starter").declare(_GRANT, {"role": "vault", "grantRole": "tenant_other"}, suffix="grant")


@failing("tenancy-own-names")
def names_a_neighbours_secrets(scene: Scene) -> None:
    customer = Customer(scene, "professional")
    customer.has(_CONFIGURATION, {"data": {"path": "tenants/data/other/keys"}}, suffix="configuration")


@failing("tenancy-own-names")
def made_from_a_neighbours(scene: Scene) -> None:
    customer, neighbour = Customer(scene, "starter"), Customer(scene.neighbour(), "starter")
    role = neighbour.declare(_ROLE, {"name": f"tenant_{neighbour.id}"}, suffix="role", protect=True)
    customer.declare(_GRANT, {"role": "vault", "grantRole": role.id}, suffix="grant")


@failing("tenancy-own-names")
def mounts_a_neighbours_volume(scene: Scene) -> None:
    customer, neighbour = Customer(scene, "enterprise"), Customer(scene.neighbour(), "enterprise")
    volume = {"name": "other", "persistentVolumeClaim": {"claimName": f"workspace-{neighbour.id}"}}
    customer.has_machine(volumes=[volume])


@passing("tenancy-quota")
@passing("tenancy-limits")
def guarded(scene: Scene) -> None:
    _guarded(Customer(scene, "professional"), _HARD, _BOUND)


@passing("tenancy-quota")
def nothing_runs_there(scene: Scene) -> None:
    hard = {name: "0" for name in _HARD if not name.endswith(("cpu", "memory"))}
    _guarded(Customer(scene, "starter", workspaceGib=20), hard, _BOUND)


@failing("tenancy-quota")
@failing("tenancy-limits")
def unguarded(scene: Scene) -> None:
    Customer(scene, "professional").has_namespace()


@failing("tenancy-quota")
def quota_of_pods_alone(scene: Scene) -> None:
    _guarded(Customer(scene, "professional"), {"pods": "2"}, _BOUND)


@failing("tenancy-quota", shared=["runtime", "shared-by-all"])
@failing("tenancy-limits", shared=["runtime", "shared-by-all"])
def unguarded_runtime(scene: Scene) -> None:
    scene.kubernetes("core/v1:Namespace", {}, metadata={"name": "shared-by-all", "namespace": None})


@failing("tenancy-limits")
def limits_without_a_maximum(scene: Scene) -> None:
    _guarded(Customer(scene, "professional"), _HARD, {"default": _BOUND["default"]})


@passing("tenancy-parts")
def all_parts(scene: Scene) -> None:
    customer = Customer(scene, "private-cloud", workspaceGib=20)
    customer.has_namespace(protect=True)
    customer.has_volume()
    customer.has_machine()
    customer.has_nodes()
    customer.has("core/v1:Service", {"spec": {"type": "LoadBalancer"}}, suffix="vpn")
    database = {"name": f"tenant_{customer.id}"}
    customer.declare("postgresql:index/database:Database", database, suffix="database", protect=True)


@passing("tenancy-parts")
def volume_kept_from_before(scene: Scene) -> None:
    customer = Customer(scene, "starter", workspaceGib=20)
    customer.has_namespace()
    customer.has_volume()


@failing("tenancy-parts")
def starter_with_a_namespace(scene: Scene) -> None:
    Customer(scene, "starter").has_namespace()


@failing("tenancy-parts")
def starter_with_a_volume(scene: Scene) -> None:
    Customer(scene, "starter").has_volume()


@failing("tenancy-parts")
def professional_with_a_machine(scene: Scene) -> None:
    Customer(scene, "professional").has_machine()


@failing("tenancy-parts")
def machine_and_pods(scene: Scene) -> None:
    Customer(scene, "enterprise").has("apps/v1:Deployment", deployment(pod()), suffix="agent")


@failing("tenancy-parts")
def enterprise_with_nodes(scene: Scene) -> None:
    Customer(scene, "enterprise").has_nodes()


@failing("tenancy-parts")
def professional_with_an_entrance(scene: Scene) -> None:
    service = {"spec": {"type": "LoadBalancer"}}
    Customer(scene, "professional").has("core/v1:Service", service, suffix="entrance")


@failing("tenancy-parts")
def enterprise_with_a_database(scene: Scene) -> None:
    customer = Customer(scene, "enterprise")
    database = {"name": f"tenant_{customer.id}"}
    customer.declare("postgresql:index/database:Database", database, suffix="database")


@passing("tenancy-size")
def at_the_maximum(scene: Scene) -> None:
    customer = Customer(scene, "enterprise")
    _size(customer, 8, "32Gi")
    customer.has_machine(spec=_of_size("cpu8"))


@passing("tenancy-size")
def pods_at_the_maximum(scene: Scene) -> None:
    bounded = container(resources={"limits": {"cpu": "3500m", "memory": "7Gi"}})
    beside = container(name="beside", resources={"limits": {"cpu": "500m", "memory": "1Gi"}})
    Customer(scene, "professional").has(
        "apps/v1:Deployment", deployment(pod(bounded, beside)), suffix="agent"
    )


@failing("tenancy-size")
def too_large(scene: Scene) -> None:
    customer = Customer(scene, "enterprise")
    _size(customer, 16, "8Gi")


@failing("tenancy-size")
def too_much_memory_of_its_own(scene: Scene) -> None:
    domain = {"devices": {}, "memory": {"guest": "64Gi"}, "cpu": {"cores": 2}}
    Customer(scene, "enterprise").has_machine(domain=domain)


@failing("tenancy-size")
def cores_sockets_and_threads(scene: Scene) -> None:
    domain = {"devices": {}, "memory": {"guest": "8Gi"}, "cpu": {"cores": 2, "sockets": 4, "threads": 2}}
    Customer(scene, "enterprise").has_machine(domain=domain)


@failing("tenancy-size")
def of_a_size_from_elsewhere(scene: Scene) -> None:
    Customer(scene, "enterprise").has_machine(spec=_of_size("cx1.8xlarge"))


@failing("tenancy-size")
def pods_without_limits(scene: Scene) -> None:
    unbounded = container(resources={"requests": {"cpu": "1"}})
    Customer(scene, "professional").has("apps/v1:Deployment", deployment(pod(unbounded)), suffix="agent")


@failing("tenancy-size")
def too_many_replicas(scene: Scene) -> None:
    bounded = container(resources={"limits": {"cpu": "2", "memory": "4Gi"}})
    spec = {"spec": {**deployment(pod(bounded))["spec"], "replicas": 3}}
    Customer(scene, "professional").has("apps/v1:Deployment", spec, suffix="agent")


@passing("tenancy-volume-class")
def of_a_known_class(scene: Scene) -> None:
    Customer(scene, "enterprise", workspaceGib=20).has_volume()


@failing("tenancy-volume-class")
def of_the_default_class(scene: Scene) -> None:
    Customer(scene, "enterprise", workspaceGib=20).has_volume(None)


@failing("tenancy-volume-class")
def disk_of_another_class(scene: Scene) -> None:
    disk = {"metadata": {"name": "disk"}, "spec": {"storage": {"storageClassName": "local-path"}}}
    Customer(scene, "enterprise").has_machine(spec={"dataVolumeTemplates": [disk]})


def _tolerating(value: str, operator: str = "Equal") -> list[dict[str, str]]:
    return [{"key": "tenant-id", "operator": operator, "value": value, "effect": "NoSchedule"}]


@passing("tenancy-own-nodes")
def on_its_own_nodes(scene: Scene) -> None:
    customer = Customer(scene, "private-cloud")
    customer.has_nodes()
    customer.has_machine(nodeSelector={"tenant-id": customer.id}, tolerations=_tolerating(customer.id))


@passing("tenancy-own-nodes")
def on_shared_nodes(scene: Scene) -> None:
    Customer(scene, "enterprise").has_machine()


@failing("tenancy-own-nodes")
def anywhere(scene: Scene) -> None:
    Customer(scene, "private-cloud").has_machine()


@failing("tenancy-own-nodes")
def on_anybodys_nodes(scene: Scene) -> None:
    Customer(scene, "enterprise").has_machine(tolerations=_tolerating("", "Exists"))


@failing("tenancy-own-nodes")
def tolerates_everything(scene: Scene) -> None:
    scene.kubernetes("apps/v1:Deployment", deployment(pod(tolerations=[{"operator": "Exists"}])))


@failing("tenancy-own-nodes")
def nodes_without_a_taint(scene: Scene) -> None:
    Customer(scene, "private-cloud").has_nodes(taints={})


@failing("tenancy-own-nodes")
def nodes_on_one_hypervisor(scene: Scene) -> None:
    Customer(scene, "private-cloud").has_nodes(antiAffinityGroupIds=[])


@failing("tenancy-own-nodes")
def nodes_of_nobody(scene: Scene) -> None:
    pool = {
        "clusterId": "sks",
        "instanceType": "standard.large",
        "size": 2,
        "zone": "ch-gva-2",
        "name": "odd",
    }
    scene.declare(NODE_POOL, {**pool, "labels": {"tenant-id": "somebody"}})
