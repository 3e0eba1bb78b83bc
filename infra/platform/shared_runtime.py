"""The runtime in which the agents of all tenants run that have none of their own.

Its account logs in nowhere. With each request the gateway gives it a word for Vault, which lets it in as that
request's tenant, while the tenant is active and the request is in flight, and gives it that tenant's secrets
and logins and no others. Between the tenants whose requests it has at a time stands the runtime's own code
and no boundary of the system's, which is what their tier says.
"""

from typing import TYPE_CHECKING

import pulumi
import pulumi_kubernetes as k8s

from infra.platform.agent_pods import (
    AUTHORITY,
    DATABASE_AUTHORITY,
    FOLDER,
    GATEWAY_AUTHORITY,
    SCRATCH_GIB,
    AgentPod,
)
from infra.platform.database import Database
from infra.platform.limits import at_most, declare_limits
from infra.platform.namespaces import namespace
from infra.platform.network_policies import TO_GATEWAY, Opening, declare_network
from infra.platform.service_pods import on_different_nodes
from infra.platform.vault import Vault

if TYPE_CHECKING:
    from infra.platform.gateway import Gateway

NAMESPACE = "runtime"
SERVICE_ACCOUNT = "agent-runtime"
_NAME = "agent-runtime"
SELECTED = {"app.kubernetes.io/name": _NAME}
_MARKED = {**SELECTED, "app.kubernetes.io/part-of": "agent-platform"}
_REPLICAS = 2
_CPU = 1
_MEMORY_GIB = 4


def shared_runtime(
    prefix: str,
    image: str,
    vault: Vault,
    gateway: "Gateway",
    database: Database,
    openings: list[Opening],
    opts: pulumi.ResourceOptions,
) -> None:
    """Declare the namespace `runtime`, closed but for `openings`, and its pods, each on another node."""
    home = namespace(f"{prefix}-namespace", NAMESPACE, "restricted", opts)
    inside = pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[home]))
    guards = [
        *declare_network(
            prefix, NAMESPACE, [*openings, TO_GATEWAY], agents=SELECTED, labels=_MARKED, opts=inside
        ),
        *declare_limits(
            prefix,
            NAMESPACE,
            hard=_hard(),
            limits=[at_most(str(_CPU), f"{_MEMORY_GIB}Gi")],
            labels=_MARKED,
            opts=inside,
        ),
    ]
    account = k8s.core.v1.ServiceAccount(
        prefix,
        metadata={"name": SERVICE_ACCOUNT, "namespace": NAMESPACE, "labels": _MARKED},
        automount_service_account_token=False,
        opts=inside,
    )
    configuration = k8s.core.v1.ConfigMap(
        f"{prefix}-configuration",
        metadata={"name": _NAME, "namespace": NAMESPACE, "labels": _MARKED},
        data={
            **({AUTHORITY: vault.authority} if vault.authority else {}),
            **({GATEWAY_AUTHORITY: gateway.authority} if gateway.authority else {}),
            **({DATABASE_AUTHORITY: database.authority} if database.authority is not None else {}),
        },
        opts=inside,
    )
    pod = AgentPod(
        image=image,
        service_account=SERVICE_ACCOUNT,
        configuration=_NAME,
        cpu=_CPU,
        memory_gib=_MEMORY_GIB,
        logs_in=False,
        environment={
            "DATABASE_URL": database.url(f"{FOLDER}/{DATABASE_AUTHORITY}"),
            "GATEWAY_ADDR": gateway.agents_address,
            **({"GATEWAY_CACERT": f"{FOLDER}/{GATEWAY_AUTHORITY}"} if gateway.authority else {}),
        },
    )
    k8s.apps.v1.Deployment(
        f"{prefix}-deployment",
        metadata={"name": _NAME, "namespace": NAMESPACE, "labels": _MARKED},
        spec={
            "replicas": _REPLICAS,
            "revision_history_limit": 2,
            # One after the other, each in its predecessor's place: no node is needed that has none of them.
            "strategy": {
                "type": "RollingUpdate",
                "rolling_update": {"max_surge": 0, "max_unavailable": 1},
            },
            "selector": {"match_labels": SELECTED},
            "template": {
                "metadata": {"labels": _MARKED},
                "spec": {**pod.spec(vault), "affinity": on_different_nodes(SELECTED)},
            },
        },
        opts=pulumi.ResourceOptions.merge(
            inside, pulumi.ResourceOptions(depends_on=[*guards, account, configuration])
        ),
    )


def _hard() -> dict[str, str]:
    """All replicas, and room for one that is still of a larger size while an update makes them smaller."""
    pods = _REPLICAS + 1
    amounts = {
        "cpu": str(pods * _CPU),
        "memory": f"{pods * _MEMORY_GIB}Gi",
        "ephemeral-storage": f"{pods * SCRATCH_GIB}Gi",
    }
    return {
        **{f"{kind}.{name}": amount for kind in ("requests", "limits") for name, amount in amounts.items()},
        "pods": str(pods),
        "count/deployments.apps": "1",
    }
