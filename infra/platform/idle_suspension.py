"""Idle suspension's place: the account of the CronJob that stops machines nobody uses, and all it may do."""

import pulumi
import pulumi_kubernetes as k8s

_NAME = "idle-suspender"


def idle_suspension_place(
    prefix: str, namespace: pulumi.Input[str], opts: pulumi.ResourceOptions
) -> k8s.core.v1.ServiceAccount:
    """Declare the account `idle-suspender`: it sees every tenant's machine and may stop it, nothing else.

    Stopping goes through KubeVirt's `stop` subresource, so that no right to change a machine is needed.
    """
    account = k8s.core.v1.ServiceAccount(
        prefix,
        metadata=k8s.meta.v1.ObjectMetaArgs(name=_NAME, namespace=namespace),
        # The CronJob's pod asks for the token by itself; no other pod gets one unasked.
        automount_service_account_token=False,
        opts=opts,
    )
    role = k8s.rbac.v1.ClusterRole(
        f"{prefix}-role",
        metadata=k8s.meta.v1.ObjectMetaArgs(name=_NAME),
        rules=[
            k8s.rbac.v1.PolicyRuleArgs(
                api_groups=["kubevirt.io"],
                resources=["virtualmachines", "virtualmachineinstances"],
                verbs=["get", "list"],
            ),
            k8s.rbac.v1.PolicyRuleArgs(
                api_groups=["subresources.kubevirt.io"],
                resources=["virtualmachines/stop"],
                verbs=["update"],
            ),
        ],
        opts=opts,
    )
    k8s.rbac.v1.ClusterRoleBinding(
        f"{prefix}-binding",
        metadata=k8s.meta.v1.ObjectMetaArgs(name=_NAME),
        role_ref=k8s.rbac.v1.RoleRefArgs(
            api_group="rbac.authorization.k8s.io", kind="ClusterRole", name=_NAME
        ),
        subjects=[k8s.rbac.v1.SubjectArgs(kind="ServiceAccount", name=_NAME, namespace=namespace)],
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[role, account])),
    )
    return account
