"""A tenant's VPN: WireGuard inside its machine, behind a load balancer that leads to no other.

The server's private key is in the tenant's part of Vault, where the machine fetches it; what the machine is
told at boot holds public keys only. Inside the tunnel everybody has an IPv6 address of the tenant's own
network, drawn from names alone (RFC 4193), so that nobody's changes when others come or go.
"""

import hashlib
import ipaddress
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
import pulumiverse_exoscale as exoscale
from pulumi_vault.kv import SecretV2

from infra.platform.entrance import assigned_address, assigned_node_port, load_balanced
from infra.platform.network_policies import NOT_PUBLIC, Opening
from infra.platform.services import Services
from infra.tenants.namespace import agents, labels
from infra.tenants.roster import Peer, TenantEntry
from infra.tenants.secrets import VPN
from infra.tenants.wireguard_key import KeyPair

PORT = 51820
CONFIGURATION = "/etc/wireguard/wg0.conf"
_PRIVATE_KEY = "/etc/wireguard/wg0.key"
"""Written by the machine itself, once it has fetched the key."""

OPENING = Opening(
    name="from-vpn-peers",
    direction="ingress",
    # From outside the cluster: the load balancer and the node leave a peer's address as it is.
    peers=[{"ip_block": {"cidr": "0.0.0.0/0", "except_": NOT_PUBLIC}}],
    ports=[("UDP", PORT)],
)


@dataclass(frozen=True, kw_only=True)
class Entrance:
    """The way into a tenant's machine."""

    told: dict[str, Any]
    """What its peers have to know, all of it public."""
    key: pulumi.Resource
    """What the machine has to wait for."""


def declare_vpn(
    tenant: TenantEntry,
    platform: Services,
    instance_pool: pulumi.Input[str],
    own: pulumi.ResourceOptions,
    inside: pulumi.ResourceOptions,
) -> Entrance:
    """Declare the server's key pair, and the way from outside to the tenant's machine.

    `instance_pool` has the nodes on which the machine runs; `inside` are the options of what is in the
    tenant's namespace.
    """
    name, vault = tenant.id, platform.vault
    pair = KeyPair(f"{name}-vpn-key", own)
    key = SecretV2(
        f"{name}-vpn",
        mount=vault.kv_mount,
        name=f"{name}/{VPN}",
        data_json=pulumi.Output.json_dumps({"private_key": pair.private, "public_key": pair.public}),
        delete_all_versions=True,
        opts=pulumi.ResourceOptions.merge(own, pulumi.ResourceOptions(provider=vault.provider)),
    )
    service = k8s.core.v1.Service(
        f"{name}-vpn-entrance",
        metadata={
            "name": "vpn",
            "namespace": tenant.dashed,
            "labels": labels(tenant),
            "annotations": load_balanced(instance_pool),
        },
        spec={
            "type": "LoadBalancer",
            "external_traffic_policy": "Local",
            "selector": agents(tenant),
            "ports": [{"name": "wireguard", "port": PORT, "target_port": PORT, "protocol": "UDP"}],
        },
        opts=inside,
    )
    node_port = service.spec.apply(assigned_node_port)
    exoscale.SecurityGroupRule(
        f"{name}-vpn-port",
        security_group_id=platform.nodes.security_group_id,
        type="INGRESS",
        # By which it is looked for when the tenant is gone (`places.py`).
        description=f"VPN of {tenant.dashed}",
        protocol="UDP",
        # Whoever holds no peer's key gets no answer from WireGuard.
        cidr="0.0.0.0/0",
        start_port=node_port,
        end_port=node_port,
        opts=own,
    )
    peers = tenant.vpn.peers if tenant.vpn else ()
    return Entrance(
        told={
            "endpoint": service.status.apply(lambda status: f"{assigned_address(status)}:{PORT}"),
            "publicKey": pair.public,
            "address": server_address(tenant),
            "peers": {peer.name: address(tenant, peer) for peer in peers},
        },
        key=key,
    )


def configuration(tenant: TenantEntry) -> str:
    """The interface for `wg-quick`, without the private key, which is set when the interface comes up.

    Empty if the tenant has no VPN.
    """
    if not tenant.vpn:
        return ""
    peers = "".join(
        f"\n[Peer]\n# {peer.name}\nPublicKey = {peer.public_key}\nAllowedIPs = {address(tenant, peer)}/128\n"
        for peer in tenant.vpn.peers
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
