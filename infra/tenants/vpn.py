"""A tenant's VPN: WireGuard inside its machine, behind a load balancer that leads to no other.

The server's private key is in the tenant's part of Vault, where the machine fetches it; what the machine is
told at boot holds public keys only. Inside the tunnel everybody has an IPv6 address of the tenant's own
network, drawn from names alone (RFC 4193), so that nobody's changes when others come or go.
"""

import hashlib
import ipaddress
from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s
import pulumi_vault as vault
import pulumiverse_exoscale as exoscale

from infra.cluster.cluster import Nodes
from infra.platform.entrance import assigned_address, load_balanced
from infra.platform.network_policies import NOT_PUBLIC, Opening
from infra.platform.vault import Vault
from infra.tenants.roster import Peer, TenantEntry
from infra.tenants.wireguard_key import KeyPair

PORT = 51820
SECRET = "vpn"  # noqa: S105 — a name, not a secret
"""The secret with the server's private key, as `private_key`: ours to write, the tenant's to read."""
CONFIGURATION = "/etc/wireguard/wg0.conf"
_PRIVATE_KEY = "/etc/wireguard/wg0.key"
"""Written by the machine itself, once it has fetched the key."""

_FIRST_NODE_PORT = 30000

OPENING = Opening(
    name="from-vpn-peers",
    direction="ingress",
    # From outside the cluster: the load balancer and the node leave a peer's address as it is.
    peers=[{"ip_block": {"cidr": "0.0.0.0/0", "except_": NOT_PUBLIC}}],
    ports=[("UDP", PORT)],
)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """What a peer has to know of the server."""

    address: pulumi.Output[str]
    """`host:port`."""
    public_key: pulumi.Output[str]


def declare_vpn(
    tenant: TenantEntry,
    *,
    namespace: pulumi.Input[str],
    instance_pool: pulumi.Input[str],
    nodes: Nodes,
    platform: Vault,
    own: pulumi.ResourceOptions,
    in_vault: pulumi.ResourceOptions,
    on_cluster: pulumi.ResourceOptions,
) -> Endpoint:
    """Declare the server's key pair, and the way from outside to the tenant's machine."""
    name = tenant.id
    pair = KeyPair(f"{name}-vpn-key", own)
    vault.kv.SecretV2(
        f"{name}-vpn",
        mount=platform.kv_mount,
        name=f"{name}/{SECRET}",
        data_json=pulumi.Output.json_dumps({"private_key": pair.private, "public_key": pair.public}),
        delete_all_versions=True,
        opts=in_vault,
    )
    service = k8s.core.v1.Service(
        f"{name}-vpn-entrance",
        metadata={
            "name": "vpn",
            "namespace": namespace,
            "labels": {"tenant-id": name, "app.kubernetes.io/part-of": "agent-platform"},
            "annotations": load_balanced(instance_pool),
        },
        spec={
            "type": "LoadBalancer",
            "external_traffic_policy": "Local",
            "selector": {"tenant-id": name, "kubevirt.io": "virt-launcher"},
            "ports": [{"name": "wireguard", "port": PORT, "target_port": PORT, "protocol": "UDP"}],
        },
        opts=on_cluster,
    )
    exoscale.SecurityGroupRule(
        f"{name}-vpn-port",
        security_group_id=nodes.security_group_id,
        type="INGRESS",
        description=f"VPN of tenant {name}",
        protocol="UDP",
        # To whoever holds no peer's key, WireGuard does not answer.
        cidr="0.0.0.0/0",
        start_port=service.spec.apply(_node_port),
        end_port=service.spec.apply(_node_port),
        opts=own,
    )
    return Endpoint(
        address=service.status.apply(lambda status: f"{assigned_address(status)}:{PORT}"),
        public_key=pair.public,
    )


def configuration(tenant: TenantEntry) -> str:
    """The interface for `wg-quick`, without the private key, which is set when the interface comes up."""
    peers = "".join(
        f"\n[Peer]\n# {peer.name}\nPublicKey = {peer.public_key}\nAllowedIPs = {address(tenant, peer)}/128\n"
        for peer in (tenant.vpn.peers if tenant.vpn else ())
    )
    return f"""[Interface]
Address = {server_address(tenant)}/64
ListenPort = {PORT}
PostUp = wg set %i private-key {_PRIVATE_KEY}
{peers}"""


def server_address(tenant: TenantEntry) -> str:
    """The machine's address inside the tunnel."""
    return str(_network(tenant)[1])


def address(tenant: TenantEntry, peer: Peer) -> str:
    """A peer's address inside the tunnel: 63 bits of its name, so another key leaves it as it is."""
    return str(_network(tenant)[_bits(peer.name, 63) | 1 << 63])


def _network(tenant: TenantEntry) -> ipaddress.IPv6Network:
    return ipaddress.IPv6Network((0xFD << 120 | _bits(tenant.dashed, 40) << 80, 64))


def _bits(text: str, count: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()) >> (256 - count)


def _node_port(spec: k8s.core.v1.outputs.ServiceSpec) -> int:
    """The port that every node opens for the Service; a preview can come here before there is one."""
    return next((int(port.node_port) for port in spec.ports or () if port.node_port), _FIRST_NODE_PORT)
