"""Tenancy: each tenant has what its tier says, in places of its own, and names nobody else's."""

import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from infra.tenants.tiers import TIERS, Tier
from policy.inputs import UnknownInputError, path_text, texts
from policy.quantities import amount, gib
from policy.rules import Selection, Severity, listed, resources, rule, stack_rule
from policy.subjects import TENANT, Resource, Stack
from policy.tenants import (
    NAMESPACE,
    REGISTRATION,
    registration,
    registrations,
    tenants_objects,
    tenants_resources,
    tier_name,
    tier_of,
)

_GUIDE = "guide, Infrastructure Isolation Tiers"
_BOUNDARIES = "guide, Security Boundaries"
_NAMESPACES = "https://kubernetes.io/docs/concepts/security/multi-tenancy/"

_CONFIG_MAP = "kubernetes:core/v1:ConfigMap"
_QUOTA = "kubernetes:core/v1:ResourceQuota"
_LIMITS = "kubernetes:core/v1:LimitRange"
_MACHINE = "kubernetes:kubevirt.io/v1:VirtualMachine"
_SIZE = "kubernetes:instancetype.kubevirt.io/v1beta1:VirtualMachineInstancetype"
_DEPLOYMENT = "kubernetes:apps/v1:Deployment"
_CLAIM = "kubernetes:core/v1:PersistentVolumeClaim"
_SERVICE = "kubernetes:core/v1:Service"
_RELEASE = "kubernetes:helm.sh/v3:Release"
_DATABASE = "postgresql:index/database:Database"
_NODE_POOL = "exoscale:index/sksNodepool:SksNodepool"


def _namespace(resource: Resource) -> str:
    """A chart is installed into one, too."""
    inside = resource.inputs.get("namespace") if resource.type == _RELEASE else None
    return str(inside or resource.namespace)


@stack_rule(
    id="tenancy-registered",
    severity=Severity.MEDIUM,
    on=resources(TENANT, REGISTRATION),
    reason="no rule could say what this tenant may have, and its removal would be proven by nobody",
    remedy="declare one Registration first in each Tenant, with the tenant's own id and its tier",
    source=_GUIDE,
)
def registered(resource: Resource, stack: Stack) -> Iterator[str]:
    """Every tenant has one registration, under its own id, in a tier that exists."""
    if resource.type == TENANT:
        count = len(list(registrations(stack)[resource.name]))
        if count != 1:
            yield f"it has {count} registrations"
        return
    if resource.inputs.get("tenant") != resource.tenant:
        yield f"it registers {resource.inputs.get('tenant')} below {resource.tenant or 'no tenant'}"
    if resource.inputs.get("tier") not in TIERS:
        yield f"tier {resource.inputs.get('tier')} is none of {', '.join(TIERS)}"


@stack_rule(
    id="tenancy-own-namespace",
    severity=Severity.CRITICAL,
    on=Selection(lambda type_: type_.startswith("kubernetes:"), lambda resource: (resource,)),
    reason="quota, network policies and the deletion of a tenant end at its namespace",
    remedy="put a tenant's objects into `tenant-ID`, and nothing else there",
    source=_NAMESPACES,
)
def own_namespace(resource: Resource, stack: Stack) -> Iterator[str]:
    """A tenant's objects are in its own namespace, never in the platform's or system's, and alone there."""
    inside = _place(resource, stack)
    if _is_route(resource, inside):
        return
    if resource.tenant and inside != f"tenant-{resource.tenant}":
        yield f"it is in namespace {inside}, not in tenant-{resource.tenant}"
    elif not resource.tenant and inside.startswith("tenant-"):
        yield f"it is in namespace {inside} and belongs to no tenant"


def _is_route(resource: Resource, inside: str) -> bool:
    """Whether it is what the gateway is told of the tenant, which is in the gateway's own namespace."""
    named = resource.type == _CONFIG_MAP and resource.object_name == f"route-{resource.tenant}"
    return resource.tenant is not None and named and inside == "gateway"


def _place(resource: Resource, stack: Stack) -> str:
    """The namespace that an object is, or is in: by its name, or by the one that it waits for."""
    try:
        return resource.object_name if resource.type == NAMESPACE else _namespace(resource)
    except UnknownInputError:
        for urn in stack.dependencies.get(resource.urn, ()):
            if urn in stack.by_urn and stack.by_urn[urn].type == NAMESPACE:
                return stack.by_urn[urn].object_name
        raise


