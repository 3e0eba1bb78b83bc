"""The rights of the program on the cluster when it saves, moves and removes a tenant.

It enters as a member of a group of its own, with a kubeconfig that it draws for an hour
(`infra/tenants/clients.py`).
"""

import pulumi
import pulumi_kubernetes as k8s

from infra.platform import gateway

GROUP = "agent-platform:registrar"
_NAME = "registrar"


def registrar_rights(prefix: str, opts: pulumi.ResourceOptions) -> None:
    """Declare that the group finds whatever is left of a tenant anywhere, and has volumes saved or moved."""
    group = k8s.rbac.v1.SubjectArgs(api_group="rbac.authorization.k8s.io", kind="Group", name=GROUP)
    look = ["get", "list"]
    rules = [
        (
            [""],
            ["namespaces", "nodes", "persistentvolumes", "persistentvolumeclaims", "pods", "services"],
            look,
        ),
        (["kubevirt.io"], ["virtualmachines", "virtualmachineinstances"], look),
        # For the handover of a workspace, which runs the machine of a tenant that moves.
        (["subresources.kubevirt.io"], ["virtualmachines/start", "virtualmachines/stop"], ["update"]),
        (["longhorn.io"], ["volumes"], look),
        (["longhorn.io"], ["snapshots", "backups"], [*look, "create"]),
    ]
    role = k8s.rbac.v1.ClusterRole(
        f"{prefix}-role",
        metadata=k8s.meta.v1.ObjectMetaArgs(name=_NAME),
        rules=[
            k8s.rbac.v1.PolicyRuleArgs(api_groups=groups, resources=resources, verbs=verbs)
            for groups, resources, verbs in rules
        ],
        opts=opts,
    )
    k8s.rbac.v1.ClusterRoleBinding(
        f"{prefix}-binding",
        metadata=k8s.meta.v1.ObjectMetaArgs(name=_NAME),
        role_ref=k8s.rbac.v1.RoleRefArgs(
            api_group="rbac.authorization.k8s.io", kind="ClusterRole", name=_NAME
        ),
        subjects=[group],
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[role])),
    )
    # Of ConfigMaps, tenants' routes alone: what other namespaces keep in theirs is none of its business.
    own = k8s.rbac.v1.Role(
        f"{prefix}-routes",
        metadata=k8s.meta.v1.ObjectMetaArgs(name=_NAME, namespace=gateway.NAMESPACE),
        rules=[k8s.rbac.v1.PolicyRuleArgs(api_groups=[""], resources=["configmaps"], verbs=look)],
        opts=opts,
    )
    k8s.rbac.v1.RoleBinding(
        f"{prefix}-routes-binding",
        metadata=k8s.meta.v1.ObjectMetaArgs(name=_NAME, namespace=gateway.NAMESPACE),
        role_ref=k8s.rbac.v1.RoleRefArgs(api_group="rbac.authorization.k8s.io", kind="Role", name=_NAME),
        subjects=[group],
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[own])),
    )
