"""The record of the last drill, and an account that may write that and nothing else.

A drill runs elsewhere, on a platform of its own; its workflow writes the outcome here for the exporter.
"""

import pulumi
import pulumi_kubernetes as k8s

from infra.platform.gateway import NAMESPACE

_RECORD = "last-drill"
_WRITER = "drill"
_LABEL = "agent-platform/drill"
"""By it the exporter finds the record (services/exporter/drills.py)."""


def declare_drill_record(prefix: str, opts: pulumi.ResourceOptions) -> None:
    """Declare the record, where the exporter reads ConfigMaps, and whoever writes it."""
    k8s.core.v1.ConfigMap(
        f"{prefix}-record",
        metadata={"name": _RECORD, "namespace": NAMESPACE, "labels": {_LABEL: "last"}},
        # The contents are the drill's.
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(ignore_changes=["data"])),
    )
    metadata: k8s.meta.v1.ObjectMetaArgsDict = {"name": _WRITER, "namespace": NAMESPACE}
    account = k8s.core.v1.ServiceAccount(
        f"{prefix}-account", metadata=metadata, automount_service_account_token=False, opts=opts
    )
    role = k8s.rbac.v1.Role(
        f"{prefix}-role",
        metadata=metadata,
        rules=[
            {
                "api_groups": [""],
                "resources": ["configmaps"],
                "resource_names": [_RECORD],
                "verbs": ["get", "patch"],
            }
        ],
        opts=opts,
    )
    after = pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[account, role]))
    k8s.rbac.v1.RoleBinding(
        f"{prefix}-binding",
        metadata=metadata,
        role_ref={"api_group": "rbac.authorization.k8s.io", "kind": "Role", "name": _WRITER},
        subjects=[{"kind": "ServiceAccount", "name": _WRITER, "namespace": NAMESPACE}],
        opts=after,
    )
    k8s.core.v1.Secret(
        f"{prefix}-token",
        metadata={**metadata, "annotations": {"kubernetes.io/service-account.name": _WRITER}},
        type="kubernetes.io/service-account-token",
        opts=after,
    )
