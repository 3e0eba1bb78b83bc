"""How somebody outside reaches what runs in the cluster: through a load balancer of Exoscale's.

Its controller reads these annotations of a Service:
<https://github.com/exoscale/exoscale-cloud-controller-manager/blob/main/docs/service-loadbalancer.md>.
"""

from collections.abc import Mapping, Sequence

import pulumi
import pulumi_kubernetes as k8s

_EXOSCALE = "service.beta.kubernetes.io/exoscale-loadbalancer-service"
_FIRST_NODE_PORT = 30000
_ASSIGNED = {"pulumi.com/waitFor": "jsonpath={.status.loadBalancer.ingress[0].ip}"}
"""Wait for the address only: the pods behind it may still need a hand, as a sealed Vault does."""


def operator_entrance(
    resource_name: str,
    name: str,
    *,
    namespace: pulumi.Input[str],
    selector: Mapping[str, str],
    port: int,
    networks: Sequence[str],
    instance_pool: pulumi.Input[str],
    opts: pulumi.ResourceOptions,
) -> pulumi.Output[str]:
    """Declare a load balancer that lets `networks` (CIDR) in and nobody else, and return its address.

    Sources are filtered twice: by the nodes' security group and by the cluster's own load balancing, which
    sees the true source because `externalTrafficPolicy` is `Local`.
    """
    service = k8s.core.v1.Service(
        resource_name,
        metadata=k8s.meta.v1.ObjectMetaArgs(
            name=name, namespace=namespace, annotations=load_balanced(instance_pool)
        ),
        spec=k8s.core.v1.ServiceSpecArgs(
            type="LoadBalancer",
            external_traffic_policy="Local",
            load_balancer_source_ranges=list(networks),
            selector=selector,
            ports=[k8s.core.v1.ServicePortArgs(name=name, port=port, target_port=port, protocol="TCP")],
        ),
        opts=opts,
    )
    return service.status.apply(assigned_address)


def load_balanced(instance_pool: pulumi.Input[str]) -> dict[str, pulumi.Input[str]]:
    """The annotations of a load balancer before that pool's nodes, for a Service with the policy `Local`.

    The controller refuses to guess the pool where there are several. The health check has to be HTTP: the
    port it goes to is open on every node, and answers 503 where none of the Service's pods runs.
    """
    return {
        **_ASSIGNED,
        f"{_EXOSCALE}-instancepool-id": instance_pool,
        f"{_EXOSCALE}-healthcheck-mode": "http",
        f"{_EXOSCALE}-healthcheck-uri": "/healthz",
    }


def assigned_address(status: k8s.core.v1.outputs.ServiceStatus | None) -> str:
    """The assigned address; a preview on a running cluster can come here before there is one."""
    ingress = (status.load_balancer.ingress if status and status.load_balancer else None) or []
    return (ingress[0].ip if ingress else None) or "not-assigned-yet.invalid"


def assigned_node_port(spec: k8s.core.v1.outputs.ServiceSpec) -> int:
    """The port that every node opens for the Service; a preview can come here before there is one."""
    return next((int(port.node_port) for port in spec.ports or () if port.node_port), _FIRST_NODE_PORT)
