"""What a tenant bought, as quota and limits of its namespace: sold units, and what KubeVirt adds to run them.

A pod gets what was sold and nothing else is let in. A machine runs in a pod that needs more than its guest
(`launcher`), and while it moves to another node there are two of these, so the quota has room for both;
that it cannot be used for a second machine, the count of machines sees to (docs/decisions/0032).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s

from infra.platform.agent_pods import SCRATCH_GIB
from infra.platform.limits import SMALLEST, at_most, declare_limits
from infra.tenants.roster import TenantEntry
from infra.tenants.tiers import Size

MEMORY_LIMIT_RATIO = "1.1"
"""A launcher's memory limit over its request: KubeVirt calls its own overhead an estimate."""

_MACHINES = "count/virtualmachines.kubevirt.io"

# KubeVirt 1.8, pkg/hypervisor/kvm/hypervisorbackend.go (GetMemoryOverhead), in MiB.
_PROCESSES = 25 + 100 + 25 + 40 + 30
"""virt-launcher-monitor, virt-launcher, virtlogd, virtqemud, QEMU."""
_PER_THREAD = 8
"""For each virtual CPU, and for the I/O thread."""
_VIDEO = 32
_PAGE_TABLES = 512
"""One MiB of them for as many of the guest's."""

# The containers besides the guest's, for its serial console, its system disk and its kernel
# (serialconsolelog.go, container-disk.go), rounded up: thousandths of a CPU, MiB.
_HELPERS_CPU = 35
_HELPERS_MEMORY_REQUEST = 40
_HELPERS_MEMORY_LIMIT = 140


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """What the pod of a machine takes: CPU in thousandths, memory in MiB."""

    cpu: int
    guest_memory_limit: int
    """Of the container that runs the guest."""
    memory_request: int
    memory_limit: int


def launcher(size: Size) -> Launcher:
    """The largest pod that KubeVirt makes of a machine of that size.

    It requests CPU for a fraction of the guest's CPUs only, as much as it is configured to overcommit.
    """
    guest = size.memory_gib * 1024
    overhead = _PROCESSES + _PER_THREAD * (size.cpu + 1) + _VIDEO + math.ceil(guest / _PAGE_TABLES)
    limit = math.ceil((guest + overhead) * float(MEMORY_LIMIT_RATIO))
    return Launcher(
        cpu=size.cpu * 1000 + _HELPERS_CPU,
        guest_memory_limit=limit,
        memory_request=guest + overhead + _HELPERS_MEMORY_REQUEST,
        memory_limit=limit + _HELPERS_MEMORY_LIMIT,
    )


def declare_quota(
    tenant: TenantEntry, marked: Mapping[str, str], opts: pulumi.ResourceOptions
) -> list[pulumi.Resource]:
    """Declare quota and limits.

    Returns:
        What a pod or volume of the tenant has to wait for.
    """
    hard: dict[str, str] = {}
    limits: list[k8s.core.v1.LimitRangeItemArgsDict] = []
    if tenant.parts.machine:
        pod = launcher(tenant.size)
        hard |= _of_pods(2, cpu=pod.cpu, memory_request=pod.memory_request, memory_limit=pod.memory_limit)
        hard[_MACHINES] = "1"
        limits.append(at_most(str(tenant.size.cpu), f"{pod.guest_memory_limit}Mi"))
    if tenant.parts.dedicated_agent:
        memory = tenant.size.memory_gib * 1024
        hard |= _of_pods(1, cpu=tenant.size.cpu * 1000, memory_request=memory, memory_limit=memory)
        scratch = f"{SCRATCH_GIB}Gi"
        hard |= {"requests.ephemeral-storage": scratch, "limits.ephemeral-storage": scratch}
        hard["count/deployments.apps"] = "1"
        limits.append(at_most(str(tenant.size.cpu), f"{memory}Mi"))
    if not tenant.parts.namespace:
        # A volume is parked here, and the quota has no pod.
        limits.append(at_most(**SMALLEST))
    if tenant.has_workspace:
        storage = f"{tenant.size.workspace_gib}Gi"
        hard |= {"persistentvolumeclaims": "1", "requests.storage": storage}
        limits.append({"type": "PersistentVolumeClaim", "max": {"storage": storage}})
    if tenant.vpn:
        # A load balancer leads to a port of the nodes, which counts, too.
        hard |= {"services.loadbalancers": "1", "services.nodeports": "1"}
    return declare_limits(
        tenant.id,
        tenant.dashed,
        hard=hard,
        limits=limits,
        labels=marked,
        opts=opts,
        counted=_MACHINES if tenant.parts.machine else None,
    )


def _of_pods(count: int, *, cpu: int, memory_request: int, memory_limit: int) -> dict[str, str]:
    return {
        "pods": str(count),
        "requests.cpu": f"{count * cpu}m",
        "limits.cpu": f"{count * cpu}m",
        "requests.memory": f"{count * memory_request}Mi",
        "limits.memory": f"{count * memory_limit}Mi",
    }
