"""Plans in a few words."""

from typing import Any

from review.changes import Change
from review.model import Operation, Plan, Step, TenantFacts
from review.report import Scope

ROOT = "urn:pulumi:local::agent-platform"
PLATFORM_URN = f"{ROOT}::agent-platform:platform:Platform::platform"
CLUSTER_URN = f"{ROOT}::agent-platform:cluster:Cluster::cluster"
CLAIM = "kubernetes:core/v1:PersistentVolumeClaim"
POLICY = "vault:index/policy:Policy"
POOL = "exoscale:index/sksNodepool:SksNodepool"


def tenant_urn(name: str) -> str:
    return f"{ROOT}::agent-platform:tenants:Tenant::{name}"


def step(
    type_: str,
    name: str,
    operation: Operation = "same",
    *,
    parent: str = PLATFORM_URN,
    inputs: dict[str, Any] | None = None,
    **more: Any,
) -> Step:
    return Step(
        urn=f"{ROOT}::{type_}::{name}",
        type=type_,
        name=name,
        operation=operation,
        parent=parent,
        inputs=inputs or {},
        **more,
    )


NODES = step(
    POOL,
    "workers",
    parent=CLUSTER_URN,
    inputs={"instanceType": "standard.extra-large", "size": 3, "diskSize": 400},
)


def tenant(id_: str, tier: str = "enterprise", **changes: Any) -> TenantFacts:
    """As the tier table has it; only these tests' tiers."""
    machine = tier in ("enterprise", "private-cloud")
    facts: dict[str, Any] = {
        "id": id_,
        "name": id_.title(),
        "tier": tier,
        "owner": f"it@{id_}.example",
        "state": "active",
        "cpu": 2,
        "memory_gib": 4,
        "workspace_gib": 20,
        "shared_runtime": tier == "starter",
        "namespace": tier != "starter",
        "machine": machine,
        "encrypted_workspace": machine,
        "node_pool": tier == "private-cloud",
        "own_database": False,
        "vpn": False,
        "claims": (),
        "overclaims": (),
        "discard": (),
    }
    return TenantFacts(**(facts | changes))


def plan(*steps: Step, tenants: tuple[TenantFacts, ...] = (), **more: Any) -> Plan:
    return Plan(steps=(NODES, *steps), tenants=tenants, **more)


def scope(**changes: Any) -> Scope:
    told: dict[str, Any] = {
        "base": "main",
        "base_commit": "a" * 40,
        "head_commit": "b" * 40,
        "stack": "local",
        "from_state": True,
        "paths": (),
    }
    return Scope(**(told | changes))


def names(changes: tuple[Change, ...]) -> list[str]:
    return [f"{change.operation} {change.name}" for change in changes]
