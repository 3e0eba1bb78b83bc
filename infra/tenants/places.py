"""Everywhere that something of a tenant can be, and how each place is asked whether it is.

The places are the same for every tier: a tenant may have been of another one before.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from infra.cluster.object_storage import s3_client
from infra.tenants import clients, roles
from infra.tenants.objects import Folder

ACTIVITY = ("activity", "suspension", "usage")
"""What the activity store's keys of a tenant begin with: the gateway's, and the idle suspender's."""
LONGHORN = ("longhorn.io", "v1beta2", "longhorn-system")


@dataclass(frozen=True, kw_only=True)
class Place:
    """One place on one server."""

    server: str
    what: str
    how: str
    """What the server is asked."""
    look: Callable[[], list[str]]
    """The names of what is there, none if nothing is."""


def places(props: Mapping[str, Any]) -> Iterator[Place]:
    """All of them, with the servers entered as `props` (of a `Registration`) say."""
    tenant = props["tenant"]
    yield from _in_postgresql(f"tenant_{tenant}", props["database"])
    yield from _in_vault(tenant, props["vault"])
    yield from _in_object_storage(f"tenant_{tenant}/", props["storage"])
    yield from _at_exoscale(f"tenant-{tenant}", props["kubernetes"])
    yield from _in_kubernetes(tenant, props["kubernetes"])
    yield from _in_redis(tenant, props["redis"])
    yield Place(
        server="DNS",
        what=f"name of {tenant}",
        how="nothing to ask: no tenant has a record of its own, the gateway's wildcard serves all",
        look=list,
    )


def _in_postgresql(name: str, where: clients.Where) -> Iterator[Place]:
    def found(query: str, value: str) -> Callable[[], list[str]]:
        def look() -> list[str]:
            with clients.postgres(where) as connection:
                return [str(row[0]) for row in connection.execute(query.encode(), [value])]

        return look

    for what, query, value in (
        ("database of its own", "SELECT datname FROM pg_database WHERE datname = %s", name),
        ("schema", "SELECT nspname FROM pg_namespace WHERE nspname = %s", name),
        ("role", "SELECT rolname FROM pg_roles WHERE rolname = %s", name),
        # Their names say whose they are in eight letters only, and their settings are theirs to change.
        ("logins", " ".join(roles.MEMBERS.split()), name),
        ("logins of this program", "SELECT rolname FROM pg_roles WHERE rolname LIKE %s", rf"{name}\_%"),
    ):
        yield Place(server="PostgreSQL", what=what, how=query % f"'{value}'", look=found(query, value))


def _in_vault(tenant: str, where: clients.Where) -> Iterator[Place]:
    vault, name = clients.VaultClient(where), f"tenant-{tenant}"
    database, login = where["databaseMount"], where["kubernetesPath"]

    def listed(path: str) -> Callable[[], list[str]]:
        return lambda: [key for key in vault.keys(path) if key == name]

    leases = f"sys/leases/lookup/{database}/creds/{name}"
    yield Place(server="Vault", what="leases", how=f"LIST {leases}", look=lambda: vault.keys(leases))
    yield Place(
        server="Vault",
        what="secrets, with deleted versions",
        how=f"LIST {where['mount']}/metadata/{tenant}, and below",
        look=lambda: vault.secrets(where["mount"], f"{tenant}/"),
    )
    for what, path in (
        ("policy", "sys/policies/acl"),
        ("role for database logins", f"{database}/roles"),
        ("rate of database logins", "sys/quotas/rate-limit"),
        ("database connection of its own", f"{database}/config"),
        ("role for Kubernetes logins", f"auth/{login}/role"),
        ("role for logins by the gateway's word", f"auth/{where['jwtPath']}/role"),
    ):
        yield Place(server="Vault", what=what, how=f"LIST {path}", look=listed(path))
    yield Place(
        server="Vault",
        what="identities and their aliases",
        how=f"GET identity/entity/id/*: service_account_namespace or role = {name}",
        look=lambda: vault.entities(name),
    )


def _in_object_storage(prefix: str, where: clients.Where) -> Iterator[Place]:
    bucket = where["artifacts"]
    folder = Folder(client=s3_client(where["endpoint"], where["region"]), bucket=bucket, prefix=prefix)

    def versions() -> list[str]:
        return [f"{held.key!r} ({held.id})" for held in folder.versions()]

    def uploads() -> list[str]:
        return [repr(held.key) for held in folder.uploads()]

    for what, how, look in (
        ("objects, versions, delete markers", "ListObjectVersions", versions),
        ("unfinished uploads", "ListMultipartUploads", uploads),
    ):
        yield Place(server="Object storage", what=what, how=f"{how} {bucket}/{prefix}", look=look)


def _at_exoscale(name: str, where: clients.Where) -> Iterator[Place]:
    api = clients.exoscale(where["zone"])

    def named(operation: str, key: str) -> Callable[[], list[str]]:
        return lambda: [
            found["name"] for found in getattr(api, operation)()[key] if _is_of(name, found.get("name"))
        ]

    for what, operation, key in (
        ("API key", "list_api_keys", "api-keys"),
        ("IAM role", "list_iam_roles", "iam-roles"),
        ("anti-affinity group", "list_anti_affinity_groups", "anti-affinity-groups"),
        ("security group", "list_security_groups", "security-groups"),
    ):
        yield Place(server="Exoscale", what=what, how=operation.replace("_", "-"), look=named(operation, key))

    def pools() -> list[str]:
        cluster = api.get_sks_cluster(id=where["cluster"])
        return [pool["name"] for pool in cluster.get("nodepools", []) if _is_of(name, pool.get("name"))]

    yield Place(server="Exoscale", what="node pool", how="get-sks-cluster", look=pools)

    def rules() -> list[str]:
        groups = api.list_security_groups()["security-groups"]
        found = [rule.get("description") or "" for group in groups for rule in group.get("rules", [])]
        return [description for description in found if description.endswith(f" {name}")]

    yield Place(server="Exoscale", what="rule of its VPN", how="list-security-groups", look=rules)


