"""The gateway: the one way in to tenants' agents, which wakes a machine when a request comes in.

Its pods stand behind a load balancer that passes bytes, so TLS ends in them: in Envoy (`envoy.py`), which
carries all requests and asks the gateway beside it. What the gateway knows of tenants, their routes, are
ConfigMaps in its namespace (`infra/tenants/route.py`).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
import pulumiverse_exoscale as exoscale
from pulumi_vault.kv import SecretV2

from infra.cluster.foundations import Nodes
from infra.platform import envoy, shared_runtime
from infra.platform.access_key import AccessKey
from infra.platform.assertions import Assertions
from infra.platform.certificates import Certificates
from infra.platform.entrance import assigned_node_port, load_balanced
from infra.platform.gateway_certificates import gateway_certificates
from infra.platform.gateway_rights import gateway_rights
from infra.platform.monitoring import stack
from infra.platform.monitoring.scraping import HEALTH_PORT
from infra.platform.namespaces import namespace
from infra.platform.network_policies import (
    ACCOUNTING,
    AGENT_PORT,
    GATEWAY_PORT,
    IN_A_TENANTS_NAMESPACE,
    MONITORING,
    PUBLIC,
    TO_DNS,
    TO_KUBERNETES,
    Opening,
    declare_network,
    pods,
    to,
)
from infra.platform.redis import Redis, Users
from infra.platform.service_pods import (
    ServicePod,
    Sidecar,
    from_field,
    from_secret,
    on_different_nodes,
    probe,
    redis_credentials,
)
from infra.platform.vault import Vault
from infra.settings import Settings

NAMESPACE = "gateway"
_NAME = "gateway"
_CONFIGURATION = "/etc/gateway"
_SOCKETS = "/run/gateway"
"""The folder with the sockets at which the gateway and Envoy meet."""
_OPERATORS = "operators.json"
_ASSERTIONS = "gateway-assertions"
_SIGNING_KEY = "key.pem"
_CONSOLE = "console"
"""The operators' page and whom a token for it is meant for: an id that no tenant can have."""
_GRAFANA = envoy.Grafana(
    host=stack.GRAFANA_HOST,
    port=stack.GRAFANA_PORT,
    path=stack.GRAFANA_PATH,
    user_header=stack.GRAFANA_USER,
)
_BALANCER_SECONDS = 20
"""Until the load balancer has noticed that a node has none of the pods any more: two of its checks."""
_DRAIN_SECONDS = 30
"""How long requests under way may take after that."""


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """Where agents reach the gateway."""

    agents_address: str
    authority: pulumi.Output[str] | None
    """The certificate (PEM) of whoever vouches for it there; None: an authority that everybody trusts."""


