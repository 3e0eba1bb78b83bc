"""Scalable Kubernetes Service: the cluster, its node pools and its kubeconfig.

There is one Kubernetes API on this machine, so there is room for one cluster at a time; its kubeconfig opens
that API.
"""

import base64
import random
import string
import uuid

import yaml

from local.exoscale import contract
from local.exoscale.compute import instance_types, stable_id
from local.exoscale.contract import Json
from local.exoscale.errors import conflict, forbidden, invalid, not_found
from local.exoscale.request import Request, becoming, changed, now, public, serves, started
from local.exoscale.store import GLOBAL
from local.servers import kubernetes

VERSIONS = ("1.36.3", "1.35.7", "1.34.10")
"""Newest first; the API server of this machine is the first."""

_TTL = 30 * 24 * 3600
_MAX_NODEPOOLS = 16
# Field of a node pool: the kind it refers to, and whether that belongs to the organization, not to a zone.
_REFERENCES = {
    "security-groups": ("security-group", True),
    "anti-affinity-groups": ("anti-affinity-group", True),
    "private-networks": ("private-network", False),
}


@serves("list-sks-cluster-versions")
def list_versions(_: Request) -> Json:
    """The versions that a new cluster can have."""
    return {"sks-cluster-versions": list(VERSIONS)}


@serves("create-sks-cluster")
def create_cluster(request: Request) -> Json:
    """A control plane; its nodes come with node pools."""
    body = dict(request.body)
    if "networking" in body:
        raise invalid("networking: not on this machine, whose API server has its own; leave it out")
    _check_version(body["version"])
    for zone in contract.zones():
        if others := request.store.all("sks-cluster", zone):
            raise forbidden(
                "limit exceeded: this machine has one Kubernetes API, and SKS cluster "
                f"{others[0]['name']} of {zone} has it; delete that first"
            )
    if body.pop("create-default-security-group", False):
        raise invalid(
            "create-default-security-group: not on this machine; declare the group and its rules instead"
        )
    audit = body.pop("audit", None)
    cluster = {
        "enable-kube-proxy": body.get("cni") != "cilium",
        "enable-operators-ca": True,
        "feature-gates": [],
        "addons": [],
        "labels": {},
        **{key: value for key, value in body.items() if value is not None},
        "created-at": now(),
        "endpoint": kubernetes.API_URL(),
        **becoming("creating", "running"),
    }
    if audit:
        cluster["audit"] = _audit({"enabled": True} | audit)
    cluster = request.store.put("sks-cluster", request.zone, cluster)
    return started(request, "get-sks-cluster", "sks-cluster", cluster["id"], request.zone)


@serves("list-sks-clusters")
def list_clusters(request: Request) -> Json:
    """The zone's clusters."""
    return {"sks-clusters": [_shown(request, c) for c in request.store.all("sks-cluster", request.zone)]}


@serves("get-sks-cluster")
def get_cluster(request: Request) -> Json:
    """One cluster with its node pools."""
    return _shown(request, _cluster(request))


@serves("update-sks-cluster")
def update_cluster(request: Request) -> Json:
    """Whatever may change in place."""
    cluster, body = _running(request), dict(request.body)
    if lost := sorted(set(cluster["addons"]) - set(body.get("addons") or cluster["addons"])):
        raise invalid(f"addons: {', '.join(lost)} cannot be taken away")
    if audit := body.pop("audit", None):
        body["audit"] = _audit(cluster.get("audit", {}) | audit)
    request.store.put("sks-cluster", request.zone, changed(cluster, body) | becoming("updating", "running"))
    return started(request, "get-sks-cluster", "sks-cluster", request.id, request.zone)


@serves("upgrade-sks-cluster")
def upgrade_cluster(request: Request) -> Json:
    """To a newer version, one minor version at a time."""
    cluster, version = _running(request), request.body["version"]
    _check_version(version)
    old, new = _parts(cluster["version"]), _parts(version)
    if new < old or new[1] > old[1] + 1:
        raise invalid(
            f"version: {cluster['version']} cannot become {version}; one minor version up at a time"
        )
    upgraded = cluster | {"version": version} | becoming("upgrading", "running")
    request.store.put("sks-cluster", request.zone, upgraded)
    return started(request, "get-sks-cluster", "sks-cluster", request.id, request.zone)


@serves("upgrade-sks-cluster-service-level")
def upgrade_level(request: Request) -> Json:
    """From starter to pro."""
    upgraded = _running(request) | {"level": "pro"} | becoming("upgrading", "running")
    request.store.put("sks-cluster", request.zone, upgraded)
    return started(request, "get-sks-cluster", "sks-cluster", request.id, request.zone)