@stack_rule(
    id="tenancy-labels",
    severity=Severity.MEDIUM,
    on=tenants_objects,
    reason="network policies, quotas, bills and the removal's own search go by these labels",
    remedy="label it `tenant-id: ID` and `tier: TIER`, as infra/tenants/workspace.py does",
    source="guide, Layer 2: Compute Isolation",
)
def labels(resource: Resource, stack: Stack) -> Iterator[str]:
    """Every object of a tenant, and every pod it makes, is labelled with the tenant's own id and tier."""
    expected = {"tenant-id": resource.tenant, "tier": tier_name(resource, stack)}
    labelled = {"it": resource.metadata.get("labels") or {}}
    if resource.type in (_MACHINE, _DEPLOYMENT):
        template = resource.inputs["spec"]["template"]
        labelled["its pod"] = (template.get("metadata") or {}).get("labels") or {}
    for what, carried in labelled.items():
        wrong = [f"{key}: {carried.get(key)}" for key, value in expected.items() if carried.get(key) != value]
        if wrong:
            yield f"{what} is labelled {', '.join(wrong)}"


_NAMED = re.compile(
    r"(?<![a-z0-9])(tenant[-_]|tenants/(?:data/|metadata/)?|workspace-)([a-z][a-z0-9]{2,30})(?![a-z0-9])"
)
"""Where names are made of a tenant's id: schemas, namespaces, prefixes, paths in Vault; volumes."""


@stack_rule(
    id="tenancy-own-names",
    severity=Severity.CRITICAL,
    on=Selection(lambda _type: True, lambda resource: (resource,) if resource.tenant else ()),
    reason="it could read, change or depend on what is another customer's",
    remedy="refer to the tenant's own namespace, secret, account, volume, schema, prefix or path",
    source=_BOUNDARIES,
)
def own_names(resource: Resource, stack: Stack) -> Iterator[str]:
    """Nothing of a tenant names, or is made from, anything of another tenant."""
    for path, text in texts(resource.inputs):
        for prefix, named in _NAMED.findall(text):
            # `workspace-encrypted` and the like are the platform's.
            if named != resource.tenant and (prefix != "workspace-" or any(stack.by(_name, TENANT)[named])):
                yield f"{path_text(path)} names {prefix}{named}, which is tenant {named}'s"
    # What is unknown is made from what it depends on.
    for urn in stack.dependencies.get(resource.urn, ()):
        other = stack.by_urn.get(urn)
        if other and other.tenant not in (None, resource.tenant):
            yield f"it depends on {other.name}, which is tenant {other.tenant}'s"


def _name(resource: Resource) -> str:
    return resource.name


_SHARED = listed("shared", default=("runtime",), of="namespaces in which agents of several tenants run")


@stack_rule(
    id="tenancy-quota",
    severity=Severity.HIGH,
    on=resources(NAMESPACE),
    reason="one tenant could take the nodes, the volumes or the public addresses of all",
    remedy="declare a ResourceQuota in it that names each of these; `0` is an amount, too",
    source="https://kubernetes.io/docs/concepts/policy/resource-quotas/",
    settings=_SHARED,
)
def quota(namespace: Resource, stack: Stack, values: Mapping[str, Any]) -> Iterator[str]:
    """Every namespace in which agents run has a quota for all that can be used up."""
    if namespace.tenant is None and namespace.object_name not in values["shared"]:
        return
    found = list(stack.by(_namespace, _QUOTA)[namespace.object_name])
    hard = {key: value for each in found for key, value in (each.inputs["spec"].get("hard") or {}).items()}
    used_up = _USED_UP if hard.get("pods") == "0" else (*_USED_UP, *_BY_PODS)
    missing = [name for name in used_up if name not in hard]
    if missing:
        yield f"its quota does not name {', '.join(missing)}" if found else "it has no quota"


_USED_UP = (
    *("pods", "requests.storage", "persistentvolumeclaims"),
    *("services.loadbalancers", "services.nodeports"),
)
_BY_PODS = ("requests.cpu", "requests.memory", "limits.cpu", "limits.memory")