def declare_gateway(
    prefix: str,
    settings: Settings,
    *,
    redis: Redis,
    users: Users,
    vault: Vault,
    assertions: Assertions,
    certificates: Callable[[], Certificates],
    nodes: Nodes,
    opts: pulumi.ResourceOptions,
) -> tuple[Gateway, k8s.core.v1.Namespace]:
    """Declare all of the gateway's but the routes; returns also the namespace that these are put in."""
    pod = ServicePod(
        name=_NAME,
        image=settings.gateway_image,
        module="services.gateway",
        requests={"cpu": "500m", "memory": "128Mi"},
        memory_limit="512Mi",
    )
    home = namespace(f"{prefix}-namespace", NAMESPACE, "restricted", opts)
    inside = pulumi.ResourceOptions.merge(opts, _after(home))
    account = k8s.core.v1.ServiceAccount(
        prefix,
        metadata={"name": _NAME, "namespace": NAMESPACE, "labels": pod.labels},
        automount_service_account_token=False,
        opts=inside,
    )
    shown = gateway_certificates(prefix, NAMESPACE, settings, certificates, pod.labels, inside)
    edge = envoy.Envoy(
        domain=settings.domain,
        address="$(POD_IP)",
        sockets=_SOCKETS,
        certificates=shown.folders,
        secrets=_CONFIGURATION,
        grafana=grafana(settings),
    )
    before = [
        account,
        *gateway_rights(prefix, NAMESPACE, pulumi.ResourceOptions.merge(inside, _after(account))),
        *redis_credentials(prefix, pod, NAMESPACE, redis, users[_NAME], inside),
        *declare_network(
            prefix, NAMESPACE, _openings(redis, edge), agents=pod.selected, labels=pod.labels, opts=inside
        ),
        *shown.declared,
        _configuration(prefix, pod, vault, edge, inside),
        k8s.core.v1.Secret(
            f"{prefix}-assertions",
            metadata={"name": _ASSERTIONS, "namespace": NAMESPACE, "labels": pod.labels},
            string_data={_SIGNING_KEY: assertions.key},
            opts=inside,
        ),
        users[_NAME].ready,
    ]
    k8s.apps.v1.Deployment(
        f"{prefix}-deployment",
        metadata={"name": _NAME, "namespace": NAMESPACE, "labels": pod.labels},
        spec={
            "replicas": settings.gateway.replicas,
            "revision_history_limit": 2,
            # One after the other, each in its predecessor's place: no node is needed that has none of them.
            "strategy": {"type": "RollingUpdate", "rolling_update": {"max_surge": 0, "max_unavailable": 1}},
            "selector": {"match_labels": pod.selected},
            "template": {
                "metadata": {
                    "labels": pod.labels,
                    # The gateway reads its key when it starts.
                    "annotations": {"agent-platform/assertion-key": assertions.key_id},
                },
                "spec": {
                    **pod.spec(
                        redis,
                        environment={
                            "DOMAIN": settings.domain,
                            "ROUTES_NAMESPACE": NAMESPACE,
                            "OPERATOR_KEYS": f"{_CONFIGURATION}/{_OPERATORS}",
                            "ASSERTION_KEY": f"/etc/{_ASSERTIONS}/{_SIGNING_KEY}",
                            "SOCKETS": _SOCKETS,
                        },
                        files={
                            _CONFIGURATION: {"config_map": {"name": _NAME}},
                            f"/etc/{_ASSERTIONS}": from_secret(_ASSERTIONS),
                        },
                        container=_container(),
                        sidecar=Sidecar(
                            name="envoy",
                            requests={"cpu": "500m", "memory": "128Mi"},
                            memory_limit="384Mi",
                            container=_envoy_container(edge),
                            files={_CONFIGURATION: {"config_map": {"name": _NAME}}, **shown.files},
                            shared=_SOCKETS,
                        ),
                    ),
                    "affinity": on_different_nodes(pod.selected),
                    "termination_grace_period_seconds": _BALANCER_SECONDS + _DRAIN_SECONDS + 10,
                },
            },
        },
        opts=pulumi.ResourceOptions.merge(inside, _after(*before)),
    )
    k8s.policy.v1.PodDisruptionBudget(
        f"{prefix}-disruption",
        metadata={"name": _NAME, "namespace": NAMESPACE, "labels": pod.labels},
        spec={"max_unavailable": 1, "selector": {"match_labels": pod.selected}},
        opts=inside,
    )
    _services(prefix, pod, nodes, inside)
    return Gateway(agents_address=settings.gateway.agents_address, authority=shown.authority), home


def grafana(settings: Settings) -> envoy.Grafana | None:
    """Return what operators see below the console's host, if this program manages it."""
    return None if settings.monitoring.managed is None else _GRAFANA


def _container() -> Mapping[str, Any]:
    return {
        "env": [from_field("POD_NAME", "metadata.name"), from_field("POD_IP", "status.podIP")],
        "ports": _ports(health=HEALTH_PORT),
        "startup_probe": {**probe("/livez"), "failure_threshold": 30, "period_seconds": 2},
        "liveness_probe": probe("/livez"),
        "readiness_probe": {**probe("/readyz"), "period_seconds": 5},
        # It serves on while the load balancer still sends, then ends what is under way.
        "lifecycle": {"pre_stop": {"sleep": {"seconds": _BALANCER_SECONDS}}},
    }


def _envoy_container(edge: envoy.Envoy) -> Mapping[str, Any]:
    return {
        "command": ["envoy"],
        "args": [*envoy.OPTIONS, "--config-yaml", edge.bootstrap()],
        "env": [from_field("POD_IP", "status.podIP")],
        "ports": _ports(public=envoy.PUBLIC_PORT, agents=GATEWAY_PORT, statistics=envoy.STATISTICS_PORT),
        "startup_probe": {**probe("/ready", "statistics"), "failure_threshold": 30, "period_seconds": 2},
        "liveness_probe": probe("/ready", "statistics"),
        # As a client comes: it shows its certificate, and the gateway behind it answers.
        "readiness_probe": {
            "http_get": {"path": "/.gateway/readyz", "port": "public", "scheme": "HTTPS"},
            "timeout_seconds": 5,
            "period_seconds": 5,
        },
    }


def _ports(**ports: int) -> list[dict[str, Any]]:
    return [{"name": name, "container_port": port} for name, port in ports.items()]