@serves("delete-sks-cluster")
def delete_cluster(request: Request) -> Json:
    """Refused while it has node pools."""
    cluster = _cluster(request)
    if pools := _pools(request, cluster["id"]):
        raise conflict(f"SKS cluster {cluster['name']} has node pools: {', '.join(p['name'] for p in pools)}")
    request.store.delete("sks-cluster", request.zone, request.id)
    return started(request, "get-sks-cluster", "sks-cluster", request.id, request.zone)


@serves("get-sks-cluster-authority-cert")
def get_authority(request: Request) -> Json:
    """The certificate of an authority of the cluster. One authority has all three roles on this machine."""
    _cluster(request)
    return {"cacert": _base64(kubernetes.ca_certificate())}


@serves("generate-sks-cluster-kubeconfig")
def generate_kubeconfig(request: Request) -> Json:
    """A client certificate for `user` in `groups`, good for `ttl` seconds, and the way to the API."""
    cluster, user = _running(request), request.body["user"]
    if not user:
        raise invalid("user: empty")
    certificate, key = kubernetes.issue_client_certificate(
        user, request.body["groups"], request.body.get("ttl", _TTL)
    )
    context = f"{user}@{cluster['name']}"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": cluster["name"],
                "cluster": {
                    "server": cluster["endpoint"],
                    "certificate-authority-data": _base64(kubernetes.ca_certificate()),
                },
            }
        ],
        "users": [
            {
                "name": user,
                "user": {"client-certificate-data": _base64(certificate), "client-key-data": _base64(key)},
            }
        ],
        "contexts": [{"name": context, "context": {"cluster": cluster["name"], "user": user}}],
        "current-context": context,
    }
    return {"kubeconfig": _base64(yaml.safe_dump(document, sort_keys=False))}


@serves("create-sks-nodepool")
def create_nodepool(request: Request) -> Json:
    """Instances of one type that join the cluster."""
    cluster, body = _running(request), dict(request.body)
    pools = _pools(request, cluster["id"])
    if len(pools) >= _MAX_NODEPOOLS:
        raise forbidden(f"limit exceeded: a cluster has at most {_MAX_NODEPOOLS} node pools")
    if any(pool["name"] == body["name"] for pool in pools):
        raise conflict(f"node pool {body['name']} exists already in cluster {cluster['name']}")
    _check_pool(request, body)
    if "storage-lvm" in body.get("addons", []) and body["disk-size"] < 100:
        raise invalid("disk-size: storage-lvm needs 100 GiB or more")
    template = {"id": stable_id(f"sks-template/{cluster['version']}")}
    pool = request.store.put(
        "sks-nodepool",
        request.zone,
        {
            "instance-prefix": "pool",
            "public-ip-assignment": "inet4",
            "labels": {},
            "taints": {},
            "addons": [],
            **body,
            "created-at": now(),
            "version": cluster["version"],
            "template": template,
            "instance-pool": {"id": str(uuid.uuid4())},
            "_cluster": cluster["id"],
            **becoming("creating", "running"),
        },
    )
    instance_pool = {"id": pool["instance-pool"]["id"], "name": f"nodepool-{pool['name']}-{pool['id']}"}
    request.store.put("instance-pool", request.zone, instance_pool | becoming("scaling-up", "running"))
    _scale(request, pool, body["size"])
    return started(
        request, "get-sks-nodepool", f"sks-cluster/{request.id}/nodepool", pool["id"], request.zone
    )


@serves("get-sks-nodepool")
def get_nodepool(request: Request) -> Json:
    """One node pool."""
    return public(_nodepool(request))


@serves("update-sks-nodepool")
def update_nodepool(request: Request) -> Json:
    """Applies to instances that come later; labels and taints to the nodes at once."""
    pool = changed(_ready_nodepool(request), request.body) | becoming("updating", "running")
    _check_pool(request, pool)
    request.store.put("sks-nodepool", request.zone, pool)
    return _started_on(request, pool)


@serves("scale-sks-nodepool")
def scale_nodepool(request: Request) -> Json:
    """More or fewer instances."""
    pool = _ready_nodepool(request) | {"size": request.body["size"]} | becoming("scaling", "running")
    request.store.put("sks-nodepool", request.zone, pool)
    _scale(request, pool, pool["size"])
    return _started_on(request, pool)


