"""The network, as the NetworkPolicies in the running API server decide it.

Nothing is sent: on the embedded platform no network plugin enforces policies. What is proven is that, under
the specification, every way between a tenant's pods and anything else is closed on all ports but for what is
sold. Of addresses, those on both sides of every limit that a policy draws are decided, which stand for all.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from local import ports as server_ports
from local.attack.attempt import PLATFORM, Attempt, Outcome
from local.attack.network_policy import NONE, Address, End, Pod, Policy, Ports, passing, ports, told
from local.attack.tenants import Tenant
from local.servers import kubernetes_api

_METADATA = ip_address("169.254.169.254")
_PUBLIC = (ip_address("1.1.1.1"), ip_address("203.0.113.7"))
_SPECIAL = (
    *(str(_METADATA), "fd00:ec2::254"),
    *("10.96.0.1", "10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "127.0.0.1", "0.0.0.0"),  # noqa: S104
    *("224.0.0.1", "255.255.255.255", "2001:4860:4860::8888", "fe80::1", "::1"),
)
"""The metadata service, the API server, what is private or reserved, and IPv6, which nobody is sold."""
_NOT_PUBLIC = tuple(
    ip_network(block)
    for block in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.168.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "::/0"),
    )
)
_SERVERS = {"PostgreSQL": "postgres", "Vault": "vault", "object storage": "object-storage"}
_GATEWAY = Pod(
    "the gateway",
    "gateway",
    {"app.kubernetes.io/name": "gateway"},
    {"kubernetes.io/metadata.name": "gateway"},
)
_DNS = Pod(
    "the DNS server", "kube-system", {"k8s-app": "kube-dns"}, {"kubernetes.io/metadata.name": "kube-system"}
)


def _is_public(address: Address) -> bool:
    return not any(address in block for block in _NOT_PUBLIC)


def _is_gateway(pod: Pod) -> bool:
    return (pod.namespace, pod.labels.get("app.kubernetes.io/name")) == ("gateway", "gateway")


def _sold_outwards(end: End, *, to_gateway: bool) -> Ports:
    """What an agent may reach: names, the platform's three services, the web, and what can stop it."""
    if isinstance(end, Pod):
        if to_gateway and _is_gateway(end):
            return ports("TCP", 8444)
        dns = (end.namespace, end.labels.get("k8s-app")) == ("kube-system", "kube-dns")
        return ports("UDP", 53) | ports("TCP", 53) if dns else NONE
    if str(end) == "127.0.0.1":
        found = NONE
        for server in _SERVERS.values():
            found |= ports("TCP", server_ports.port(server))
        return found
    return ports("TCP", 443) if _is_public(end) else NONE


def _sold_inwards(end: End, *, vpn: bool) -> Ports:
    """Who may reach an agent: the gateway, and, where a VPN is sold, its peers."""
    if isinstance(end, Pod):
        return ports("TCP", 8080) if _is_gateway(end) else NONE
    return ports("UDP", 51820) if vpn and _is_public(end) else NONE


def _sold_at_gateway(source: End) -> Ports:
    """Return the ports sold at the gateway: everybody's, where it asks for a token, and those of its figures.

    Agents' are apart. Monitoring asks the gateway on 9090, and Envoy beside it on 9091; the accounting asks
    the gateway alone.
    """
    if isinstance(source, Pod):
        if source.namespace == "monitoring":
            return ports("TCP", 9090) | ports("TCP", 9091)
        name = source.labels.get("app.kubernetes.io/name")
        accounts = source.namespace == "platform-system" and name == "accounting"
        return ports("TCP", 9090) if accounts else NONE
    return ports("TCP", 8443) if _is_public(source) else NONE


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where one tenant's agents run, or those of all that share the runtime."""

    name: str
    namespace: str
    to_gateway: bool
    """They use the gateway's API for agents, as machines and the shared runtime do."""
    vpn: bool
    agents: Sequence[Pod]
    stranger: Pod
    """Whatever else may come to run there: nothing is sold to it."""

    @property
    def pods(self) -> Sequence[Pod]:
        """All of them."""
        return [*self.agents, self.stranger]