@stack_rule(
    id="tenancy-limits",
    severity=Severity.MEDIUM,
    on=resources(NAMESPACE),
    reason="a container that names no limit would be refused by the quota, or take all of it",
    remedy="declare a LimitRange in it with a default and a maximum for containers",
    source="https://kubernetes.io/docs/concepts/policy/limit-range/",
    settings=_SHARED,
)
def limits(namespace: Resource, stack: Stack, values: Mapping[str, Any]) -> Iterator[str]:
    """Every namespace in which agents run limits each container, also one that asks for nothing."""
    if namespace.tenant is None and namespace.object_name not in values["shared"]:
        return
    ranges = stack.by(_namespace, _LIMITS)[namespace.object_name]
    items = [item for each in ranges for item in (each.inputs.get("spec") or {}).get("limits") or ()]
    containers = [item for item in items if item.get("type") == "Container"]
    for key in ("default", "max"):
        if not any({"cpu", "memory"} <= set(item.get(key) or {}) for item in containers):
            yield f"it has no {key} of CPU and memory for containers"


@stack_rule(
    id="tenancy-parts",
    severity=Severity.MEDIUM,
    on=tenants_resources(NAMESPACE, _MACHINE, _DEPLOYMENT, _CLAIM, _SERVICE, _DATABASE, _NODE_POOL),
    reason="the customer does not pay for it, and nobody expects it when the tier is reasoned about",
    remedy="move the tenant to a tier that has it, or take it out",
    source=_GUIDE,
)
def parts(resource: Resource, stack: Stack) -> Iterator[str]:
    """A tenant has a machine, pods, a volume, an entrance, a database, nodes only where its tier has them."""
    tier = tier_of(resource, stack)
    if tier is None:
        return
    part, has = _PARTS[resource.type]
    if resource.type == _SERVICE and resource.inputs["spec"].get("type") != "LoadBalancer":
        return
    # A volume of an earlier tier may be kept, and with it the namespace that it is in.
    parked = resource.type in (NAMESPACE, _CLAIM) and registration(resource, stack).get("workspaceGib")
    if not has(tier) and not parked:
        yield f"tier {tier_name(resource, stack)} has no {part}"


_PARTS: Mapping[str, tuple[str, Callable[[Tier], bool]]] = {
    NAMESPACE: ("namespace", lambda tier: tier.namespace),
    _MACHINE: ("machine", lambda tier: tier.machine),
    _DEPLOYMENT: ("pods of its own", lambda tier: tier.dedicated_agent),
    _CLAIM: ("volume", lambda tier: tier.machine),
    _SERVICE: ("entrance from outside", lambda tier: tier.vpn),
    _DATABASE: ("database of its own", lambda tier: tier.own_database),
    _NODE_POOL: ("nodes of its own", lambda tier: tier.node_pool),
}


@stack_rule(
    id="tenancy-size",
    severity=Severity.HIGH,
    on=tenants_resources(_SIZE, _MACHINE, _DEPLOYMENT),
    reason="it takes from other tenants what it was not sold",
    remedy="stay within the tier's maximum (infra/tenants/tiers.py), or move the tenant to a larger tier",
    source=_GUIDE,
)
def size(resource: Resource, stack: Stack) -> Iterator[str]:
    """A machine, or the pods instead of one, are no larger than the tier's maximum."""
    tier = tier_of(resource, stack)
    if tier is None:
        return
    if resource.type == _MACHINE and (instance_type := resource.inputs["spec"].get("instancetype")):
        sizes = stack.by(_namespace, _SIZE)[resource.namespace]
        if not any(each.object_name == instance_type.get("name") for each in sizes):
            yield f"its size {instance_type.get('name')} is none that is declared in its namespace"
        return
    cpu, memory_gib = _SIZES[resource.type](resource.inputs["spec"])
    if cpu > tier.maximum.cpu:
        yield f"it has {cpu} CPUs, and tier {tier_name(resource, stack)} has {tier.maximum.cpu} at most"
    if memory_gib > tier.maximum.memory_gib:
        most = tier.maximum.memory_gib
        yield f"it has {memory_gib} GiB of memory, and tier {tier_name(resource, stack)} has {most} at most"


def _of_size(spec: Mapping[str, Any]) -> tuple[Decimal, Decimal]:
    return amount(spec["cpu"]["guest"]), gib(spec["memory"]["guest"])


def _of_machine(spec: Mapping[str, Any]) -> tuple[Decimal, Decimal]:
    """One that says its size itself; left out, KubeVirt gives it one core."""
    domain = spec["template"]["spec"]["domain"]
    cpu, memory = domain.get("cpu") or {}, domain.get("memory") or {}
    resources = domain.get("resources") or {}
    count = amount(cpu.get("cores", 1)) * amount(cpu.get("sockets", 1)) * amount(cpu.get("threads", 1))
    return count, gib(memory.get("guest") or (resources.get("requests") or {}).get("memory", "0"))


