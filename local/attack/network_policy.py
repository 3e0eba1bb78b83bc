"""What NetworkPolicies let through, decided by their specification alone.

<https://kubernetes.io/docs/concepts/services-networking/network-policies/> and the API's reference
(`networking.k8s.io/v1`). A policy is taken as the API server gives it. Traffic passes if both ends let it:
its source's policies outwards, its destination's inwards; whoever has no policy in a direction lets all
through, whoever has several lets through what any of them does.

An `ipBlock` is held to match pods by their addresses, too. Network plugins differ in that; this is the wider
reading. Left out because no policy can stop it: traffic between a pod and the node it runs on.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, reduce
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from operator import or_
from typing import Any, Literal

Address = IPv4Address | IPv6Address
Direction = Literal["Ingress", "Egress"]
Policy = Mapping[str, Any]
Ports = int
"""A set of ports: bit `number` of the first 65,536 for TCP, of the next for UDP, then SCTP."""

PROTOCOLS = ("TCP", "UDP", "SCTP")
_NUMBERS = 1 << 16


def ports(protocol: str, first: int, last: int | None = None) -> Ports:
    """The ports of a protocol from `first` to `last`, both included."""
    count = (first if last is None else last) - first + 1
    return max((1 << count) - 1, 0) << (PROTOCOLS.index(protocol) * _NUMBERS + first)


EVERY: Ports = reduce(or_, (ports(protocol, 1, _NUMBERS - 1) for protocol in PROTOCOLS))
NONE: Ports = 0


def told(found: Ports) -> str:
    """A set of ports in words: `TCP 443, UDP 1000-2000`."""
    return ", ".join(_ranges(found)) or "no port"


def _ranges(found: Ports) -> Iterator[str]:
    for index, protocol in enumerate(PROTOCOLS):
        left = (found >> index * _NUMBERS) & ((1 << _NUMBERS) - 1)
        while left:
            first = (left & -left).bit_length() - 1
            length = (~(left >> first) & ((left >> first) + 1)).bit_length() - 1
            yield f"{protocol} {first}" if length == 1 else f"{protocol} {first}-{first + length - 1}"
            left &= left + (1 << first)


@dataclass(frozen=True, eq=False)
class Pod:
    """A pod as policies see it."""

    name: str
    namespace: str
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    addresses: Sequence[Address] = ()
    named_ports: Sequence[tuple[str, str, int]] = ()
    """Name, protocol and number of each port that its containers name."""


End = Pod | Address
"""One end of a connection."""


def passing(policies: Iterable[Policy], source: End, destination: End) -> Ports:
    """The destination's ports that `source` reaches."""
    policies = list(policies)
    return _let(policies, "Egress", source, destination, destination) & _let(
        policies, "Ingress", destination, source, destination
    )


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches; an empty one matches everything."""
    return all(
        labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items()
    ) and all(_holds(requirement, labels) for requirement in selector.get("matchExpressions") or ())


def _holds(requirement: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = requirement["key"], requirement.get("values") or ()
    match requirement["operator"]:
        case "In":
            return key in labels and labels[key] in values
        case "NotIn":
            return key not in labels or labels[key] not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case operator:
            raise ValueError(f"{operator} is no operator of a label selector")


def _let(policies: list[Policy], direction: Direction, end: End, other: End, destination: End) -> Ports:
    """The destination's ports that `end` lets through in this direction, from or to `other`."""
    if not isinstance(end, Pod):
        return EVERY
    isolating = [policy for policy in policies if _isolates(policy, direction, end)]
    if not isolating:
        return EVERY
    rules, peers = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    return reduce(
        or_,
        (
            _ports_of(rule, destination)
            for policy in isolating
            for rule in policy["spec"].get(rules) or ()
            # No peers at all is everybody.
            if not rule.get(peers) or any(_is_peer(peer, policy, other) for peer in rule[peers])
        ),
        NONE,
    )


def _isolates(policy: Policy, direction: Direction, pod: Pod) -> bool:
    """Whether the policy decides for this pod in this direction."""
    spec = policy["spec"]
    # Unsaid, it is a policy for ingress, and for egress if it has a word on that.
    types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") is not None else [])]
    return (
        direction in types
        and policy["metadata"]["namespace"] == pod.namespace
        and selects(spec.get("podSelector") or {}, pod.labels)
    )


def _is_peer(peer: Mapping[str, Any], policy: Policy, end: End) -> bool:
    if block := peer.get("ipBlock"):
        addresses = end.addresses if isinstance(end, Pod) else (end,)
        return any(_in_block(block, address) for address in addresses)
    if not isinstance(end, Pod):
        return False
    spaces, pods = peer.get("namespaceSelector"), peer.get("podSelector")
    # Without a selector of namespaces, it is about those pods in the policy's own.
    inside = (
        end.namespace == policy["metadata"]["namespace"]
        if spaces is None
        else selects(spaces, end.namespace_labels)
    )
    return inside and selects(pods or {}, end.labels)


def _in_block(block: Mapping[str, Any], address: Address) -> bool:
    return address in _network(block["cidr"]) and not any(
        address in _network(excepted) for excepted in block.get("except") or ()
    )


@cache
def _network(cidr: str) -> IPv4Network | IPv6Network:
    return ip_network(cidr)


def _ports_of(rule: Mapping[str, Any], destination: End) -> Ports:
    """The destination's ports that a rule opens; one that names none opens all."""
    listed = rule.get("ports") or ()
    return reduce(or_, (_port(each, destination) for each in listed), NONE) if listed else EVERY


def _port(entry: Mapping[str, Any], destination: End) -> Ports:
    protocol, port = entry.get("protocol") or "TCP", entry.get("port")
    if port is None:
        return ports(protocol, 1, _NUMBERS - 1)
    if isinstance(port, int):
        return ports(protocol, port, entry.get("endPort") or port)
    named = destination.named_ports if isinstance(destination, Pod) else ()
    return reduce(
        or_,
        (ports(protocol, number) for name, kind, number in named if (name, kind) == (port, protocol)),
        NONE,
    )
