"""What the program may see and do on the cluster when it saves and removes a tenant, and no more.

It enters as a member of a group of its own, with a kubeconfig that it draws for an hour
(`infra/tenants/clients.py`).
"""

import pulumi
import pulumi_kubernetes as k8s

GROUP = "agent-platform:registrar"
_NAME = "registrar"


def registrar_rights(prefix: str, opts: pulumi.ResourceOptions) -> None:
    """Declare that the group finds whatever is left of a tenant anywhere, and has volumes backed up."""
    look = ["get", "list"]
    rules = [
        (
            [""],
            ["namespaces", "nodes", "persistentvolumes", "persistentvolumeclaims", "pods", "services"],
            look,
        ),
        (["kubevirt.io"], ["virtualmachines", "virtualmachineinstances"], look),
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
        subjects=[k8s.rbac.v1.SubjectArgs(api_group="rbac.authorization.k8s.io", kind="Group", name=GROUP)],
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[role])),
    )
