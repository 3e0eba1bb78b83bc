"""Kubernetes objects for the tests, as small as the code under test allows."""

from typing import Any

from local.node_agent.kube import Object
from local.node_agent.nodes import Pool, node, status

POOL = Pool(
    id="0f9d1c1e-0000-0000-0000-000000000000",
    instance_pool="1a2b3c4d-0000-0000-0000-000000000000",
    version="1.36.3",
    zone="ch-gva-2",
    cores=4,
    memory=16 * 2**30,
    disk_gib=200,
    max_pods=110,
    instance_type="standard.large",
    labels={"pool": "tenants"},
    taints=[],
)


def a_node(name: str = "n1", pool: Pool = POOL, **spec: Any) -> Object:
    made = node(name, pool)
    made["spec"] |= spec
    return {**made, "status": status(name, pool, now="2026-01-01T00:00:00Z")}


def a_pod(
    name: str = "p", *, node_name: str | None = None, labels: dict[str, str] | None = None, **spec: Any
) -> Object:
    return {
        "metadata": {"name": name, "namespace": "ns", "uid": f"uid-{name}", "labels": labels or {}},
        "spec": {
            "containers": [a_container()],
            **({"nodeName": node_name} if node_name else {}),
            **spec,
        },
        "status": {"phase": "Pending"},
    }


def a_container(**fields: Any) -> Object:
    requests = fields.pop("requests", {})
    return {"name": "main", "image": "registry.example/image", "resources": {"requests": requests}, **fields}


def a_machine(phase: str = "Scheduled", **fields: Any) -> Object:
    return {
        "metadata": {"name": "vm", "namespace": "ns", "uid": "uid-vm", "resourceVersion": "1"},
        "spec": {
            "domain": {
                "devices": {"interfaces": [{"name": "default", "masquerade": {}}]},
                "memory": {"guest": "2Gi"},
            },
            "networks": [{"name": "default", "pod": {}}],
            "volumes": [],
        },
        "status": {"phase": phase, "nodeName": "n1"},
        **fields,
    }