def attempts(tenants: Sequence[Tenant]) -> Iterator[Attempt]:
    """Decide every way out of and into every tenant's pods."""
    policies = _items("/apis/networking.k8s.io/v1/networkpolicies")
    namespaces = {
        each["metadata"]["name"]: each["metadata"].get("labels") or {}
        for each in _items("/api/v1/namespaces")
    }
    pods = [_pod(each, namespaces) for each in _items("/api/v1/pods") if _is_networked(each)]
    places = _places(tenants, pods, namespaces)
    homes = {place.namespace for place in places}
    platform = [
        *(pod for pod in (*pods, _GATEWAY, _DNS) if pod.namespace not in homes),
        *(Pod("any pod", name, {}, labels) for name, labels in namespaces.items() if name not in homes),
    ]
    addresses = _addresses(policies)
    for place in places:
        closed = _closed(policies, place)
        for way in _ways(place, places, platform, addresses):
            # Who is cut off from everything proves nothing by being cut off.
            yield way.broken(closed) if closed else way.decided(policies)
    yield from _into_gateway(policies, [pod for pod in platform if not _is_gateway(pod)], addresses)


def _into_gateway(
    policies: Sequence[Policy], platform: Sequence[Pod], addresses: Sequence[tuple[str, Address]]
) -> Iterator[Attempt]:
    """Decide every way to the gateway but those of tenants' pods, which are decided with the others."""
    sources: list[tuple[str, End]] = [*(("the platform's pods", pod) for pod in platform), *addresses]
    closed = [end for end in _PUBLIC if _sold_at_gateway(end) & ~passing(policies, end, _GATEWAY)]
    for kind, source in sources:
        way = _Way(
            name=f"reach the gateway from {kind}", source=source, end=_GATEWAY, sold=_sold_at_gateway(source)
        )
        yield way.broken(f"sold, but closed: from {_told(closed[0])}") if closed else way.decided(policies)


@dataclass(frozen=True, kw_only=True)
class _Way:
    """A way from one end to another, and what is sold of it."""

    name: str
    attacker: str = PLATFORM
    victim: str = PLATFORM
    source: End
    end: End
    sold: Ports

    def decided(self, policies: Sequence[Policy]) -> Attempt:
        """The way on every port."""
        beyond = passing(policies, self.source, self.end) & ~self.sold
        if beyond:
            return self._attempt("leaked", f"open: {told(beyond)}")
        return self._attempt("denied", f"closed; sold: {told(self.sold)}")

    def broken(self, reason: str) -> Attempt:
        """The way, undecided."""
        return self._attempt("broken", reason)

    def _attempt(self, outcome: Outcome, detail: str) -> Attempt:
        return Attempt(
            server="Network",
            attacker=self.attacker,
            victim=self.victim,
            name=self.name,
            tried=f"{_told(self.source)} to {_told(self.end)}, every port",
            outcome=outcome,
            detail=detail,
        )


def _ways(
    place: _Place,
    places: Iterable[_Place],
    platform: Sequence[Pod],
    addresses: Sequence[tuple[str, Address]],
) -> Iterator[_Way]:
    """Every way out of a place, and every way in that is not one out of another."""
    others = [(other.name, pod) for other in places if other is not place for pod in other.pods]
    outside: list[tuple[str, End]] = [*(("the platform's pods", pod) for pod in platform), *addresses]
    for pod in place.pods:
        for victim, theirs in others:
            yield _Way(
                name="reach another tenant's pods",
                attacker=place.name,
                victim=victim,
                source=pod,
                end=theirs,
                sold=NONE,
            )
        for kind, end in outside:
            yield _Way(
                name=f"reach {kind}",
                attacker=place.name,
                source=pod,
                end=end,
                sold=_sold_outwards(end, to_gateway=place.to_gateway) if pod in place.agents else NONE,
            )
            yield _Way(
                name=f"be reached from {kind}",
                victim=place.name,
                source=end,
                end=pod,
                sold=_sold_inwards(end, vpn=place.vpn) if pod in place.agents else NONE,
            )


