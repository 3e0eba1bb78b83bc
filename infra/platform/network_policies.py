"""NetworkPolicies: everything is closed, and each opening is a policy whose name says what it opens.

<https://kubernetes.io/docs/concepts/services-networking/network-policies/>. A policy knows pods and
addresses, no names. Towards a host that is given by name it therefore limits the port alone: its addresses
are the provider's to change, and what was looked up today would cut every agent off on the day they do.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

import pulumi
import pulumi_kubernetes as k8s

Peer = k8s.networking.v1.NetworkPolicyPeerArgsDict

AGENT_PORT = 8080
"""Where an agent listens, in a pod and in a machine, and answers `/livez` and `/readyz`."""

GATEWAY_PORT = 8444
"""Where the gateway listens to agents."""

NOT_PUBLIC = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
)
"""Nodes, pods and services of the cluster, providers' networks (CGNAT), and link-local, which holds the
metadata service (RFC 6890)."""

PUBLIC: Peer = {"ip_block": {"cidr": "0.0.0.0/0", "except_": NOT_PUBLIC}}
"""The internet, and nothing of the cluster's."""

_LINK_LOCAL = "169.254.0.0/16"


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where pods find a service."""

    peers: tuple[Peer, ...]
    port: int


@dataclass(frozen=True, kw_only=True)
class Opening:
    """One way in or out that is let through."""

    name: str
    direction: Literal["ingress", "egress"]
    peers: Sequence[Peer]
    """As in a NetworkPolicy: never empty, which would be everybody."""
    ports: Sequence[tuple[Literal["TCP", "UDP"], int]]


def pods(namespace: str, labels: Mapping[str, str]) -> Peer:
    """The pods with those labels, in that namespace alone."""
    return {
        "namespace_selector": {"match_labels": {"kubernetes.io/metadata.name": namespace}},
        "pod_selector": {"match_labels": labels},
    }


def pods_at(namespace: str, labels: Mapping[str, str], port: int) -> Destination:
    """A service that runs in the cluster."""
    return Destination(peers=(pods(namespace, labels),), port=port)


def host_at(host: str, port: int, *, never: Sequence[str] = (_LINK_LOCAL,)) -> Destination:
    """A service outside the cluster: that address, or, for a name, any address on its port but `never`."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.strip("[]"))
    except ValueError:
        return Destination(peers=({"ip_block": {"cidr": "0.0.0.0/0", "except_": list(never)}},), port=port)
    return Destination(peers=({"ip_block": {"cidr": str(ipaddress.ip_network(address))}},), port=port)


def url_at(url: str, *, never: Sequence[str] = (_LINK_LOCAL,)) -> Destination:
    """A service outside the cluster, by its address; validation has seen to it that it is one."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return host_at(parts.hostname or "", port, never=never)


def to(name: str, destination: Destination) -> Opening:
    """The way out to a service."""
    ports: list[tuple[Literal["TCP", "UDP"], int]] = [("TCP", destination.port)]
    return Opening(name=name, direction="egress", peers=destination.peers, ports=ports)


TO_DNS = Opening(
    name="to-dns",
    direction="egress",
    peers=(pods("kube-system", {"k8s-app": "kube-dns"}),),
    ports=(("UDP", 53), ("TCP", 53)),
)

TO_KUBERNETES = Opening(
    name="to-kubernetes",
    direction="egress",
    # Exoscale runs the API server outside the cluster, under addresses of its own choice.
    peers=({"ip_block": {"cidr": "0.0.0.0/0", "except_": (_LINK_LOCAL,)}},),
    ports=(("TCP", 443), ("TCP", 6443)),
)
"""The Kubernetes API, for the platform's own services."""

_GATEWAY = pods("gateway", {"app.kubernetes.io/name": "gateway"})

MONITORING: Peer = {"namespace_selector": {"match_labels": {"kubernetes.io/metadata.name": "monitoring"}}}
"""All pods of the namespace in which Prometheus runs."""

ACCOUNTING = pods("platform-system", {"app.kubernetes.io/name": "accounting"})
"""The accounting, which reads what gateways have counted."""

TO_GATEWAY = Opening(name="to-gateway", direction="egress", peers=(_GATEWAY,), ports=(("TCP", GATEWAY_PORT),))
"""For machines, whose agents say what they are at, and for the shared runtime, whose runs are let in anew."""

IN_A_TENANTS_NAMESPACE: Peer = {
    "namespace_selector": {"match_expressions": [{"key": "tenant-id", "operator": "Exists"}]},
    "pod_selector": {"match_expressions": [{"key": "tenant-id", "operator": "Exists"}]},
}
"""The agents' pods and machines of every tenant that has a namespace."""


def agent_openings(vault: Destination, database: Destination, object_storage: str) -> list[Opening]:
    """All that an agent's pod or machine needs, whoever's it is; `object_storage` is the S3 endpoint.

    KubeVirt needs none: virt-handler reaches a launcher through a socket on its node, a machine moves from
    one virt-handler to another, and a node always reaches its own pods.
    """
    # The provider's, on the internet: it is no way to the cluster's nodes, nor to the API server's address.
    storage = url_at(object_storage, never=NOT_PUBLIC)
    services = {"to-vault": vault, "to-database": database, "to-object-storage": storage}
    return [
        Opening(name="from-gateway", direction="ingress", peers=[_GATEWAY], ports=[("TCP", AGENT_PORT)]),
        TO_DNS,
        *(to(name, service) for name, service in services.items()),
        Opening(name="to-internet", direction="egress", peers=[PUBLIC], ports=[("TCP", 443)]),
    ]


def declare_network(
    prefix: str,
    namespace: str,
    openings: Sequence[Opening],
    *,
    agents: Mapping[str, str],
    labels: Mapping[str, str],
    opts: pulumi.ResourceOptions,
    among_others: bool = False,
) -> list[pulumi.Resource]:
    """Close the namespace in both directions, then let the pods labelled `agents` through each opening.

    `among_others`: what else runs in the namespace is left as it is, and the policies are named for the pods.
    """
    begin = f"{agents['app.kubernetes.io/name']}-" if among_others else ""
    selected: k8s.meta.v1.LabelSelectorArgsDict = {"match_labels": agents}

    def policy(name: str, spec: k8s.networking.v1.NetworkPolicySpecArgsDict) -> pulumi.Resource:
        return k8s.networking.v1.NetworkPolicy(
            f"{prefix}-{name}",
            metadata={"name": f"{begin}{name}", "namespace": namespace, "labels": labels},
            spec=spec,
            opts=opts,
        )

    closed = policy(
        "default-deny",
        {"pod_selector": selected if among_others else {}, "policy_types": ["Ingress", "Egress"]},
    )
    return [closed, *(policy(opening.name, _opened(opening, selected)) for opening in openings)]


def _opened(
    opening: Opening, selected: k8s.meta.v1.LabelSelectorArgsDict
) -> k8s.networking.v1.NetworkPolicySpecArgsDict:
    ports: list[k8s.networking.v1.NetworkPolicyPortArgsDict] = [
        {"protocol": protocol, "port": port} for protocol, port in opening.ports
    ]
    spec: k8s.networking.v1.NetworkPolicySpecArgsDict = {
        "pod_selector": selected,
        "policy_types": [opening.direction.capitalize()],
    }
    if opening.direction == "ingress":
        spec["ingress"] = [{"from_": opening.peers, "ports": ports}]
    else:
        spec["egress"] = [{"to": opening.peers, "ports": ports}]
    return spec
