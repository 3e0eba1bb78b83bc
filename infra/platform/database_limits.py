"""Tenants' limits in PostgreSQL: a CronJob that holds each to its own, once a minute (docs/decisions/0068).

It runs in the idle suspender's image, and may call one function in one database.
"""

import pulumi
import pulumi_kubernetes as k8s

from infra.platform.database import LIMITS, Database
from infra.platform.network_policies import TO_DNS, declare_network, to
from infra.platform.service_pods import EACH_MINUTE, ServicePod, from_secret, scheduled

_NAME = "database-limits"
_FOLDER = "/etc/postgresql"


def database_limits(
    prefix: str,
    namespace: str,
    image: str,
    database: Database,
    opts: pulumi.ResourceOptions,
) -> None:
    """Declare the CronJob in `namespace`, its account without any right, its password, and its ways out."""
    pod = ServicePod(
        name=_NAME,
        image=image,
        module="services.database_limits",
        requests={"cpu": "50m", "memory": "64Mi"},
        memory_limit="128Mi",
    )
    metadata: k8s.meta.v1.ObjectMetaArgsDict = {"name": _NAME, "namespace": namespace, "labels": pod.labels}
    before = [
        k8s.core.v1.ServiceAccount(
            prefix, metadata=metadata, automount_service_account_token=False, opts=opts
        ),
        k8s.core.v1.Secret(
            f"{prefix}-password",
            metadata=metadata,
            string_data=database.files(database.limits_password),
            opts=opts,
        ),
        *declare_network(
            prefix,
            namespace,
            [TO_DNS, to("to-database", database.destination)],
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
            environment=database.environment(LIMITS, _FOLDER),
            files={_FOLDER: from_secret(_NAME)},
        ),
        EACH_MINUTE,
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=before)),
    )
