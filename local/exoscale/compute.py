"""Zones, instance types, security groups, networks, anti-affinity groups, instances and operations."""

import ipaddress
import uuid

from local.exoscale import contract
from local.exoscale.contract import Json
from local.exoscale.errors import conflict, invalid, not_found
from local.exoscale.request import Request, changed, public, serves, started
from local.exoscale.store import GLOBAL
from local.servers import object_storage

# Size: CPUs and GiB, as sold; the families of the same shape in every zone.
_SIZES = {
    "micro": (1, 0.5),
    "tiny": (1, 1),
    "small": (2, 2),
    "medium": (2, 4),
    "large": (4, 8),
    "extra-large": (4, 16),
    "huge": (8, 32),
    "mega": (12, 64),
    "titan": (16, 128),
    "jumbo": (24, 225),
    "colossus": (40, 320),
}
_FAMILIES = {
    "standard": tuple(_SIZES),
    "cpu": ("extra-large", "huge", "mega", "titan"),
    "memory": ("extra-large", "huge", "mega", "titan"),
    "storage": ("extra-large", "huge", "mega", "titan", "jumbo"),
}

_PUBLIC_GROUPS = ("public-nlb-healthcheck-sources",)
"""Groups of Exoscale itself, for rules to name; there are more, which nothing here needs."""


def stable_id(what: str) -> str:
    """The same id at every start, for what the service itself provides."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"https://www.exoscale.com/{what}"))


def instance_types() -> dict[str, Json]:
    """All types, by id."""
    types = {}
    for family, sizes in _FAMILIES.items():
        for size in sizes:
            cpus, gib = _SIZES[size]
            identifier = stable_id(f"instance-type/{family}.{size}")
            types[identifier] = {
                "id": identifier,
                "family": family,
                "size": size,
                "cpus": cpus,
                "memory": int(gib * 2**30),
                "authorized": True,
                "zones": list(contract.zones()),
            }
    return types


@serves("list-zones")
def list_zones(request: Request) -> Json:
    """Each zone with the endpoint under which this caller reaches it."""
    return {
        "zones": [
            {
                "name": zone,
                "api-endpoint": request.base_url.format(zone=zone),
                "sos-endpoint": object_storage.url(),
            }
            for zone in contract.zones()
        ]
    }


@serves("get-operation")
def get_operation(request: Request) -> Json:
    """The state of an asynchronous operation now."""
    return public(request.store.get("operation", GLOBAL, request.id))


@serves("list-instance-types")
def list_instance_types(_: Request) -> Json:
    """Everything that can be rented."""
    return {"instance-types": list(instance_types().values())}


@serves("get-instance-type")
def get_instance_type(request: Request) -> Json:
    """One type."""
    if (found := instance_types().get(request.id)) is None:
        raise not_found("instance-type", request.id)
    return found


@serves("create-security-group")
def create_security_group(request: Request) -> Json:
    """A group without rules; its name is unique in the organization."""
    _unique(request, "security-group", GLOBAL)
    group = request.store.put("security-group", GLOBAL, {**request.body, "external-sources": [], "rules": []})
    return started(request, "get-security-group", "security-group", group["id"])


@serves("list-security-groups")
def list_security_groups(request: Request) -> Json:
    """The organization's groups, or those of Exoscale itself."""
    if request.parameters.get("visibility") == "public":
        return {"security-groups": [{"name": name, "visibility": "public"} for name in _PUBLIC_GROUPS]}
    return {"security-groups": request.store.all("security-group", GLOBAL)}


@serves("get-security-group")
def get_security_group(request: Request) -> Json:
    """One group with its rules."""
    return request.store.get("security-group", GLOBAL, request.id)


@serves("delete-security-group")
def delete_security_group(request: Request) -> Json:
    """Refused while a node pool or a rule of another group uses it."""
    _unused_by_pools(request, "security-group", "security-groups")
    for other in request.store.all("security-group", GLOBAL):
        if other["id"] != request.id and any(
            rule.get("security-group", {}).get("id") == request.id for rule in other["rules"]
        ):
            raise conflict(f"security-group {request.id} is named by a rule of security-group {other['id']}")
    request.store.delete("security-group", GLOBAL, request.id)
    return started(request, "get-security-group", "security-group", request.id)


