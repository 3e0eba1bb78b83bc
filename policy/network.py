"""The network: closed unless opened by name, encrypted, and administered from known places only."""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from policy.pods import Container, containers
from policy.rules import Selection, Severity, resources, rule, stack_rule
from policy.subjects import Resource, Stack

_POLICIES = "https://kubernetes.io/docs/concepts/services-networking/network-policies/"
_SERVICES = "https://kubernetes.io/docs/concepts/services-networking/service/"
_NAMESPACE = "kubernetes:core/v1:Namespace"
_SERVICE = "kubernetes:core/v1:Service"
_POLICY = "kubernetes:networking.k8s.io/v1:NetworkPolicy"
_METADATA_SERVICE = ipaddress.ip_network("169.254.0.0/16")


def _open_to_the_world(port: str, reason: str) -> dict[str, Any]:
    return {
        "open": {
            "type": "object",
            "additionalProperties": {"type": "string", "minLength": 1},
            "default": {"UDP/51820": "WireGuard answers nobody who holds no peer's key", port: reason},
            "description": "PROTOCOL/PORT that the whole internet may reach, each with the reason why",
        }
    }


@dataclass(frozen=True)
class Opening:
    """One rule of a NetworkPolicy."""

    policy: Resource
    direction: str
    """`ingress` or `egress`."""
    rule: Mapping[str, Any]

    @property
    def peers(self) -> Any:
        """Who is let through; none means everybody."""
        return self.rule.get("from" if self.direction == "ingress" else "to") or ()

    @property
    def ports(self) -> Any:
        """On which ports; none means all."""
        return self.rule.get("ports") or ()


def _openings(resource: Resource) -> Iterator[Opening]:
    for direction in ("ingress", "egress"):
        for opened in resource.inputs["spec"].get(direction) or ():
            yield Opening(resource, direction, opened)


openings = Selection(frozenset((_POLICY,)).__contains__, _openings)
"""Each way in or out that a NetworkPolicy lets through."""


def _namespace(resource: Resource) -> str:
    return resource.namespace


@stack_rule(
    id="network-default-deny",
    severity=Severity.CRITICAL,
    on=resources(_NAMESPACE),
    reason="whatever runs there reaches everybody and is reached by everybody, other tenants included",
    remedy="declare a NetworkPolicy with podSelector: {}, both policyTypes and no rule",
    source=_POLICIES,
    settings={
        "shared": {
            "type": "array",
            "items": {"type": "string"},
            "default": ["runtime"],
            "description": "namespaces of the platform in which tenants' agents run",
        }
    },
)
def default_deny(namespace: Resource, stack: Stack, values: Mapping[str, Any]) -> Iterator[str]:
    """Where tenants' agents run, everything is closed in both directions."""
    if namespace.tenant is None and namespace.object_name not in values["shared"]:
        return
    closed: set[str] = set()
    for policy in stack.by(_namespace, _POLICY)[namespace.object_name]:
        spec = policy.inputs["spec"]
        if _selects_all(spec.get("podSelector")):
            types = spec.get("policyTypes") or ()
            closed |= {each for each in ("Ingress", "Egress") if each in types and not spec.get(each.lower())}
        if len(closed) == 2:
            return
    for direction in ("Ingress", "Egress"):
        if direction not in closed:
            yield f"nothing closes it by default ({direction.lower()})"


@rule(
    id="network-no-empty-peer",
    severity=Severity.CRITICAL,
    on=openings,
    reason="an empty selector selects everything, so it opens far more than its name says",
    remedy="name namespace and pods by their labels, or an address block",
    source=_POLICIES,
)
def no_empty_peer(opening: Opening) -> Iterator[str]:
    """Every opening says to whom, and no selector in it selects everything."""
    if not opening.peers:
        yield f"its {opening.direction} is open to everybody"
    for peer in opening.peers:
        for selector in ("namespaceSelector", "podSelector"):
            if selector in peer and _selects_all(peer[selector]):
                yield f"its {opening.direction} has an empty {selector}"
        if not peer:
            yield f"its {opening.direction} has an empty peer"


@rule(
    id="network-ports-named",
    severity=Severity.MEDIUM,
    on=openings,
    reason="every port is open, and so whatever listens there by mistake or for an attacker",
    remedy="name protocol and port of the service",
    source=_POLICIES,
)
def ports_named(opening: Opening) -> Iterator[str]:
    """Every opening says on which ports."""
    if not opening.ports or any(not port.get("port") for port in opening.ports):
        yield f"its {opening.direction} is open on every port"