def _configuration(
    prefix: str, pod: ServicePod, vault: Vault, edge: envoy.Envoy, opts: pulumi.ResourceOptions
) -> k8s.core.v1.ConfigMap:
    """Declare what both containers read, and the key that operators sign their tokens with.

    Its private half is in Vault, its public one for the gateway; Envoy is told where its certificates are.
    """
    own = pulumi.ResourceOptions(parent=opts.parent)
    key = AccessKey(f"{prefix}-operators-key", own)
    SecretV2(
        f"{prefix}-operators",
        mount=vault.kv_mount,
        # No tenant's policy opens it, because none has that id.
        name=f"{_CONSOLE}/{_NAME}",
        data_json=pulumi.Output.json_dumps(
            {"private_key": key.private, "key_id": key.public["kid"], "audience": _CONSOLE}
        ),
        delete_all_versions=True,
        opts=pulumi.ResourceOptions.merge(
            own, pulumi.ResourceOptions(provider=vault.provider, depends_on=vault.furnished)
        ),
    )
    return k8s.core.v1.ConfigMap(
        f"{prefix}-configuration",
        metadata={"name": _NAME, "namespace": NAMESPACE, "labels": pod.labels},
        data={
            _OPERATORS: key.public.apply(lambda public: json.dumps({"keys": [public]}, sort_keys=True)),
            **edge.certificate_files(),
        },
        opts=opts,
    )


def _openings(redis: Redis, edge: envoy.Envoy) -> list[Opening]:
    """Nobody else gets in or out; a node always reaches its own pods, so probes need no opening."""
    grafana = [to("to-grafana", stack.GRAFANA)] if edge.grafana else []
    runtime = pods(shared_runtime.NAMESPACE, shared_runtime.SELECTED)
    return [
        Opening(
            name="from-internet", direction="ingress", peers=[PUBLIC], ports=[("TCP", envoy.PUBLIC_PORT)]
        ),
        Opening(
            name="from-agents",
            direction="ingress",
            peers=[IN_A_TENANTS_NAMESPACE, runtime],
            ports=[("TCP", GATEWAY_PORT)],
        ),
        Opening(
            name="from-monitoring",
            direction="ingress",
            peers=[MONITORING],
            ports=[("TCP", HEALTH_PORT), ("TCP", envoy.STATISTICS_PORT)],
        ),
        Opening(
            name="from-accounting", direction="ingress", peers=[ACCOUNTING], ports=[("TCP", HEALTH_PORT)]
        ),
        TO_DNS,
        TO_KUBERNETES,
        to("to-redis", redis.destination),
        *grafana,
        Opening(
            name="to-agents",
            direction="egress",
            peers=[IN_A_TENANTS_NAMESPACE, runtime],
            ports=[("TCP", AGENT_PORT)],
        ),
    ]


def _services(prefix: str, pod: ServicePod, nodes: Nodes, opts: pulumi.ResourceOptions) -> None:
    """Declare the load balancer for everybody, and the name under which agents find the gateway."""
    entrance = k8s.core.v1.Service(
        f"{prefix}-entrance",
        metadata={
            "name": f"{_NAME}-public",
            "namespace": NAMESPACE,
            "labels": pod.labels,
            "annotations": load_balanced(nodes.shared_instance_pool_id),
        },
        spec={
            "type": "LoadBalancer",
            # A client's address arrives as it is.
            "external_traffic_policy": "Local",
            "selector": pod.selected,
            "ports": [{"name": "https", "port": 443, "target_port": "public", "protocol": "TCP"}],
        },
        opts=opts,
    )
    # The load balancer leaves a client's address as it is, so the nodes have to let everybody's in.
    port = entrance.spec.apply(assigned_node_port)
    exoscale.SecurityGroupRule(
        f"{prefix}-port",
        security_group_id=nodes.security_group_id,
        type="INGRESS",
        description="The gateway's load balancer",
        protocol="TCP",
        cidr="0.0.0.0/0",
        start_port=port,
        end_port=port,
        opts=pulumi.ResourceOptions(parent=opts.parent),
    )
    k8s.core.v1.Service(
        f"{prefix}-service",
        metadata={"name": _NAME, "namespace": NAMESPACE, "labels": pod.labels},
        spec={
            "selector": pod.selected,
            "ports": [{"name": "agents", "port": GATEWAY_PORT, "target_port": "agents", "protocol": "TCP"}],
        },
        opts=opts,
    )


def _after(*resources: pulumi.Resource) -> pulumi.ResourceOptions:
    return pulumi.ResourceOptions(depends_on=list(resources))
