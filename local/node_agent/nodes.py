"""The nodes: one per instance of the SKS node pools.

A node says of itself what a node with KubeVirt says: Ready, the instance type's CPU and memory, the labels
and taints of its pool, virt-handler's labels and its device plugins' devices. `devices.kubevirt.io/kvm` has
virt-handler's standard capacity whether or not this machine has a usable /dev/kvm: guests are only reported.
"""

import functools
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exoscale.api.exceptions import ExoscaleAPIException  # type: ignore[import-untyped]
from exoscale.api.v2 import Client  # type: ignore[import-untyped]

from local.node_agent.addresses import NODES, loopback
from local.node_agent.kube import Object
from local.node_agent.quantities import amounts

POOL_LABEL = "node.exoscale.net/nodepool-id"
"""What tells our nodes from others; set by SKS."""

LEASE_SECONDS = 40
"""How long a node counts as alive after a renewal; the kubelet's standard."""

_DEVICES = {f"devices.kubevirt.io/{name}": "1k" for name in ("kvm", "tun", "vhost-net")}
_MACHINE_TYPES = ("q35", "pc-q35-rhel9.6.0")
_CPU_MODELS = ("Haswell-noTSX", "Skylake-Client-noTSX-IBRS", "EPYC")
_SYSTEM_CORES = 0.2
_SYSTEM_MEMORY = 512 * 1024**2


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A node pool, as far as its nodes show it."""

    id: str
    instance_pool: str
    """The id by which load balancers know the same nodes."""
    version: str
    zone: str
    cores: int
    memory: int
    disk_gib: int
    max_pods: int
    instance_type: str
    labels: Mapping[str, str]
    taints: Sequence[Object]


class PoolsUnknownError(Exception):
    """The Exoscale API did not answer, so nothing is known about the pools."""


class Pools:
    """The SKS node pools of an organisation, in all zones."""

    def __init__(self, endpoint: str, key: str, secret: str) -> None:
        """Ask the Exoscale API at `endpoint`."""
        self._connect = functools.partial(Client, key, secret)
        self._endpoint = endpoint
        self._in_zone: dict[str, Any] = {}
        self._types: dict[str, Any] = {}

    def nodes(self) -> dict[str, Pool]:
        """Return the names of the nodes there should be, and the pool of each.

        Raises PoolsUnknownError where the API does not say.
        """
        try:
            return {name: pool for zone in self._zones() for name, pool in self._nodes(zone)}
        except (ExoscaleAPIException, OSError, KeyError, ValueError) as error:
            raise PoolsUnknownError(f"the node pools cannot be listed: {error}") from error

    def _zones(self) -> Iterable[str]:
        if not self._in_zone:
            zones = self._connect(url=self._endpoint).list_zones()["zones"]
            self._in_zone = {zone["name"]: self._connect(url=zone["api-endpoint"]) for zone in zones}
        return self._in_zone

    def _nodes(self, zone: str) -> Iterable[tuple[str, Pool]]:
        client = self._in_zone[zone]
        clusters = client.list_sks_clusters()["sks-clusters"]
        instances = client.list_instances()["instances"] if clusters else []
        for cluster in clusters:
            for raw in cluster.get("nodepools", ()):
                pool = self._pool(zone, cluster, raw)
                for instance in instances:
                    if instance.get("manager", {}).get("id") == raw["instance-pool"]["id"]:
                        yield instance["name"], pool

    def _pool(self, zone: str, cluster: Any, pool: Any) -> Pool:
        instance_type = self._type(zone, pool["instance-type"]["id"])
        return Pool(
            id=pool["id"],
            instance_pool=pool["instance-pool"]["id"],
            version=pool.get("version", cluster["version"]),
            zone=zone,
            cores=instance_type["cpus"],
            memory=instance_type["memory"],
            disk_gib=pool["disk-size"],
            max_pods=pool.get("kubelet-max-pods") or 110,
            instance_type=f"{instance_type['family']}.{instance_type['size']}",
            labels=pool.get("labels", {}),
            taints=[{"key": key, **taint} for key, taint in sorted(pool.get("taints", {}).items())],
        )

    def _type(self, zone: str, identity: str) -> Any:
        if identity not in self._types:
            self._types[identity] = self._in_zone[zone].get_instance_type(id=identity)
        return self._types[identity]


def node(name: str, pool: Pool) -> Object:
    """Return the Node as SKS and virt-handler would make it, without its status."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": _labels(name, pool)},
        "spec": {
            "providerID": f"exoscale://{_identity(name)}",
            "taints": list(pool.taints),
        },
    }