@rule(
    id="network-not-from-world",
    severity=Severity.CRITICAL,
    on=openings,
    reason="anybody on the internet can try the door",
    remedy="name the networks, or the port in this rule's `open`",
    source=_POLICIES,
    settings=_open_to_the_world("TCP/8443", "the gateway's pods let nobody in without a tenant's token"),
)
def not_from_world(opening: Opening, values: Mapping[str, Any]) -> Iterator[str]:
    """Nobody comes in from everywhere, but on the ports that are for it."""
    if opening.direction != "ingress" or not any(
        _is_world(_block(peer).get("cidr")) for peer in opening.peers
    ):
        return
    if not opening.ports:
        yield "the whole internet may come in on every port"
    for port in opening.ports:
        spoken = f"{port.get('protocol') or 'TCP'}/{port.get('port') or 'every port'}"
        if spoken not in values["open"] or port.get("endPort"):
            yield f"the whole internet may come in on {spoken}"


@rule(
    id="network-no-metadata",
    severity=Severity.CRITICAL,
    on=openings,
    reason="the node's metadata service answers whoever reaches it with what the node is told at boot",
    remedy="add 169.254.0.0/16 to the block's `except`",
    source="https://community.exoscale.com/product/compute/instances/how-to/cloud-init/",
)
def no_metadata(opening: Opening) -> Iterator[str]:
    """No way out leads to the node's metadata service."""
    for peer in opening.peers if opening.direction == "egress" else ():
        block = _block(peer)
        if block and _holds(block.get("cidr"), _METADATA_SERVICE):
            spared = [ipaddress.ip_network(each) for each in block.get("except") or ()]
            if not any(_holds(str(each), _METADATA_SERVICE) for each in spared):
                yield f"{block['cidr']} leads to the metadata service, too"


@rule(
    id="network-services-inside",
    severity=Severity.HIGH,
    on=resources(_SERVICE),
    reason="it can be reached from outside the cluster, past the gateway",
    remedy="write type: ClusterIP and go through the gateway, or name the Service in this rule's `entrances`",
    source=_SERVICES,
    settings={
        "entrances": {
            "type": "object",
            "additionalProperties": {"type": "string", "minLength": 1},
            "default": {
                "postgres-operators": "engineers and CI administer PostgreSQL",
                "vault-operators": "engineers and CI administer Vault",
                "activity-operators": "engineers and CI administer the activity store",
                "vpn": "a tenant's own VPN",
                "gateway-public": "the gateway, the one way in to tenants' agents",
            },
            "description": "Services that may be load balancers, each with the reason why",
        }
    },
)
def services_inside(service: Resource, values: Mapping[str, Any]) -> Iterator[str]:
    """No Service is reached from outside, but for the load balancers that are named."""
    spec = service.inputs.get("spec") or {}
    kind = spec.get("type") or "ClusterIP"
    if kind == "NodePort":
        yield "every node opens a port for it"
    if kind == "LoadBalancer" and service.object_name not in values["entrances"]:
        yield f"{service.object_name} is a load balancer that nobody named"
    if spec.get("externalIPs"):
        yield "it takes over external addresses"


@rule(
    id="network-entrances-closed",
    severity=Severity.HIGH,
    on=resources(_SERVICE),
    reason="anybody on the internet can try the door of what is administered behind it",
    remedy="list the networks in loadBalancerSourceRanges, with externalTrafficPolicy: Local",
    source=_SERVICES,
    settings=_open_to_the_world("TCP/443", "the gateway lets nobody in without a tenant's token"),
)
def entrances_closed(service: Resource, values: Mapping[str, Any]) -> Iterator[str]:
    """A load balancer lets known networks in and nobody else, but on the ports that are for everybody."""
    spec = service.inputs.get("spec") or {}
    if spec.get("type") != "LoadBalancer":
        return
    ports = [f"{port.get('protocol') or 'TCP'}/{port.get('port')}" for port in spec.get("ports") or ()]
    ranges = spec.get("loadBalancerSourceRanges") or ["0.0.0.0/0"]
    if any(_is_world(each) for each in ranges):
        for port in ports:
            if port not in values["open"]:
                yield f"the whole internet may enter on {port}"
    elif spec.get("externalTrafficPolicy") != "Local":
        yield "it filters by a source that a node has rewritten"


