"""Load balancers for Services, as far as Exoscale's cloud controller manager shows them in the cluster.

It stands each before the nodes of one instance pool, which it guesses only where there is no more than one.
"""

from collections.abc import Collection

from local.node_agent.addresses import SERVICES, loopback
from local.node_agent.kube import Object

_POOL = "service.beta.kubernetes.io/exoscale-loadbalancer-service-instancepool-id"
_PROTOCOLS = ("TCP", "UDP")


def is_wanted(service: Object) -> bool:
    """Return whether `service` asks for a load balancer that it does not have yet."""
    wanted = service["spec"].get("type") == "LoadBalancer" and not service["metadata"].get(
        "deletionTimestamp"
    )
    return bool(wanted and not service.get("status", {}).get("loadBalancer", {}).get("ingress"))


def obstacle(service: Object, instance_pools: Collection[str]) -> str:
    """Return why `service` gets no load balancer, empty if it gets one."""
    pool = (service["metadata"].get("annotations") or {}).get(_POOL, "")
    if any(port.get("protocol", "TCP") not in _PROTOCOLS for port in service["spec"].get("ports") or ()):
        return "only TCP and UDP are supported as service port protocols"
    if not instance_pools:
        return "couldn't infer any Instance Pool from cluster Nodes"
    if not pool and len(instance_pools) > 1:
        return (
            "multiple Instance Pools detected across cluster Nodes, an Instance Pool ID must be specified in "
            "Service manifest annotations"
        )
    return f"instance pool {pool} is not in this cluster" if pool and pool not in instance_pools else ""


def status(service: Object) -> Object:
    """Return the status of `service` with its load balancer's address."""
    address = loopback(SERVICES, service["metadata"]["uid"])
    return {"loadBalancer": {"ingress": [{"ip": address, "ipMode": "VIP"}]}}
