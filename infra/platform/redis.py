"""The store of activity, spoken to in the Redis protocol: keys `activity:TENANT`.

Managed: Valkey, from the project's own chart, <https://github.com/valkey-io/valkey-helm/tree/main/valkey>.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s

from infra.platform import charts
from infra.platform.certificates import Certificates
from infra.platform.entrance import operator_entrance
from infra.platform.namespaces import namespace
from infra.platform.password import Password
from infra.settings import GivenRedis, ManagedRedis

_NAMESPACE = "activity"
_NAME = "valkey"
_PORT = 6379
_USERS = "valkey-users"
_RIGHTS = "~activity:* resetchannels -@all +@read +@write +@connection -@dangerous"
"""The platform reads and writes activity; it administers nothing."""


@dataclass(frozen=True, kw_only=True)
class Redis:
    """Where the activity store is."""

    host: str
    """As reached from the cluster."""
    operator_host: pulumi.Input[str]
    """As reached from where this program runs."""
    port: int
    tls: bool
    authority: pulumi.Output[str] | None
    """The certificate (PEM) of whoever vouches for it; None: an authority that everybody trusts."""
    password: pulumi.Output[str]
    """Secret."""


def given_redis(given: GivenRedis, password: pulumi.Output[str]) -> Redis:
    """Use a Redis that runs already."""
    return Redis(
        host=given.host,
        operator_host=given.host,
        port=given.port,
        tls=given.tls,
        authority=None,
        password=password,
    )


def managed_redis(
    prefix: str,
    wanted: ManagedRedis,
    *,
    certificates: Certificates,
    networks: Sequence[str],
    instance_pool: pulumi.Input[str],
    opts: pulumi.ResourceOptions,
) -> Redis:
    """Run Valkey in the namespace `activity`."""
    home = namespace(f"{prefix}-namespace", _NAMESPACE, "restricted", opts)
    password = Password(f"{prefix}-password", pulumi.ResourceOptions(parent=opts.parent))
    users = k8s.core.v1.Secret(
        f"{prefix}-users",
        metadata=k8s.meta.v1.ObjectMetaArgs(name=_USERS, namespace=home.metadata.name),
        string_data={"default": password.value},
        opts=opts,
    )
    certificate = certificates.server(
        _NAME,
        home.metadata.name,
        [_NAME, f"{_NAME}.{_NAMESPACE}.svc", "localhost"],
        opts,
    )
    release = charts.install(
        prefix,
        charts.VALKEY,
        release=_NAME,
        namespace=home.metadata.name,
        values={
            "auth": {
                "enabled": True,
                "usersExistingSecret": _USERS,
                "aclUsers": {"default": {"permissions": _RIGHTS}},
            },
            "tls": {
                "enabled": True,
                "existingSecret": f"{_NAME}-tls",
                "serverPublicKey": "tls.crt",
                "serverKey": "tls.key",
                "caPublicKey": "ca.crt",
            },
            "dataStorage": {
                "enabled": True,
                "requestedSize": f"{wanted.storage_gib}Gi",
                "className": "exoscale-sbs",
            },
            # One writer for one volume.
            "deploymentStrategy": "Recreate",
            "valkeyConfig": "appendonly yes\nappendfsync everysec\n",
        },
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[certificate, users])),
    )
    return Redis(
        host=f"{_NAME}.{_NAMESPACE}.svc",
        operator_host=operator_entrance(
            f"{prefix}-entrance",
            "activity-operators",
            namespace=home.metadata.name,
            selector={"app.kubernetes.io/name": _NAME, "app.kubernetes.io/instance": _NAME},
            port=_PORT,
            networks=networks,
            instance_pool=instance_pool,
            opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[release])),
        ),
        port=_PORT,
        tls=True,
        authority=certificates.authority,
        password=password.value,
    )