def status(name: str, pool: Pool, *, now: str) -> Object:
    """Return the status of a healthy node."""
    capacity = {
        "cpu": str(pool.cores),
        "memory": f"{pool.memory // 1024}Ki",
        "ephemeral-storage": f"{pool.disk_gib}Gi",
        "pods": str(pool.max_pods),
        **_DEVICES,
    }
    allocatable = {
        **capacity,
        "cpu": f"{round((pool.cores - _SYSTEM_CORES) * 1000)}m",
        "memory": f"{(pool.memory - _SYSTEM_MEMORY) // 1024}Ki",
    }
    pressures = [
        ("MemoryPressure", "KubeletHasSufficientMemory"),
        ("DiskPressure", "KubeletHasNoDiskPressure"),
        ("PIDPressure", "KubeletHasSufficientPID"),
    ]
    conditions = [("Ready", "True", "KubeletReady"), *((kind, "False", reason) for kind, reason in pressures)]
    return {
        "capacity": capacity,
        "allocatable": allocatable,
        "conditions": [
            {
                "type": kind,
                "status": value,
                "reason": reason,
                "message": "",
                "lastHeartbeatTime": now,
                "lastTransitionTime": now,
            }
            for kind, value, reason in conditions
        ],
        "addresses": [
            {"type": "InternalIP", "address": loopback(NODES, name)},
            {"type": "Hostname", "address": name},
        ],
        "nodeInfo": {
            "machineID": _identity(name),
            "systemUUID": _identity(name),
            "bootID": _identity(name),
            "kernelVersion": "",
            "osImage": "agent-platform node agent",
            "containerRuntimeVersion": "process://1",
            "kubeletVersion": f"v{pool.version}",
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": "amd64",
        },
    }


def is_current(known: Object, name: str, pool: Pool) -> bool:
    """Return whether the Node `known` says what `node` and `status` would."""
    labels = known["metadata"].get("labels", {})
    wanted = status(name, pool, now="")
    had = known.get("status", {})
    conditions = {condition["type"]: condition["status"] for condition in had.get("conditions", ())}
    return bool(
        all(labels.get(key) == value for key, value in _labels(name, pool).items())
        and _pool_taints(known) == node(name, pool)["spec"]["taints"]
        and all(amounts(had.get(part, {})) == amounts(wanted[part]) for part in ("capacity", "allocatable"))
        and all(conditions.get(wish["type"]) == wish["status"] for wish in wanted["conditions"])
        and had["nodeInfo"] == wanted["nodeInfo"]
    )


def update(known: Object, name: str, pool: Pool) -> Object:
    """Return the merge patch that brings the Node `known` in step with its pool."""
    ours = node(name, pool)
    others = [taint for taint in known["spec"].get("taints") or () if taint not in _pool_taints(known)]
    return {
        "metadata": {"labels": ours["metadata"]["labels"]},
        "spec": {"taints": [*ours["spec"]["taints"], *others]},
    }


def _pool_taints(known: Object) -> list[Object]:
    """Return the taints that do not come from Kubernetes itself, such as `node.kubernetes.io/not-ready`."""
    taints: list[Object] = known["spec"].get("taints") or []
    return [taint for taint in taints if not taint["key"].startswith("node.kubernetes.io/")]


def heartbeat(now: str) -> Object:
    """Return virt-handler's heartbeat: after five minutes without, KubeVirt takes the guests for lost."""
    return {"metadata": {"annotations": {"kubevirt.io/heartbeat": now}}}


def lease(name: str, now: str) -> Object:
    """Return the lease that says the node is alive."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now},
    }


def _labels(name: str, pool: Pool) -> dict[str, str]:
    return {
        **pool.labels,
        POOL_LABEL: pool.id,
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "node.kubernetes.io/instance-type": pool.instance_type,
        "topology.kubernetes.io/region": pool.zone,
        "topology.kubernetes.io/zone": pool.zone,
        "kubevirt.io/schedulable": "true",
        "kubevirt.io/cpumanager": "false",
        "cpu-vendor.node.kubevirt.io/Intel": "true",
        **{f"machine-type.node.kubevirt.io/{machine}": "true" for machine in _MACHINE_TYPES},
        **{f"cpu-model.node.kubevirt.io/{model}": "true" for model in _CPU_MODELS},
    }


def _identity(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, name))