def _is_of(name: str, found: str | None) -> bool:
    """Whether a name is the tenant's: that of the tenant, or one that goes on after it with a hyphen."""
    return found is not None and (found == name or found.startswith(f"{name}-"))


def _in_kubernetes(tenant: str, where: clients.Where) -> Iterator[Place]:
    from kubernetes.client import CoreV1Api, CustomObjectsApi

    client, namespace, label = clients.kubernetes(where), f"tenant-{tenant}", f"tenant-id={tenant}"
    core: Any = CoreV1Api(client)
    route = f"route-{tenant}"
    objects = CustomObjectsApi(client)

    def names(answer: Any) -> list[str]:
        return [f"{item.metadata.namespace}/{item.metadata.name}" for item in answer.items]

    def custom(group: str, version: str, plural: str) -> Callable[[], list[str]]:
        def look() -> list[str]:
            found = cluster_objects(objects, group, version, plural, label_selector=label)
            return [f"{one['metadata']['namespace']}/{one['metadata']['name']}" for one in found]

        return look

    def namespaces() -> list[str]:
        found = core.list_namespace(field_selector=f"metadata.name={namespace}")
        return [item.metadata.name for item in found.items]

    def routes() -> list[str]:
        # In that namespace alone: of ConfigMaps, only those that say where the gateway leads.
        found = core.list_namespaced_config_map("gateway", field_selector=f"metadata.name={route}")
        return names(found)

    def volumes() -> list[str]:
        return [
            item.metadata.name
            for item in core.list_persistent_volume().items
            if item.spec.claim_ref and item.spec.claim_ref.namespace == namespace
        ]

    def longhorn_volumes() -> list[str]:
        return [
            one["metadata"]["name"]
            for one in cluster_objects(objects, *LONGHORN[:2], "volumes")
            if one.get("status", {}).get("kubernetesStatus", {}).get("namespace") == namespace
        ]

    def labelled(kind: str, look: Callable[[], list[str]]) -> tuple[str, Callable[[], list[str]]]:
        return f"{kind}: {label}", look

    machines, running = "virtualmachines", "virtualmachineinstances"
    claims, nodes = core.list_persistent_volume_claim_for_all_namespaces, core.list_node
    for what, (how, look) in {
        "virtual machine": labelled(machines, custom("kubevirt.io", "v1", machines)),
        "running machine": labelled(running, custom("kubevirt.io", "v1", running)),
        "pods": labelled("pods", lambda: names(core.list_pod_for_all_namespaces(label_selector=label))),
        "services": labelled(
            "services", lambda: names(core.list_service_for_all_namespaces(label_selector=label))
        ),
        "volume claims": labelled("persistentvolumeclaims", lambda: names(claims(label_selector=label))),
        "nodes": labelled("nodes", lambda: [one.metadata.name for one in nodes(label_selector=label).items]),
        "route": (f"configmaps: gateway/{route}", routes),
        "namespace": (f"namespaces: {namespace}", namespaces),
        "volumes": (f"persistentvolumes: claimRef.namespace = {namespace}", volumes),
        "Longhorn volumes": (
            f"volumes.longhorn.io: kubernetesStatus.namespace = {namespace}",
            longhorn_volumes,
        ),
    }.items():
        yield Place(server="Kubernetes", what=what, how=how, look=look)


def longhorn_backups(props: Mapping[str, Any]) -> list[str]:
    """The backups that Longhorn still has of the tenant's volumes, by name."""
    from kubernetes.client import CustomObjectsApi

    objects = CustomObjectsApi(clients.kubernetes(props["kubernetes"]))
    return [
        backup["metadata"]["name"]
        for backup in cluster_objects(objects, *LONGHORN[:2], "backups")
        if json.loads((backup.get("status", {}).get("labels") or {}).get("KubernetesStatus") or "{}").get(
            "namespace"
        )
        == f"tenant-{props['tenant']}"
    ]


def cluster_objects(
    objects: Any, group: str, version: str, plural: str, **selected: str
) -> list[dict[str, Any]]:
    """Objects of a kind in all namespaces; none if the cluster does not know the kind."""
    from kubernetes.client.exceptions import ApiException

    try:
        found: dict[str, Any] = objects.list_cluster_custom_object(group, version, plural, **selected)
    except ApiException as error:
        if error.status == 404:
            return []
        raise
    return list(found["items"])


def _in_redis(tenant: str, where: clients.Where) -> Iterator[Place]:
    for what in ACTIVITY:
        yield Place(
            server="Redis",
            what=what,
            how=f"SCAN {what}:{tenant}, {what}:{tenant}:*",
            look=partial(activity_keys, tenant, where, what),
        )


def activity_keys(tenant: str, where: clients.Where, *kinds: str) -> list[str]:
    """The tenant's keys of these kinds in the activity store."""
    store = clients.activity(where)
    found = []
    # An id is letters and digits, so nothing in it is a pattern.
    for key in (f"{kind}:{tenant}" for kind in kinds):
        found += [key] if store.exists(key) else []
        found += [str(name) for name in store.scan_iter(f"{key}:*", count=1000)]
    return found
