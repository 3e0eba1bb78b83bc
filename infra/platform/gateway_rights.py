"""What the gateway may see and do in the cluster: find agents, start their machines, and nothing else."""

from collections.abc import Sequence

import pulumi
import pulumi_kubernetes as k8s

_NAME = "gateway"
_WATCH = ("list", "watch")
_EVERYWHERE: Sequence[tuple[str, Sequence[str], Sequence[str]]] = (
    ("kubevirt.io", ("virtualmachines", "virtualmachineinstances"), _WATCH),
    ("", ("pods",), _WATCH),
    ("subresources.kubevirt.io", ("virtualmachines/start",), ("update",)),
    # Whose a token is that an agent shows.
    ("authentication.k8s.io", ("tokenreviews",), ("create",)),
    ("", ("events",), ("create",)),
)
_AT_HOME: Sequence[tuple[str, Sequence[str], Sequence[str]]] = (
    # Tenants' routes.
    ("", ("configmaps",), ("get", *_WATCH)),
)


def gateway_rights(prefix: str, namespace: str, opts: pulumi.ResourceOptions) -> list[pulumi.Resource]:
    """Declare the rights of the account `gateway` in `namespace`."""
    subjects: list[k8s.rbac.v1.SubjectArgsDict] = [
        {"kind": "ServiceAccount", "name": _NAME, "namespace": namespace}
    ]
    everywhere = k8s.rbac.v1.ClusterRole(
        f"{prefix}-role", metadata={"name": _NAME}, rules=_rules(_EVERYWHERE), opts=opts
    )
    at_home = k8s.rbac.v1.Role(
        f"{prefix}-routes-role",
        metadata={"name": _NAME, "namespace": namespace},
        rules=_rules(_AT_HOME),
        opts=opts,
    )
    return [
        k8s.rbac.v1.ClusterRoleBinding(
            f"{prefix}-binding",
            metadata={"name": _NAME},
            role_ref={"api_group": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": _NAME},
            subjects=subjects,
            opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[everywhere])),
        ),
        k8s.rbac.v1.RoleBinding(
            f"{prefix}-routes-binding",
            metadata={"name": _NAME, "namespace": namespace},
            role_ref={"api_group": "rbac.authorization.k8s.io", "kind": "Role", "name": _NAME},
            subjects=subjects,
            opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[at_home])),
        ),
    ]


def _rules(
    rights: Sequence[tuple[str, Sequence[str], Sequence[str]]],
) -> list[k8s.rbac.v1.PolicyRuleArgsDict]:
    return [
        {"api_groups": [group], "resources": resources, "verbs": verbs} for group, resources, verbs in rights
    ]