@rule(
    id="network-nodes-closed",
    severity=Severity.CRITICAL,
    on=resources("exoscale:index/securityGroupRule:SecurityGroupRule"),
    reason="anybody on the internet can try the nodes' doors",
    remedy="name the networks that engineers and CI work from",
    source="https://community.exoscale.com/product/networking/security-group/",
)
def nodes_closed(firewall: Resource) -> Iterator[str]:
    """Nobody reaches the nodes from everywhere, but over UDP what is a tenant's own, which is its VPN."""
    inputs = firewall.inputs
    if str(inputs.get("type")).upper() != "INGRESS" or not inputs.get("cidr"):
        return
    vpn = firewall.tenant is not None and str(inputs.get("protocol")).upper() == "UDP"
    if _is_world(inputs["cidr"]) and not vpn:
        yield f"{inputs.get('protocol')} is open to {inputs['cidr']}"


@rule(
    id="network-no-host-port",
    severity=Severity.HIGH,
    on=containers,
    reason="it is reached on its node's own address, past every Service and NetworkPolicy",
    remedy="leave hostPort out and declare a Service",
    source="https://kubernetes.io/docs/concepts/security/pod-security-standards/",
)
def no_host_port(container: Container) -> Iterator[str]:
    """No container takes a port of its node."""
    for port in container.spec.get("ports") or ():
        if port.get("hostPort"):
            yield f"container {container.name} takes port {port['hostPort']} of its node"


@rule(
    id="network-tls",
    severity=Severity.HIGH,
    on=resources(
        "pulumi:providers:postgresql",
        "pulumi:providers:vault",
        "vault:database/secretBackendConnection:SecretBackendConnection",
        "vault:kubernetes/authBackendConfig:AuthBackendConfig",
    ),
    reason="passwords and tenants' data would cross the network in the clear",
    remedy="write https:// or sslmode=verify-full; without TLS only towards this very machine",
    source="guide, Security Boundaries",
)
def encrypted(resource: Resource) -> Iterator[str]:
    """PostgreSQL, Vault and Kubernetes are spoken to over TLS, but on loopback."""
    inputs = resource.inputs
    if resource.type == "pulumi:providers:postgresql":
        if not _encrypts(inputs.get("sslmode")) and not _is_loopback(inputs.get("host") or ""):
            yield f"its sslmode is {inputs.get('sslmode') or 'not set'}"
    elif resource.type == "pulumi:providers:vault":
        yield from _clear(inputs.get("address"))
        if inputs.get("skipTlsVerify") in (True, "true"):
            yield "it takes every certificate for Vault's"
    elif resource.type == "vault:kubernetes/authBackendConfig:AuthBackendConfig":
        yield from _clear(inputs.get("kubernetesHost"))
    else:
        url = (inputs.get("postgresql") or {}).get("connectionUrl") or ""
        host = re.sub(r"^.*?@|:\d+.*$", "", url)
        mode = re.search(r"[?&]sslmode=([a-z-]+)", url)
        if not _encrypts(mode and mode[1]) and not _is_loopback(host):
            yield f"Vault's way into PostgreSQL has the sslmode {mode[1] if mode else 'that is default'}"


@rule(
    id="network-tls-storage",
    severity=Severity.HIGH,
    on=Selection(lambda type_: type_.startswith("pulumi-python:dynamic/"), lambda resource: (resource,)),
    reason="the key to the objects and the objects themselves would cross the network in the clear",
    remedy="write an https:// endpoint",
    source="guide, Security Boundaries",
)
def encrypted_storage(resource: Resource) -> Iterator[str]:
    """Object storage is spoken to over TLS, but on loopback."""
    if "endpoint" in resource.inputs:
        yield from _clear(resource.inputs["endpoint"])


def _clear(address: str | None) -> Iterator[str]:
    parts = urlsplit(address or "")
    if address and parts.scheme != "https" and not _is_loopback(parts.hostname or ""):
        yield f"{address} is no https:// address"


def _encrypts(mode: str | None) -> bool:
    return mode in ("require", "verify-ca", "verify-full")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _selects_all(selector: Mapping[str, Any] | None) -> bool:
    return not (selector and (selector.get("matchLabels") or selector.get("matchExpressions")))


def _block(peer: Mapping[str, Any]) -> Mapping[str, Any]:
    return peer.get("ipBlock") or {}


def _is_world(cidr: str | None) -> bool:
    """Whether nobody works from a network that wide; two halves of the world are the world."""
    if not cidr:
        return False
    block = ipaddress.ip_network(cidr, strict=False)
    return block.prefixlen < (8 if block.version == 4 else 16)


def _holds(cidr: str | None, wanted: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    block = ipaddress.ip_network(str(cidr), strict=False)
    return block.version == wanted.version and wanted.subnet_of(block)  # type: ignore[arg-type]
