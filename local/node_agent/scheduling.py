"""Where a Pod may run: what kube-scheduler decides, as a function of what there is."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from local.node_agent.kube import Object
from local.node_agent.quantities import Amounts, amounts, requests

HOSTNAME = "kubernetes.io/hostname"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The node a Pod gets; or None and why, in the scheduler's words."""

    node: str | None = None
    message: str = ""


def place(pod: Object, nodes: Sequence[Object], pods: Iterable[Object]) -> Placement:
    """Choose the node with the largest free share of CPU among those that can take `pod`.

    Looked at: cordons, taints, node selector and required node affinity, required affinity and
    anti-affinity between Pods, and requests of CPU, memory and devices. Preferences and spreading are not.
    """
    if not nodes:
        return Placement(message="no nodes available to schedule pods")
    running: dict[str, list[Object]] = {node["metadata"]["name"]: [] for node in nodes}
    for other in pods:
        if _occupies(other) and other["spec"].get("nodeName") in running:
            running[other["spec"]["nodeName"]].append(other)

    wanted = {**requests(pod), "pods": Decimal(1)}
    refusals: Counter[str] = Counter()
    best: tuple[Decimal, str] | None = None
    for node in nodes:
        name = node["metadata"]["name"]
        free = _free(node, running[name])
        reasons = _mismatch(pod, node, nodes, running) or _lacking(wanted, free)
        if reasons:
            refusals.update(reasons)
            continue
        cores = amounts(node["status"]["allocatable"])["cpu"]
        share = (free["cpu"] - wanted.get("cpu", Decimal(0))) / cores if cores else Decimal(0)
        if best is None or share > best[0]:
            best = share, name
    if best is not None:
        return Placement(node=best[1])
    listed = ", ".join(f"{count} {reason}" for reason, count in sorted(refusals.items()))
    return Placement(message=f"0/{len(nodes)} nodes are available: {listed}.")


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Return whether a label selector (`matchLabels`, `matchExpressions`) matches `labels`."""
    exact: dict[str, str] = selector.get("matchLabels") or {}
    return all(labels.get(key) == value for key, value in exact.items()) and all(
        _expression(expression, labels) for expression in selector.get("matchExpressions") or ()
    )


def tolerates(tolerations: Iterable[Object], taint: Object) -> bool:
    """Return whether one of `tolerations` covers `taint`."""
    for toleration in tolerations:
        if toleration.get("effect") not in (None, "", taint["effect"]):
            continue
        if toleration.get("operator") == "Exists":
            if toleration.get("key") in (None, "", taint["key"]):
                return True
        elif toleration.get("key") == taint["key"] and toleration.get("value", "") == taint.get("value", ""):
            return True
    return False


def _occupies(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")


def _free(node: Object, running: Iterable[Object]) -> dict[str, Decimal]:
    free = amounts(node["status"]["allocatable"])
    for pod in running:
        for name, used in {**requests(pod), "pods": Decimal(1)}.items():
            free[name] = free.get(name, Decimal(0)) - used
    return free


def _lacking(wanted: Amounts, free: Amounts) -> list[str]:
    short = sorted(name for name, needed in wanted.items() if needed > free.get(name, Decimal(0)))
    return ["Too many pods" if name == "pods" else f"Insufficient {name}" for name in short]


def _mismatch(
    pod: Object, node: Object, nodes: Sequence[Object], running: dict[str, list[Object]]
) -> list[str]:
    spec = pod["spec"]
    tolerations = spec.get("tolerations") or ()
    if node["spec"].get("unschedulable") and not tolerates(
        tolerations, {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    ):
        return ["node(s) were unschedulable"]
    for taint in node["spec"].get("taints") or ():
        if taint["effect"] != "PreferNoSchedule" and not tolerates(tolerations, taint):
            return [f"node(s) had untolerated taint(s) {{{taint['key']}: {taint.get('value', '')}}}"]
    if not _selected(spec, node):
        return ["node(s) didn't match Pod's node affinity/selector"]
    affinity = spec.get("affinity") or {}
    for term in _required(affinity.get("podAffinity")):
        if not _has_neighbour(pod, term, node, nodes, running) and not _matches(pod, term, pod):
            return ["node(s) didn't match pod affinity rules"]
    for term in _required(affinity.get("podAntiAffinity")):
        if _has_neighbour(pod, term, node, nodes, running):
            return ["node(s) didn't match pod anti-affinity rules"]
    return []


def _selected(spec: Object, node: Object) -> bool:
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    if required is None:
        return True
    fields = {"metadata.name": node["metadata"]["name"]}
    return any(
        all(_expression(expression, labels) for expression in term.get("matchExpressions") or ())
        and all(_expression(expression, fields) for expression in term.get("matchFields") or ())
        for term in required["nodeSelectorTerms"]
        if term.get("matchExpressions") or term.get("matchFields")
    )


def _expression(expression: Object, labels: dict[str, str]) -> bool:
    value = labels.get(expression["key"])
    values = expression.get("values") or []
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return value is not None and int(value) > int(values[0])
        case "Lt":
            return value is not None and int(value) < int(values[0])
    return False


def _required(affinity: Object | None) -> Sequence[Object]:
    terms: Sequence[Object] = (affinity or {}).get("requiredDuringSchedulingIgnoredDuringExecution") or ()
    return terms


def _has_neighbour(
    pod: Object, term: Object, node: Object, nodes: Sequence[Object], running: dict[str, list[Object]]
) -> bool:
    topology = term["topologyKey"]
    domain = (node["metadata"].get("labels") or {}).get(topology)
    if domain is None:
        return False
    return any(
        _matches(pod, term, other)
        for peer in nodes
        if (peer["metadata"].get("labels") or {}).get(topology) == domain
        for other in running[peer["metadata"]["name"]]
    )


def _matches(pod: Object, term: Object, other: Object) -> bool:
    namespaces = term.get("namespaces") or [pod["metadata"]["namespace"]]
    selector = term.get("labelSelector")
    return (
        selector is not None
        and other["metadata"]["namespace"] in namespaces
        and selects(selector, other["metadata"].get("labels") or {})
    )
