"""The logs' retention: a CronJob that deletes at night what is over (docs/decisions/0077).

SOS deletes nothing by itself. It runs in the gateway's image, as it reads tenants' ConfigMaps.
"""

import json

import pulumi
import pulumi_kubernetes as k8s

from infra.cluster.object_storage import LISTING, ObjectStorage
from infra.platform import gateway, vault
from infra.platform.logs import PLATFORM, TENANT
from infra.platform.network_policies import NOT_PUBLIC, TO_DNS, TO_KUBERNETES, declare_network, to, url_at
from infra.platform.service_pods import Schedule, ServicePod, from_secret, kubernetes_files, scheduled
from infra.platform.storage_keys import (
    CREDENTIALS_FOLDER,
    below,
    storage_credentials,
    storage_environment,
    storage_key,
)

NAME = "log-retention"
PLATFORM_DAYS = 90
"""For how long the platform's own logs are kept."""
NAMESPACE_DAYS = {vault.NAMESPACE: 365}
"""For how long those of a namespace are, where it is longer: Vault's log is its audit log, too."""
_RECEIPTS = "receipts/"
_DELETING = ("delete-object", "abort-multipart-upload")
"""Its key neither reads nor writes."""
_NIGHTLY = Schedule(cron="20 1 * * *", deadline_seconds=4 * 3600)


def declare_log_retention(
    prefix: str,
    namespace: str,
    image: str,
    *,
    cluster_name: str,
    storage: ObjectStorage,
    opts: pulumi.ResourceOptions,
) -> None:
    """Declare the CronJob in `namespace`, its account, its key, its rights, and its ways out."""
    pod = ServicePod(
        name=NAME,
        image=image,
        module="services.log_retention",
        requests={"cpu": "50m", "memory": "96Mi"},
        memory_limit="256Mi",
    )
    metadata: k8s.meta.v1.ObjectMetaArgsDict = {"name": NAME, "namespace": namespace, "labels": pod.labels}
    account = k8s.core.v1.ServiceAccount(
        prefix, metadata=metadata, automount_service_account_token=False, opts=opts
    )
    key = storage_key(
        f"{prefix}-storage",
        f"{cluster_name}-{NAME}",
        "Deletes old logs",
        [
            *(below(LISTING, storage.logs, "prefix", start) for start in (TENANT, PLATFORM, _RECEIPTS)),
            *(below(_DELETING, storage.logs, "key", start) for start in (TENANT, PLATFORM)),
        ],
        pulumi.ResourceOptions(parent=opts.parent),
    )
    before = [
        account,
        *_rights(prefix, namespace, pulumi.ResourceOptions.merge(opts, _after(account))),
        k8s.core.v1.Secret(
            f"{prefix}-secret", metadata=metadata, string_data=storage_credentials(key), opts=opts
        ),
        *declare_network(
            prefix,
            namespace,
            [
                TO_DNS,
                TO_KUBERNETES,
                to("to-object-storage", url_at(storage.endpoint, never=NOT_PUBLIC)),
            ],
            agents=pod.selected,
            labels=pod.labels,
            opts=opts,
            among_others=True,
        ),
    ]
    scheduled(
        f"{prefix}-job",
        namespace,
        pod,
        pod.bare(
            environment={
                "GATEWAY_NAMESPACE": gateway.NAMESPACE,
                "PLATFORM_DAYS": str(PLATFORM_DAYS),
                "NAMESPACE_DAYS": json.dumps(NAMESPACE_DAYS),
                **storage_environment(storage, storage.logs),
            },
            files={**kubernetes_files(), CREDENTIALS_FOLDER: from_secret(NAME)},
        ),
        _NIGHTLY,
        opts=pulumi.ResourceOptions.merge(opts, _after(*before)),
    )


def _rights(prefix: str, namespace: str, opts: pulumi.ResourceOptions) -> list[pulumi.Resource]:
    """Declare that it sees tenants' ConfigMaps, and nothing else."""
    metadata: k8s.meta.v1.ObjectMetaArgsDict = {"name": NAME, "namespace": gateway.NAMESPACE}
    role = k8s.rbac.v1.Role(
        f"{prefix}-role",
        metadata=metadata,
        rules=[{"api_groups": [""], "resources": ["configmaps"], "verbs": ["list"]}],
        opts=opts,
    )
    binding = k8s.rbac.v1.RoleBinding(
        f"{prefix}-binding",
        metadata=metadata,
        role_ref={"api_group": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME},
        subjects=[{"kind": "ServiceAccount", "name": NAME, "namespace": namespace}],
        opts=pulumi.ResourceOptions.merge(opts, _after(role)),
    )
    return [role, binding]


def _after(*resources: pulumi.Resource) -> pulumi.ResourceOptions:
    return pulumi.ResourceOptions(depends_on=list(resources))