def _of_pods(spec: Mapping[str, Any]) -> tuple[Decimal, Decimal]:
    pod = spec["template"]["spec"]
    limits = [(each.get("resources") or {}).get("limits") or {} for each in pod["containers"]]
    replicas = max(amount(spec.get("replicas", 1)), Decimal(1))
    cpu = sum((amount(limit["cpu"]) if "cpu" in limit else _WITHOUT_END for limit in limits), Decimal(0))
    memory = sum(
        (gib(limit["memory"]) if "memory" in limit else _WITHOUT_END for limit in limits), Decimal(0)
    )
    return replicas * cpu, replicas * memory


_WITHOUT_END = Decimal("Infinity")


_SIZES: Mapping[str, Callable[[Mapping[str, Any]], tuple[Decimal, Decimal]]] = {
    _SIZE: _of_size,
    _MACHINE: _of_machine,
    _DEPLOYMENT: _of_pods,
}


@rule(
    id="tenancy-volume-class",
    severity=Severity.HIGH,
    on=tenants_resources(_CLAIM, _MACHINE),
    reason="volumes of another class may have no backup, no encryption and no replica on a second node",
    remedy="use a class that infra/platform/longhorn.py declares, or add yours to this rule's `classes`",
    source="https://longhorn.io/docs/1.12.0/references/storage-class-parameters/",
    settings=listed(
        "classes",
        default=("workspace", "workspace-encrypted"),
        of="storage classes that a tenant's volume may be of",
    ),
)
def volume_class(resource: Resource, values: Mapping[str, Any]) -> Iterator[str]:
    """Every volume of a tenant is of a storage class that is meant for tenants."""
    for name in _classes(resource):
        if name not in values["classes"]:
            yield (
                f"its volume is of class {name}" if name else "its volume is of whatever class is the default"
            )


def _classes(resource: Resource) -> Iterator[Any]:
    spec = resource.inputs["spec"]
    if resource.type == _CLAIM:
        yield spec.get("storageClassName")
    else:
        for template in spec.get("dataVolumeTemplates") or ():
            yield (template["spec"].get("storage") or template["spec"]["pvc"]).get("storageClassName")


@stack_rule(
    id="tenancy-own-nodes",
    severity=Severity.HIGH,
    on=resources(_MACHINE, _DEPLOYMENT, _NODE_POOL),
    reason="nodes that were sold as one customer's own would be shared, or its machine would run elsewhere",
    remedy="label and taint the pool `tenant-id: ID`, select and tolerate exactly that, and nowhere else",
    source="https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/",
)
def own_nodes(resource: Resource, stack: Stack) -> Iterator[str]:
    """A tenant with nodes of its own has its machine there and nowhere else, and nobody else's is let in."""
    tier = tier_of(resource, stack)
    if resource.type == _NODE_POOL:
        yield from _pool_apart(resource)
        return
    pod = resource.inputs["spec"]["template"]["spec"]
    owns = resource.type == _MACHINE and tier is not None and tier.node_pool
    if owns and (pod.get("nodeSelector") or {}).get(_NODES_OF) != resource.tenant:
        yield "it does not select the tenant's own nodes"
    for toleration in pod.get("tolerations") or ():
        exact = toleration.get("operator", "Equal") == "Equal" and toleration.get("value") == resource.tenant
        any_of = toleration.get("key") in (None, "", _NODES_OF)
        if any_of and not (owns and exact):
            yield "it tolerates the taint of nodes that are another tenant's own"
    if owns and not any(each.get("key") == _NODES_OF for each in pod.get("tolerations") or ()):
        yield "it does not tolerate the taint of the tenant's own nodes"


_NODES_OF = "tenant-id"


def _pool_apart(pool: Resource) -> Iterator[str]:
    labels, taints = pool.inputs.get("labels") or {}, pool.inputs.get("taints") or {}
    if pool.tenant is None:
        if _NODES_OF in labels or _NODES_OF in taints:
            yield "it is marked as a tenant's and belongs to none"
        return
    if labels.get(_NODES_OF) != pool.tenant:
        yield f"it is not labelled {_NODES_OF}: {pool.tenant}"
    if taints.get(_NODES_OF) != f"{pool.tenant}:NoSchedule":
        yield f"it is not tainted {_NODES_OF}: {pool.tenant}:NoSchedule"
    if not len(pool.inputs.get("antiAffinityGroupIds") or ()):
        yield "its nodes may all be on one hypervisor"