@serves("add-rule-to-security-group")
def add_rule(request: Request) -> Json:
    """The operation refers to the group: the rule's id is found by reading it, as with the real service."""
    group = request.store.get("security-group", GLOBAL, request.id)
    rule = _rule(request)
    if any({**known, "id": None} == {**rule, "id": None} for known in group["rules"]):
        raise conflict(f"security-group {request.id} has this rule already")
    group["rules"].append(rule)
    request.store.put("security-group", GLOBAL, group)
    return started(request, "get-security-group", "security-group", request.id)


@serves("delete-rule-from-security-group")
def delete_rule(request: Request) -> Json:
    """One rule away."""
    group = request.store.get("security-group", GLOBAL, request.id)
    rest = [rule for rule in group["rules"] if rule["id"] != request.parameters["rule-id"]]
    if len(rest) == len(group["rules"]):
        raise not_found("security group rule", request.parameters["rule-id"])
    request.store.put("security-group", GLOBAL, group | {"rules": rest})
    return started(request, "get-security-group", "security-group", request.id)


@serves("add-external-source-to-security-group")
def add_external_source(request: Request) -> Json:
    """A network that counts as a member of the group."""
    group = request.store.get("security-group", GLOBAL, request.id)
    source = _network(request.body["cidr"], "cidr")
    request.store.put(
        "security-group", GLOBAL, group | {"external-sources": sorted({*group["external-sources"], source})}
    )
    return started(request, "get-security-group", "security-group", request.id)


@serves("remove-external-source-from-security-group")
def remove_external_source(request: Request) -> Json:
    """The network counts no more."""
    group = request.store.get("security-group", GLOBAL, request.id)
    rest = [source for source in group["external-sources"] if source != request.body["cidr"]]
    request.store.put("security-group", GLOBAL, group | {"external-sources": rest})
    return started(request, "get-security-group", "security-group", request.id)


@serves("create-private-network")
def create_private_network(request: Request) -> Json:
    """Managed (with DHCP) if the three addresses are given, else unmanaged."""
    _check_addresses(request.body)
    network = request.store.put(
        "private-network", request.zone, request.body | {"vni": 1 + uuid.uuid4().int % 2**24}
    )
    return started(request, "get-private-network", "private-network", network["id"], request.zone)


@serves("list-private-networks")
def list_private_networks(request: Request) -> Json:
    """The zone's networks."""
    return {"private-networks": request.store.all("private-network", request.zone)}


@serves("get-private-network")
def get_private_network(request: Request) -> Json:
    """One network."""
    return request.store.get("private-network", request.zone, request.id)


@serves("update-private-network")
def update_private_network(request: Request) -> Json:
    """Name, description, labels or addresses."""
    network = changed(request.store.get("private-network", request.zone, request.id), request.body)
    _check_addresses(network)
    request.store.put("private-network", request.zone, network)
    return started(request, "get-private-network", "private-network", request.id, request.zone)


@serves("delete-private-network")
def delete_private_network(request: Request) -> Json:
    """Refused while a node pool is attached."""
    _unused_by_pools(request, "private-network", "private-networks")
    request.store.delete("private-network", request.zone, request.id)
    return started(request, "get-private-network", "private-network", request.id, request.zone)


@serves("create-anti-affinity-group")
def create_anti_affinity_group(request: Request) -> Json:
    """Its name is unique in the organization."""
    _unique(request, "anti-affinity-group", GLOBAL)
    group = request.store.put("anti-affinity-group", GLOBAL, dict(request.body))
    return started(request, "get-anti-affinity-group", "anti-affinity-group", group["id"])


@serves("list-anti-affinity-groups")
def list_anti_affinity_groups(request: Request) -> Json:
    """All groups."""
    return {"anti-affinity-groups": request.store.all("anti-affinity-group", GLOBAL)}


@serves("get-anti-affinity-group")
def get_anti_affinity_group(request: Request) -> Json:
    """One group."""
    return request.store.get("anti-affinity-group", GLOBAL, request.id)


@serves("delete-anti-affinity-group")
def delete_anti_affinity_group(request: Request) -> Json:
    """Refused while a node pool uses it."""
    _unused_by_pools(request, "anti-affinity-group", "anti-affinity-groups")
    request.store.delete("anti-affinity-group", GLOBAL, request.id)
    return started(request, "get-anti-affinity-group", "anti-affinity-group", request.id)


