"""The exporter: a small Deployment that tells Prometheus of tenants what nothing else does."""

import pulumi
import pulumi_kubernetes as k8s

from infra.platform import database as postgresql
from infra.platform.monitoring.scraping import HEALTH_PORT
from infra.platform.network_policies import (
    MONITORING,
    TO_DNS,
    TO_KUBERNETES,
    Opening,
    declare_network,
    to,
)
from infra.platform.redis import Redis, Users
from infra.platform.service_pods import ServicePod, from_field, from_secret, probe, redis_credentials

_NAME = "exporter"
_ROUTES = "gateway"
"""The namespace with the ConfigMaps of tenants."""
_LONGHORN = "longhorn-system"
_POSTGRESQL = "/etc/postgresql"


def declare_exporter(
    prefix: str,
    namespace: str,
    image: str,
    *,
    redis: Redis,
    users: Users,
    database: postgresql.Database,
    opts: pulumi.ResourceOptions,
) -> None:
    """Declare the Deployment in `namespace`, its rights to read, its credentials, and its ways in and out."""
    pod = ServicePod(
        name=_NAME,
        image=image,
        module="services.exporter",
        requests={"cpu": "50m", "memory": "96Mi"},
        memory_limit="256Mi",
    )
    metadata: k8s.meta.v1.ObjectMetaArgsDict = {"name": _NAME, "namespace": namespace, "labels": pod.labels}
    account = k8s.core.v1.ServiceAccount(
        prefix, metadata=metadata, automount_service_account_token=False, opts=opts
    )
    before = [
        account,
        *_rights(prefix, namespace, pulumi.ResourceOptions.merge(opts, _after(account))),
        *redis_credentials(prefix, pod, namespace, redis, users[_NAME], opts),
        k8s.core.v1.Secret(
            f"{prefix}-postgresql",
            metadata={**metadata, "name": f"{_NAME}-postgresql"},
            string_data=database.files(database.monitoring_password),
            opts=opts,
        ),
        *declare_network(
            prefix,
            namespace,
            _openings(redis, database),
            agents=pod.selected,
            labels=pod.labels,
            opts=opts,
            among_others=True,
        ),
        users[_NAME].ready,
    ]
    k8s.apps.v1.Deployment(
        f"{prefix}-deployment",
        metadata=metadata,
        spec={
            "replicas": 1,
            "revision_history_limit": 2,
            "selector": {"match_labels": pod.selected},
            "template": {
                "metadata": {"labels": pod.labels},
                "spec": pod.spec(
                    redis,
                    environment={
                        "ROUTES_NAMESPACE": _ROUTES,
                        **database.environment(postgresql.MONITORING, _POSTGRESQL),
                    },
                    files={_POSTGRESQL: from_secret(f"{_NAME}-postgresql")},
                    container={
                        "env": [from_field("POD_IP", "status.podIP")],
                        "ports": [{"name": "health", "container_port": HEALTH_PORT}],
                        "liveness_probe": probe("/livez"),
                        "readiness_probe": probe("/readyz"),
                    },
                ),
            },
        },
        opts=pulumi.ResourceOptions.merge(opts, _after(*before)),
    )


def _openings(redis: Redis, database: postgresql.Database) -> list[Opening]:
    return [
        Opening(
            name="from-monitoring",
            direction="ingress",
            peers=[MONITORING],
            ports=[("TCP", HEALTH_PORT)],
        ),
        TO_DNS,
        TO_KUBERNETES,
        to("to-redis", redis.destination),
        to("to-database", database.destination),
    ]


def _rights(prefix: str, namespace: str, opts: pulumi.ResourceOptions) -> list[pulumi.Resource]:
    """Declare that it reads tenants' ConfigMaps and Longhorn's backups, and nothing else."""
    declared: list[pulumi.Resource] = []
    for where, group, resource in (
        (_ROUTES, "", "configmaps"),
        (_LONGHORN, "longhorn.io", "backups"),
    ):
        metadata: k8s.meta.v1.ObjectMetaArgsDict = {"name": _NAME, "namespace": where}
        role = k8s.rbac.v1.Role(
            f"{prefix}-{resource}-role",
            metadata=metadata,
            rules=[{"api_groups": [group], "resources": [resource], "verbs": ["list", "watch"]}],
            opts=opts,
        )
        declared.append(
            k8s.rbac.v1.RoleBinding(
                f"{prefix}-{resource}-binding",
                metadata=metadata,
                role_ref={"api_group": "rbac.authorization.k8s.io", "kind": "Role", "name": _NAME},
                subjects=[{"kind": "ServiceAccount", "name": _NAME, "namespace": namespace}],
                opts=pulumi.ResourceOptions.merge(opts, _after(role)),
            )
        )
    return declared


def _after(*resources: pulumi.Resource) -> pulumi.ResourceOptions:
    return pulumi.ResourceOptions(depends_on=list(resources))
