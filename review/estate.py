"""What is paid for, read from a plan: node pools, volumes, load balancers and their owners."""

from collections import Counter
from decimal import Decimal
from typing import Any

from review.changes import Owners
from review.cost import Assumptions, Consumer, Estate, Pool
from review.model import Plan, Step, TenantFacts

_POOL = "exoscale:index/sksNodepool:SksNodepool"
_CLUSTER = "exoscale:index/sksCluster:SksCluster"
_CLAIM = "kubernetes:core/v1:PersistentVolumeClaim"
_SERVICE = "kubernetes:core/v1:Service"
_DATABASE = "kubernetes:postgresql.cnpg.io/v1:Cluster"


def estate(plan: Plan, assumed: Assumptions) -> Estate:
    """What the plan's resources and roster add up to."""
    owners = Owners(plan.steps)
    declared: list[tuple[str | None, Step]] = []
    for step in plan.steps:
        if step.operation != "delete":
            owner, kind = owners.of(step)
            declared.append((owner if kind == "tenant" else None, step))
    pools = tuple(
        Pool(
            owner=owner,
            instance_type=str(step.inputs["instanceType"]),
            nodes=int(step.inputs["size"]),
            disk_gib=int(step.inputs.get("diskSize", 0)),
        )
        for owner, step in declared
        if step.type == _POOL
    )
    shared_nodes = sum(pool.nodes for pool in pools if pool.owner is None)
    balancers = Counter(
        owner
        for owner, step in declared
        if step.type == _SERVICE and step.inputs.get("spec", {}).get("type") == "LoadBalancer"
    )
    volumes: Counter[str | None] = Counter()
    for whose, step in declared:
        volumes[whose] += _volume_gib(step)
    replicas = min(assumed.volume_replicas, max(shared_nodes, 1))
    level = next((step.inputs.get("serviceLevel", "") for _, step in declared if step.type == _CLUSTER), "")
    return Estate(
        pools=pools,
        consumers=tuple(
            Consumer(
                id=tenant.id,
                cpu=tenant.cpu,
                memory_gib=tenant.memory_gib,
                awake=_awake(tenant, assumed),
                volume_gib=Decimal(volumes[tenant.id] * replicas),
                prefix_gib=assumed.prefix_gib,
                own_nodes=any(pool.owner == tenant.id for pool in pools),
                load_balancers=balancers[tenant.id],
            )
            for tenant in plan.tenants
        ),
        load_balancers=balancers[None],
        control_plane=str(level),
    )


def _awake(tenant: TenantFacts, assumed: Assumptions) -> Decimal:
    """A machine sleeps when it is idle, a Deployment never; the shared runtime is part of the platform."""
    if tenant.state != "active" or tenant.shared_runtime:
        return Decimal()
    return assumed.awake if tenant.machine else Decimal(1)


def _volume_gib(step: Step) -> int:
    spec = step.inputs.get("spec")
    if not isinstance(spec, dict):
        return 0
    if step.type == _CLAIM:
        return _gib(spec.get("resources", {}).get("requests", {}).get("storage"))
    if step.type == _DATABASE:
        return _gib(spec.get("storage", {}).get("size")) * int(spec.get("instances", 1))
    return 0


def _gib(quantity: Any) -> int:
    text = str(quantity)
    return int(text.removesuffix("Gi")) if text.endswith("Gi") else 0
