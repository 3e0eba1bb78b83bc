"""Exoscale's API, entered with the key to object storage: it is a key to that, too."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from exoscale.api.exceptions import ExoscaleAPIAuthException  # type: ignore[import-untyped]
from exoscale.api.v2 import Client  # type: ignore[import-untyped]

from local.attack.attempt import Attack, Refused, Target
from local.attack.tenants import Tenant
from local.servers import exoscale


def _call(api: Client, operation: str, **parameters: Any) -> None:
    """One operation; Refused where the role's policy does not allow it."""
    try:
        getattr(api, operation)(**parameters)
    except ExoscaleAPIAuthException as error:
        raise Refused(str(error)) from None


def _on_platform(name: str, operation: str, **parameters: Any) -> Attack[Client]:
    return Attack(
        name=name,
        tried=operation,
        run=lambda api, _own, _victim: _call(api, operation, **parameters),
        on_platform=True,
    )


def _on_roles(roles: Mapping[str, Mapping[str, Any]]) -> Iterator[Attack[Client]]:
    """What is tried on a tenant's IAM role, the victim's and the attacker's own; an edit changes nothing."""

    def read(api: Client, _own: Tenant, victim: Tenant) -> None:
        _call(api, "get_iam_role", id=roles[victim.role]["id"])

    def edit(api: Client, _own: Tenant, victim: Tenant) -> None:
        role = roles[victim.role]
        _call(api, "update_iam_role", id=role["id"], description=role["description"])

    for end, own in (("the victim's", False), ("one's own", True)):
        yield Attack(
            name=f"read what a key may, {end}",
            tried="get_iam_role",
            run=read,
            on_platform=own,
            by_owner=False,
        )
        yield Attack(
            name=f"edit what a key may, {end}",
            tried="update_iam_role",
            run=edit,
            on_platform=own,
            by_owner=False,
        )


@contextmanager
def entered(tenants: Sequence[Tenant]) -> Iterator[Target[Client]]:
    """Have each tenant's key attack; nothing is planted."""
    administrator = _client(*exoscale.owner())
    roles = {
        role["name"]: administrator.get_iam_role(id=role["id"])
        for role in administrator.list_iam_roles()["iam-roles"]
    }
    (cluster,) = administrator.list_sks_clusters()["sks-clusters"]
    yield Target(
        server="Exoscale",
        sessions={tenant: _client(tenant.key["access_key"], tenant.key["secret_key"]) for tenant in tenants},
        victims=tenants,
        administrator=administrator,
        attacks=[
            *_on_roles(roles),
            _on_platform("list keys", "list_api_keys"),
            _on_platform("list what keys may", "list_iam_roles"),
            _on_platform("list nodes", "list_instances"),
            _on_platform("list groups of nodes", "list_instance_pools"),
            _on_platform("list security groups", "list_security_groups"),
            _on_platform("list private networks", "list_private_networks"),
            _on_platform("list buckets and their sizes", "list_sos_buckets_usage"),
            _on_platform("list clusters", "list_sks_clusters"),
            _on_platform("read the cluster", "get_sks_cluster", id=cluster["id"]),
            _on_platform(
                "become the cluster's administrator",
                "generate_sks_cluster_kubeconfig",
                id=cluster["id"],
                user="attack",
                groups=["system:masters"],
                ttl=60,
            ),
        ],
    )


def _client(key: str, secret: str) -> Client:
    return Client(key, secret, url=exoscale.environment()["EXOSCALE_API_ENDPOINT"])
