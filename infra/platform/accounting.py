"""The accounting: a small Deployment that keeps the ledger of what tenants use (docs/decisions/0075)."""

import pulumi
import pulumi_kubernetes as k8s

from infra.cluster.object_storage import LISTING, ObjectStorage
from infra.platform import database as postgresql
from infra.platform.monitoring.scraping import HEALTH_PORT
from infra.platform.network_policies import (
    MONITORING,
    NOT_PUBLIC,
    TO_DNS,
    TO_KUBERNETES,
    Opening,
    declare_network,
    pods_at,
    to,
    url_at,
)
from infra.platform.redis import Redis, Users
from infra.platform.service_pods import ServicePod, from_field, from_secret, probe, redis_credentials
from infra.platform.storage_keys import (
    CREDENTIALS_FOLDER,
    StorageKey,
    below,
    storage_credentials,
    storage_environment,
    storage_key,
)

_NAME = "accounting"
_GATEWAY = "gateway"
"""The namespace of the gateways and of the ConfigMaps of tenants."""
_LONGHORN = "longhorn-system"
_POSTGRESQL = "/etc/postgresql"


def declare_accounting(
    prefix: str,
    namespace: str,
    image: str,
    *,
    cluster_name: str,
    redis: Redis,
    users: Users,
    database: postgresql.Database,
    storage: ObjectStorage,
    opts: pulumi.ResourceOptions,
) -> None:
    """Declare the Deployment in `namespace`, its rights to read, its credentials, and its ways in and out."""
    pod = ServicePod(
        name=_NAME,
        image=image,
        module="services.accounting",
        requests={"cpu": "50m", "memory": "128Mi"},
        memory_limit="384Mi",
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
            string_data=database.files(database.accounting_password),
            opts=opts,
        ),
        k8s.core.v1.Secret(
            f"{prefix}-storage",
            metadata={**metadata, "name": f"{_NAME}-storage"},
            string_data=storage_credentials(_listing_key(prefix, cluster_name, storage, opts)),
            opts=opts,
        ),
        *declare_network(
            prefix,
            namespace,
            _openings(redis, database, storage),
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
            # Two would count nothing twice, but each would ask everybody.
            "strategy": {"type": "Recreate"},
            "revision_history_limit": 2,
            "selector": {"match_labels": pod.selected},
            "template": {
                "metadata": {"labels": pod.labels},
                "spec": pod.spec(
                    redis,
                    environment={
                        "GATEWAY_NAMESPACE": _GATEWAY,
                        **storage_environment(storage, storage.artifacts),
                        **database.environment(postgresql.ACCOUNTING, _POSTGRESQL),
                    },
                    files={
                        _POSTGRESQL: from_secret(f"{_NAME}-postgresql"),
                        CREDENTIALS_FOLDER: from_secret(f"{_NAME}-storage"),
                    },
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


def _listing_key(
    prefix: str, cluster_name: str, storage: ObjectStorage, opts: pulumi.ResourceOptions
) -> StorageKey:
    """Declare a key that lists tenants' objects and reads none."""
    return storage_key(
        f"{prefix}-storage",
        f"{cluster_name}-{_NAME}",
        "Measures tenants' objects",
        [below(LISTING, storage.artifacts, "prefix", "tenant_")],
        pulumi.ResourceOptions(parent=opts.parent),
    )


def _openings(redis: Redis, database: postgresql.Database, storage: ObjectStorage) -> list[Opening]:
    gateways = pods_at(_GATEWAY, {"app.kubernetes.io/name": _GATEWAY}, HEALTH_PORT)
    return [
        Opening(
            name="from-monitoring", direction="ingress", peers=[MONITORING], ports=[("TCP", HEALTH_PORT)]
        ),
        TO_DNS,
        TO_KUBERNETES,
        to("to-gateways", gateways),
        to("to-redis", redis.destination),
        to("to-database", database.destination),
        to("to-object-storage", url_at(storage.endpoint, never=NOT_PUBLIC)),
    ]


def _rights(prefix: str, namespace: str, opts: pulumi.ResourceOptions) -> list[pulumi.Resource]:
    """Declare that it sees tenants, machines, gateways and the sizes of backups, and changes nothing."""
    subjects: list[k8s.rbac.v1.SubjectArgsDict] = [
        {"kind": "ServiceAccount", "name": _NAME, "namespace": namespace}
    ]
    machines = k8s.rbac.v1.ClusterRole(
        f"{prefix}-machines-role",
        metadata={"name": _NAME},
        rules=[{"api_groups": ["kubevirt.io"], "resources": ["virtualmachines"], "verbs": ["list", "watch"]}],
        opts=opts,
    )
    declared: list[pulumi.Resource] = [
        k8s.rbac.v1.ClusterRoleBinding(
            f"{prefix}-machines-binding",
            metadata={"name": _NAME},
            role_ref={"api_group": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": _NAME},
            subjects=subjects,
            opts=pulumi.ResourceOptions.merge(opts, _after(machines)),
        )
    ]
    for where, group, resources in (
        (_GATEWAY, "", ["configmaps", "pods"]),
        (_LONGHORN, "longhorn.io", ["backupvolumes"]),
    ):
        metadata: k8s.meta.v1.ObjectMetaArgsDict = {"name": _NAME, "namespace": where}
        role = k8s.rbac.v1.Role(
            f"{prefix}-{where}-role",
            metadata=metadata,
            rules=[{"api_groups": [group], "resources": resources, "verbs": ["list", "watch"]}],
            opts=opts,
        )
        declared.append(
            k8s.rbac.v1.RoleBinding(
                f"{prefix}-{where}-binding",
                metadata=metadata,
                role_ref={"api_group": "rbac.authorization.k8s.io", "kind": "Role", "name": _NAME},
                subjects=subjects,
                opts=pulumi.ResourceOptions.merge(opts, _after(role)),
            )
        )
    return declared


def _after(*resources: pulumi.Resource) -> pulumi.ResourceOptions:
    return pulumi.ResourceOptions(depends_on=list(resources))