@serves("list-instances")
def list_instances(request: Request) -> Json:
    """The zone's instances, those of one manager if asked so."""
    wanted = {"id": request.parameters.get("manager-id"), "type": request.parameters.get("manager-type")}
    return {
        "instances": [
            public(instance)
            for instance in request.store.all("instance", request.zone)
            if all(value in (None, instance["manager"][key]) for key, value in wanted.items())
        ]
    }


@serves("get-instance")
def get_instance(request: Request) -> Json:
    """One instance."""
    return public(request.store.get("instance", request.zone, request.id))


@serves("get-instance-pool")
def get_instance_pool(request: Request) -> Json:
    """The pool behind a node pool, with its instances."""
    return _pool(request, request.store.get("instance-pool", request.zone, request.id))


@serves("list-instance-pools")
def list_instance_pools(request: Request) -> Json:
    """The zone's pools."""
    return {
        "instance-pools": [_pool(request, pool) for pool in request.store.all("instance-pool", request.zone)]
    }


def _pool(request: Request, pool: Json) -> Json:
    members = [i for i in request.store.all("instance", request.zone) if i["manager"]["id"] == pool["id"]]
    return public(pool) | {"size": len(members), "instances": [{"id": member["id"]} for member in members]}


def _unique(request: Request, kind: str, zone: str) -> None:
    name = request.body["name"]
    if any(known["name"] == name for known in request.store.all(kind, zone)):
        raise conflict(f"{kind} {name} exists already")


def _unused_by_pools(request: Request, kind: str, field: str) -> None:
    for zone in contract.zones():
        for pool in request.store.all("sks-nodepool", zone):
            if any(reference["id"] == request.id for reference in pool.get(field, [])):
                raise conflict(
                    f"{kind} {request.id} is in use by SKS node pool {pool['name']} ({pool['id']})"
                )


def _rule(request: Request) -> Json:
    rule = {**request.body, "id": str(uuid.uuid4())}
    if ("network" in rule) == ("security-group" in rule):
        raise invalid("rule: exactly one of network and security-group is needed")
    if "network" in rule:
        rule["network"] = _network(rule["network"], "network")
    else:
        rule["security-group"] = _member_group(request, rule["security-group"])
    protocol = rule["protocol"]
    if protocol in ("tcp", "udp"):
        if not {"start-port", "end-port"} <= rule.keys() or rule["start-port"] > rule["end-port"]:
            raise invalid(f"rule: {protocol} needs start-port and end-port, in this order")
    elif {"start-port", "end-port"} & rule.keys():
        raise invalid(f"rule: {protocol} has no ports")
    if protocol in ("icmp", "icmpv6"):
        icmp = rule.get("icmp", {})
        rule["icmp"] = {key: -1 if icmp.get(key) is None else icmp[key] for key in ("code", "type")}
    elif "icmp" in rule:
        raise invalid(f"rule: {protocol} has no icmp code and type")
    return rule


def _member_group(request: Request, reference: Json) -> Json:
    if reference.get("visibility") == "public":
        if reference.get("name") not in _PUBLIC_GROUPS:
            raise not_found("public security-group", reference.get("name", ""))
        return {"name": reference["name"], "visibility": "public"}
    group = request.store.get("security-group", GLOBAL, reference.get("id", ""))
    return {"id": group["id"], "name": group["name"]}


def _network(text: str, field: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise invalid(f"{field}: {error}") from None


def _check_addresses(network: Json) -> None:
    given = [key for key in ("start-ip", "end-ip", "netmask") if key in network]
    if not given:
        return
    if len(given) < 3:
        raise invalid("a managed private network needs start-ip, end-ip and netmask together")
    try:
        whole = ipaddress.ip_network(f"{network['start-ip']}/{network['netmask']}", strict=False)
    except ValueError as error:
        raise invalid(f"netmask: {error}") from None
    first, last = (ipaddress.ip_address(network[key]) for key in ("start-ip", "end-ip"))
    if last not in whole or int(first) > int(last):
        raise invalid(f"end-ip {last} is not after start-ip {first} in {whole}")