@serves("evict-sks-nodepool-members")
def evict_members(request: Request) -> Json:
    """These instances away; the pool is smaller by their number."""
    pool = _ready_nodepool(request)
    members = {member["id"] for member in _members(request, pool)}
    victims = set(request.body.get("instances", []))
    if strangers := sorted(victims - members):
        raise not_found("node pool member", strangers[0])
    for victim in victims:
        request.store.delete("instance", request.zone, victim)
    smaller = pool | {"size": len(members - victims)} | becoming("scaling", "running")
    request.store.put("sks-nodepool", request.zone, smaller)
    return _started_on(request, pool)


@serves("delete-sks-nodepool")
def delete_nodepool(request: Request) -> Json:
    """With its instances."""
    pool = _nodepool(request)
    _scale(request, pool, 0)
    request.store.delete("instance-pool", request.zone, pool["instance-pool"]["id"])
    request.store.delete("sks-nodepool", request.zone, pool["id"])
    return _started_on(request, pool)


@serves("get-active-nodepool-template")
def get_active_template(request: Request) -> Json:
    """The template of new nodes of a version."""
    version = request.parameters["kube-version"]
    _check_version(version)
    return {"active-template": stable_id(f"sks-template/{version}")}


def _cluster(request: Request) -> Json:
    return request.store.get("sks-cluster", request.zone, request.id)


def _running(request: Request) -> Json:
    return _settled(_cluster(request), "SKS cluster")


def _settled(body: Json, kind: str) -> Json:
    if (state := public(body)["state"]) != "running":
        raise conflict(f"{kind} {body['name']} is {state}; wait for its operation")
    return body


def _pools(request: Request, cluster: str) -> list[Json]:
    return [pool for pool in request.store.all("sks-nodepool", request.zone) if pool["_cluster"] == cluster]


def _shown(request: Request, cluster: Json) -> Json:
    return public(cluster) | {"nodepools": [public(pool) for pool in _pools(request, cluster["id"])]}


def _nodepool(request: Request) -> Json:
    pool = request.store.get("sks-nodepool", request.zone, request.parameters["sks-nodepool-id"])
    if pool["_cluster"] != request.id:
        raise not_found("sks-nodepool", pool["id"])
    return pool


def _ready_nodepool(request: Request) -> Json:
    return _settled(_nodepool(request), "SKS node pool")


def _started_on(request: Request, pool: Json) -> Json:
    return started(
        request, "get-sks-nodepool", f"sks-cluster/{request.id}/nodepool", pool["id"], request.zone
    )


def _members(request: Request, pool: Json) -> list[Json]:
    manager = pool["instance-pool"]["id"]
    return [i for i in request.store.all("instance", request.zone) if i["manager"]["id"] == manager]


def _scale(request: Request, pool: Json, size: int) -> None:
    members = sorted(_members(request, pool), key=lambda member: member["_number"])
    for member in members[size:]:
        request.store.delete("instance", request.zone, member["id"])
    first = members[-1]["_number"] + 1 if members else 0
    for number in range(first, first + size - len(members)):
        request.store.put("instance", request.zone, _instance(pool, number))


def _instance(pool: Json, number: int) -> Json:
    # Named as SKS names nodes: the pool's prefix, five digits of the pool, five characters of the instance.
    suffix = "".join(random.choices(string.ascii_lowercase, k=5))  # noqa: S311 - a name, no secret
    return {
        "name": f"{pool['instance-prefix']}-{pool['instance-pool']['id'][:5]}-{suffix}",
        "created-at": now(),
        "instance-type": instance_types()[pool["instance-type"]["id"]],
        "template": pool["template"],
        "disk-size": pool["disk-size"],
        "security-groups": pool.get("security-groups", []),
        "anti-affinity-groups": pool.get("anti-affinity-groups", []),
        "private-networks": pool.get("private-networks", []),
        "public-ip-assignment": pool["public-ip-assignment"],
        "labels": {},
        "manager": {"id": pool["instance-pool"]["id"], "type": "instance-pool"},
        "_number": number,
        **becoming("starting", "running"),
    }


def _check_pool(request: Request, pool: Json) -> None:
    if pool["name"] != pool["name"].lower():
        raise invalid("name: lowercase only")
    if pool["instance-type"].get("id") not in instance_types():
        raise not_found("instance-type", pool["instance-type"].get("id", ""))
    for field, (kind, is_global) in _REFERENCES.items():
        for reference in pool.get(field, []):
            request.store.get(kind, GLOBAL if is_global else request.zone, reference.get("id", ""))


def _check_version(version: str) -> None:
    if version not in VERSIONS:
        raise invalid(f"version: {version} is not offered; offered are {', '.join(VERSIONS)}")


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _audit(audit: Json) -> Json:
    return {"initial-backoff": "10s"} | {key: value for key, value in audit.items() if key != "bearer-token"}


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
