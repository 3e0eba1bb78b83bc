"""Longhorn: the tenants' volumes, their snapshots and their backups.

<https://longhorn.io/docs/1.12.0/references/storage-class-parameters/>,
<https://longhorn.io/docs/1.12.0/snapshots-and-backups/scheduling-backups-and-snapshots/>
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s

from infra.cluster.object_storage import ObjectStorage
from infra.platform import charts
from infra.platform.namespaces import namespace
from infra.platform.storage_keys import backup_key
from infra.platform.tenant_nodes import TENANT_TAINT, TOLERATION

NAMESPACE = "longhorn-system"
REPLICAS = 3
"""How many nodes keep each volume."""
_GROUP = "workspace"
_BACKUP_SECRET = "longhorn-backup"  # noqa: S105 — a name, not a secret


@dataclass(frozen=True, kw_only=True)
class StorageClasses:
    """The classes a workspace can be of.

    Plain names: Kubernetes cannot change a class in place, and when one is replaced, the engine would replace
    every volume that took its name from it.
    """

    workspace: str
    """Of volumes made before all were encrypted."""
    encrypted: str
    """Each volume under its own key: the Secret in the volume's namespace that has the claim's name."""
    declared: list[pulumi.Resource]
    """What a volume has to wait for."""


def install_longhorn(
    prefix: str, stack_name: str, storage: ObjectStorage, opts: pulumi.ResourceOptions
) -> pulumi.Resource:
    """Install Longhorn and point it at the backups bucket.

    Returns:
        What a volume has to wait for.
    """
    home = namespace(f"{prefix}-namespace", NAMESPACE, "privileged", opts)
    key = backup_key(prefix, "longhorn", storage.backups, stack_name, opts)
    credentials = k8s.core.v1.Secret(
        f"{prefix}-backup",
        metadata=k8s.meta.v1.ObjectMetaArgs(name=_BACKUP_SECRET, namespace=home.metadata.name),
        string_data={
            "AWS_ACCESS_KEY_ID": key.access_key,
            "AWS_SECRET_ACCESS_KEY": key.secret_key,
            "AWS_ENDPOINTS": storage.endpoint,
        },
        opts=opts,
    )
    return charts.install(
        prefix,
        charts.LONGHORN,
        release="longhorn",
        namespace=home.metadata.name,
        values={
            "persistence": {"defaultClass": False},
            # A tenant's nodes hold no volume, yet have to open its own.
            "longhornManager": {"tolerations": [TOLERATION]},
            "longhornDriver": {"tolerations": [TOLERATION]},
            "defaultBackupStore": {
                # No lifecycle rules on this bucket: Longhorn's blocks are shared between backups.
                "backupTarget": pulumi.Output.concat("s3://", storage.backups, f"@{storage.region}/longhorn"),
                "backupTargetCredentialSecret": _BACKUP_SECRET,
            },
            "defaultSettings": {
                # A sleeping tenant's volume is detached; without this it would never be backed up.
                "allowRecurringJobWhileVolumeDetached": True,
                # Only on the stack's own node pools: nobody else's data comes to lie on a tenant's nodes.
                "createDefaultDiskLabeledNodes": True,
                "taintToleration": f"{TENANT_TAINT}:NoSchedule",
                "replicaSoftAntiAffinity": False,
                "upgradeChecker": False,
                "allowCollectingLonghornUsageMetrics": False,
            },
        },
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[credentials])),
    )


def workspace_classes(prefix: str, nodes: int, opts: pulumi.ResourceOptions) -> StorageClasses:
    """Declare the storage classes and what is done to their volumes by the clock."""
    _recurring_job(prefix, "snapshot", cron="0 */6 * * *", retain=8, opts=opts)
    _recurring_job(prefix, "backup", cron="30 1 * * *", retain=30, opts=opts)
    _recurring_job(prefix, "filesystem-trim", cron="0 4 * * 0", retain=0, opts=opts)
    plain = {
        # One replica a node, if there are as many nodes.
        "numberOfReplicas": str(min(nodes, REPLICAS)),
        "staleReplicaTimeout": "2880",
        "dataLocality": "best-effort",
        # Two nodes may have it at once while a machine moves; encrypted ones, too, from Longhorn 1.12 on.
        "migratable": "true",
        "recurringJobSelector": json.dumps([{"name": _GROUP, "isGroup": True}]),
    }
    own_key = {"encrypted": "true"}
    for step in ("provisioner", "node-publish", "node-stage", "node-expand"):
        own_key[f"csi.storage.k8s.io/{step}-secret-name"] = "${pvc.name}"
        own_key[f"csi.storage.k8s.io/{step}-secret-namespace"] = "${pvc.namespace}"
    classes = {"workspace": plain, "workspace-encrypted": {**plain, **own_key}}
    workspace, encrypted = classes
    return StorageClasses(
        workspace=workspace,
        encrypted=encrypted,
        declared=[_storage_class(prefix, name, parameters, opts) for name, parameters in classes.items()],
    )


def _storage_class(
    prefix: str, name: str, parameters: Mapping[str, str], opts: pulumi.ResourceOptions
) -> pulumi.Resource:
    """Declare a class whose volumes grow on demand and go when their claim goes."""
    return k8s.storage.v1.StorageClass(
        f"{prefix}-{name}",
        metadata=k8s.meta.v1.ObjectMetaArgs(name=name),
        provisioner="driver.longhorn.io",
        parameters=parameters,
        allow_volume_expansion=True,
        # A tenant that is removed leaves nothing behind; before that there are the backups.
        reclaim_policy="Delete",
        volume_binding_mode="WaitForFirstConsumer",
        opts=opts,
    )


def _recurring_job(prefix: str, task: str, *, cron: str, retain: int, opts: pulumi.ResourceOptions) -> None:
    """Declare what Longhorn does to every workspace by the clock (UTC), keeping the last `retain` results."""
    name = f"{_GROUP}-{task}"
    k8s.apiextensions.CustomResource(
        f"{prefix}-{name}",
        api_version="longhorn.io/v1beta2",
        kind="RecurringJob",
        metadata={"name": name, "namespace": NAMESPACE},
        spec={
            "name": name,
            "task": task,
            "groups": [_GROUP],
            "cron": cron,
            "retain": retain,
            "concurrency": 2,
            "labels": {},
        },
        opts=opts,
    )
