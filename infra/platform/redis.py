"""The store of activity, spoken to in the Redis protocol, and who may do what in it.

Keys `activity:TENANT…` are the gateway's to write, `suspension:TENANT…` the idle suspender's, `usage:TENANT…`
the accounting's; each reads what it needs of the others'. Managed: Valkey, from the project's own chart,
<https://github.com/valkey-io/valkey-helm/tree/main/valkey>.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import pulumi
import pulumi_kubernetes as k8s

from infra.platform import charts
from infra.platform.certificates import Certificates
from infra.platform.entrance import operator_entrance
from infra.platform.namespaces import namespace
from infra.platform.network_policies import Destination, host_at, pods_at
from infra.platform.password import Password
from infra.platform.redis_user import RedisUser
from infra.settings import GivenRedis, ManagedRedis

_NAMESPACE = "activity"
_NAME = "valkey"
_PORT = 6379
_USERS = "valkey-users"
_PROGRAM = "~activity:* ~suspension:* ~usage:* resetchannels -@all +@read +@write +@connection -@dangerous"
"""This program looks for a tenant's keys and deletes them; it administers nothing."""
_ANYBODY = "resetchannels -@all +ping +client|setinfo +evalsha +script|load +time"
"""Each step is a script, and may do what whoever runs it may."""

RIGHTS: Mapping[str, str] = MappingProxyType(
    {
        "gateway": f"%RW~activity:* %R~suspension:* %R~usage:* {_ANYBODY} +del +exec +expire +get +hdel "
        "+hget +hgetall +hmget +hset +incr +multi +zadd +zcard +zrangebyscore +zrem +zscore",
        "idle-suspender": f"%R~activity:* %RW~suspension:* {_ANYBODY} +del +expire +get +hget +hgetall "
        "+hmget +hset +info +zrevrangebyscore",
        "accounting": "%RW~usage:* resetchannels -@all +ping +client|setinfo +expire +hset",
        "exporter": "%R~suspension:* %R~usage:* resetchannels -@all +ping +client|setinfo +hgetall +info",
    }
)
"""What the platform's services may do there, by user."""


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
    """This program's; secret."""
    destination: Destination
    """The same server, as a NetworkPolicy puts it."""


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """How one of the platform's services enters."""

    user: str
    password: pulumi.Output[str]
    """Secret."""
    ready: pulumi.Resource
    """What it has to wait for."""


Users = Mapping[str, Credentials]
"""By the names in `RIGHTS`."""


def given_redis(
    prefix: str, given: GivenRedis, password: pulumi.Output[str], opts: pulumi.ResourceOptions
) -> tuple[Redis, Users]:
    """Use a Redis that runs already; its default user is an administrator."""
    own = pulumi.ResourceOptions(parent=opts.parent)
    server = {"host": given.host, "port": given.port, "tls": given.tls, "password": password}
    users = {}
    for name, rights in RIGHTS.items():
        drawn = Password(f"{prefix}-{name}-password", own)
        user = RedisUser(
            f"{prefix}-{name}", name=name, password=drawn.value, rights=rights, server=server, opts=own
        )
        users[name] = Credentials(user=name, password=drawn.value, ready=user)
    redis = Redis(
        host=given.host,
        operator_host=given.host,
        port=given.port,
        tls=given.tls,
        authority=None,
        password=password,
        destination=host_at(given.host, given.port),
    )
    return redis, users


def managed_redis(
    prefix: str,
    wanted: ManagedRedis,
    *,
    certificates: Certificates,
    networks: Sequence[str],
    instance_pool: pulumi.Input[str],
    opts: pulumi.ResourceOptions,
) -> tuple[Redis, Users]:
    """Run Valkey in the namespace `activity`."""
    home = namespace(f"{prefix}-namespace", _NAMESPACE, "restricted", opts)
    own = pulumi.ResourceOptions(parent=opts.parent)
    password = Password(f"{prefix}-password", own)
    drawn = {name: Password(f"{prefix}-{name}-password", own) for name in RIGHTS}
    passwords = {"default": password, **drawn}
    users = k8s.core.v1.Secret(
        f"{prefix}-users",
        metadata=k8s.meta.v1.ObjectMetaArgs(name=_USERS, namespace=home.metadata.name),
        string_data={name: each.value for name, each in passwords.items()},
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
                "aclUsers": {
                    name: {"permissions": rights} for name, rights in {"default": _PROGRAM, **RIGHTS}.items()
                },
            },
            # It reads passwords when it starts: another one starts it anew.
            "podAnnotations": {
                "agent-platform/passwords": pulumi.Output.all(
                    *(each.id for each in passwords.values())
                ).apply("-".join)
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
    redis = Redis(
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
        destination=pods_at(_NAMESPACE, {"app.kubernetes.io/name": _NAME}, _PORT),
    )
    return redis, {
        name: Credentials(user=name, password=each.value, ready=release) for name, each in drawn.items()
    }
