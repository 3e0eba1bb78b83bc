"""Idle suspension: a CronJob that stops machines nobody uses, once a minute, and all that it may do."""

import pulumi
import pulumi_kubernetes as k8s

from infra.platform.network_policies import TO_DNS, TO_KUBERNETES, declare_network, to
from infra.platform.redis import Redis, Users
from infra.platform.service_pods import EACH_MINUTE, ServicePod, redis_credentials, scheduled

_NAME = "idle-suspender"


def idle_suspender(
    prefix: str, namespace: str, image: str, redis: Redis, users: Users, opts: pulumi.ResourceOptions
) -> None:
    """Declare the CronJob in `namespace`, its account, its rights, and its ways out.

    It stops machines through KubeVirt's `stop` subresource, so that no right to change one is needed.
    """
    pod = ServicePod(
        name=_NAME,
        image=image,
        module="services.idle_suspender",
        requests={"cpu": "100m", "memory": "128Mi"},
        memory_limit="256Mi",
    )
    account = k8s.core.v1.ServiceAccount(
        prefix,
        metadata={"name": _NAME, "namespace": namespace, "labels": pod.labels},
        automount_service_account_token=False,
        opts=opts,
    )
    before = [
        account,
        *_rights(prefix, namespace, pulumi.ResourceOptions.merge(opts, _after(account))),
        *redis_credentials(prefix, pod, namespace, redis, users[_NAME], opts),
        *declare_network(
            prefix,
            namespace,
            [TO_DNS, TO_KUBERNETES, to("to-redis", redis.destination)],
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
        pod.spec(redis, environment={}, files={}, container={}),
        EACH_MINUTE,
        opts=pulumi.ResourceOptions.merge(opts, _after(*before, users[_NAME].ready)),
    )


def _rights(prefix: str, namespace: str, opts: pulumi.ResourceOptions) -> list[pulumi.Resource]:
    """Declare that it sees every tenant's machine, may stop it and says why, and nothing else."""
    role = k8s.rbac.v1.ClusterRole(
        f"{prefix}-role",
        metadata={"name": _NAME},
        rules=[
            {"api_groups": ["kubevirt.io"], "resources": ["virtualmachines"], "verbs": ["list"]},
            {
                "api_groups": ["subresources.kubevirt.io"],
                "resources": ["virtualmachines/stop"],
                "verbs": ["update"],
            },
            {"api_groups": [""], "resources": ["events"], "verbs": ["create"]},
        ],
        opts=opts,
    )
    binding = k8s.rbac.v1.ClusterRoleBinding(
        f"{prefix}-binding",
        metadata={"name": _NAME},
        role_ref={"api_group": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": _NAME},
        subjects=[{"kind": "ServiceAccount", "name": _NAME, "namespace": namespace}],
        opts=pulumi.ResourceOptions.merge(opts, _after(role)),
    )
    return [role, binding]


def _after(*resources: pulumi.Resource) -> pulumi.ResourceOptions:
    return pulumi.ResourceOptions(depends_on=list(resources))