def _closed(policies: Sequence[Policy], place: _Place) -> str:
    """What is sold and does not pass; empty if all does."""
    if not place.agents:
        return f"nothing runs in {place.namespace}, so nothing can be decided for it"
    for pod in place.agents:
        for end in (_DNS, _GATEWAY, ip_address("127.0.0.1"), *_PUBLIC):
            if missing := _sold_outwards(end, to_gateway=place.to_gateway) & ~passing(policies, pod, end):
                return f"sold, but closed: {_told(pod)} to {_told(end)}, {told(missing)}"
        for end in (_GATEWAY, *_PUBLIC):
            if missing := _sold_inwards(end, vpn=place.vpn) & ~passing(policies, end, pod):
                return f"sold, but closed: {_told(end)} to {_told(pod)}, {told(missing)}"
    return ""


def _places(
    tenants: Sequence[Tenant], pods: Sequence[Pod], namespaces: Mapping[str, Mapping[str, str]]
) -> list[_Place]:
    """Each namespace in which tenants' agents run; a machine counts whether it runs or sleeps."""
    machines = [_sleeping(each, namespaces) for each in _items("/apis/kubevirt.io/v1/virtualmachines")]
    homes = {tenant.account.namespace: tenant for tenant in tenants}
    return [
        _Place(
            name=tenant.id if tenant.namespace else "shared runtime",
            namespace=namespace,
            to_gateway=bool(tenant.machine) or not tenant.namespace,
            vpn=tenant.has_vpn,
            agents=[pod for pod in (*pods, *machines) if pod.namespace == namespace],
            stranger=Pod("any other pod", namespace, {}, namespaces[namespace]),
        )
        for namespace, tenant in homes.items()
    ]


def _addresses(policies: Iterable[Policy]) -> list[tuple[str, Address]]:
    """The addresses to decide, each with what it is: special ones, nodes, and both sides of every limit."""
    known: dict[Address, str] = {_METADATA: "the metadata service"}
    for node in _items("/api/v1/nodes"):
        for each in node["status"].get("addresses", []):
            if each["type"] in ("InternalIP", "ExternalIP"):
                known.setdefault(ip_address(each["address"]), "nodes")
    for address in (*map(ip_address, _SPECIAL), *_PUBLIC, *_limits(policies)):
        known.setdefault(address, "public addresses" if _is_public(address) else "private addresses")
    return [(kind, address) for address, kind in known.items()]


def _limits(policies: Iterable[Policy]) -> Iterator[Address]:
    for policy in policies:
        for rule in (*(policy["spec"].get("ingress") or ()), *(policy["spec"].get("egress") or ())):
            for peer in (*(rule.get("from") or ()), *(rule.get("to") or ())):
                block = peer.get("ipBlock") or {}
                for cidr in filter(None, (block.get("cidr"), *(block.get("except") or ()))):
                    network = ip_network(cidr)
                    first, last = int(network[0]), int(network[-1])
                    for number in (first - 1, first, last, last + 1):
                        if 0 <= number < 1 << network.max_prefixlen:
                            yield type(network[0])(number)


def _is_networked(pod: Mapping[str, Any]) -> bool:
    """Whether policies are about the pod: it lives, and is not on its node's own network."""
    return pod["status"].get("phase") in ("Pending", "Running") and not pod["spec"].get("hostNetwork")


def _pod(found: Mapping[str, Any], namespaces: Mapping[str, Mapping[str, str]]) -> Pod:
    metadata, spec = found["metadata"], found["spec"]
    return Pod(
        metadata["name"],
        metadata["namespace"],
        metadata.get("labels") or {},
        namespaces.get(metadata["namespace"], {}),
        [ip_address(each["ip"]) for each in found["status"].get("podIPs") or ()],
        [
            (port["name"], port.get("protocol", "TCP"), port["containerPort"])
            for container in spec["containers"]
            for port in container.get("ports") or ()
            if "name" in port
        ],
    )


def _sleeping(machine: Mapping[str, Any], namespaces: Mapping[str, Mapping[str, str]]) -> Pod:
    """The pod in which a machine will run."""
    name, namespace = machine["metadata"]["name"], machine["metadata"]["namespace"]
    template = machine["spec"]["template"].get("metadata") or {}
    labels = {**(template.get("labels") or {}), "kubevirt.io": "virt-launcher", "vm.kubevirt.io/name": name}
    return Pod(f"machine {name}", namespace, labels, namespaces.get(namespace, {}))


def _items(path: str) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = kubernetes_api.get(path)["items"]
    return found


def _told(end: End) -> str:
    return f"{end.namespace}/{end.name}" if isinstance(end, Pod) else str(end)
