"""The nodes' firewall: what SKS needs and nothing more.

The ports are those of Exoscale's SKS quick start and of Cilium's and Calico's system requirements. All other
incoming traffic is denied; the control plane is reached from the nodes, through konnectivity.
"""

from collections.abc import Sequence
from typing import Any

import pulumi
import pulumiverse_exoscale as exoscale

_KUBELET = {"kubelet": {"protocol": "TCP", "start_port": 10250, "end_port": 10250}}
_CNI: dict[str, dict[str, dict[str, Any]]] = {
    "calico": {"calico-vxlan": {"protocol": "UDP", "start_port": 4789, "end_port": 4789}},
    "cilium": {
        "cilium-vxlan": {"protocol": "UDP", "start_port": 8472, "end_port": 8472},
        "cilium-health": {"protocol": "TCP", "start_port": 4240, "end_port": 4240},
        "cilium-ping": {"protocol": "ICMP", "icmp_type": 8, "icmp_code": 0},
    },
}
_NODE_PORTS = {"protocol": "TCP", "start_port": 30000, "end_port": 32767}


def node_security_group(
    prefix: str, *, group_name: str, cni: str, operator_networks: Sequence[str], opts: pulumi.ResourceOptions
) -> exoscale.SecurityGroup:
    """Declare the nodes' security group and its rules.

    Among themselves the nodes may reach the kubelet and the CNI. Node ports, before which the load balancers
    stand, open to `operator_networks` (CIDR) and to Exoscale's health checks.
    """
    group = exoscale.SecurityGroup(f"{prefix}-nodes", name=group_name, description="SKS nodes", opts=opts)

    def ingress(name: str, **match: Any) -> None:
        exoscale.SecurityGroupRule(
            f"{prefix}-{name}",
            security_group_id=group.id,
            type="INGRESS",
            description=name,
            opts=opts,
            **match,
        )

    for name, ports in {**_KUBELET, **_CNI[cni]}.items():
        ingress(name, user_security_group_id=group.id, **ports)
    for network in operator_networks:
        ingress(f"node-ports-{network.replace('/', '-')}", cidr=network, **_NODE_PORTS)
    ingress("node-ports-health", public_security_group="public-nlb-healthcheck-sources", **_NODE_PORTS)
    return group
