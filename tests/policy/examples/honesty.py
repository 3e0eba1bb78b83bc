"""Honesty: what a customer is told."""

from tests.policy.examples import failing, passing
from tests.policy.examples.customers import POLICY, Customer
from tests.policy.scene import Scene

_CONFIGURATION = "core/v1:ConfigMap"


def _closed(customer: Customer) -> None:
    customer.has_namespace()
    spec = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    customer.has(POLICY, {"spec": spec}, suffix="default-deny")


@passing("honesty-never-claimed")
@passing("honesty-claim-of-tier")
def modest(scene: Scene) -> None:
    customer = Customer(
        scene, "professional", claims=["swiss-hosted  infrastructure", "Isolated Environment"]
    )
    _closed(customer)


@failing("honesty-never-claimed")
@failing("honesty-claim-of-tier")
def a_server_of_its_own(scene: Scene) -> None:
    Customer(scene, "enterprise", claims=["Your own private server in Geneva"])


@failing("honesty-never-claimed")
def completely_isolated(scene: Scene) -> None:
    Customer(scene, "private-cloud", claims=["completely-isolated infrastructure"])


@failing("honesty-claim-of-tier")
def private_cloud_on_shared_nodes(scene: Scene) -> None:
    Customer(scene, "enterprise", claims=["Private cloud"])


@failing("honesty-claim-of-tier")
def in_its_own_words(scene: Scene) -> None:
    Customer(scene, "starter", claims=["Nobody else can ever see your data"])


@passing("honesty-claim-borne-out")
def all_there(scene: Scene) -> None:
    customer = Customer(scene, "private-cloud", claims=["Private cloud"])
    _closed(customer)
    customer.has_machine()
    customer.has_nodes()


@passing("honesty-claim-borne-out")
def nothing_promised(scene: Scene) -> None:
    Customer(scene, "starter")


@failing("honesty-claim-borne-out")
def no_machine_behind_it(scene: Scene) -> None:
    _closed(Customer(scene, "enterprise"))


@failing("honesty-claim-borne-out")
def open_namespace(scene: Scene) -> None:
    customer = Customer(scene, "professional")
    customer.has_namespace()
    let_in = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{}]}
    customer.has(POLICY, {"spec": let_in}, suffix="default-deny")


@failing("honesty-claim-borne-out")
def no_nodes_behind_it(scene: Scene) -> None:
    customer = Customer(scene, "private-cloud")
    _closed(customer)
    customer.has_machine()


@passing("honesty-words")
def plain_words(scene: Scene) -> None:
    customer = Customer(scene, "private-cloud")
    told = {"description": "The private cloud of this customer"}
    customer.has(_CONFIGURATION, {"data": {}}, metadata={"annotations": told}, suffix="configuration")
    group = {"name": scene.name, "description": "Shared by several tenants"}
    scene.declare("exoscale:index/antiAffinityGroup:AntiAffinityGroup", group, suffix="apart")


@failing("honesty-words")
def private_cloud_in_an_annotation(scene: Scene) -> None:
    customer = Customer(scene, "professional")
    told = {"sales.example/offer": "Private Cloud, Zurich"}
    customer.has(_CONFIGURATION, {"data": {}}, metadata={"annotations": told}, suffix="configuration")


@failing("honesty-words")
def single_tenant_in_a_name(scene: Scene) -> None:
    customer = Customer(scene, "enterprise")
    customer.declare("vault:index/policy:Policy", {"name": "single-tenant", "policy": ""}, suffix="policy")


@failing("honesty-words")
def dedicated_cloud_in_a_description(scene: Scene) -> None:
    group = {"name": scene.name, "description": "Nodes of the dedicated cloud"}
    scene.declare("exoscale:index/antiAffinityGroup:AntiAffinityGroup", group)
