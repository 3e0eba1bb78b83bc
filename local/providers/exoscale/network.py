"""Security groups and their rules, private networks, anti-affinity groups."""

import contextlib
from collections.abc import Mapping
from typing import Any, ClassVar

from local.providers.exoscale.api import Api, Json, PendingError
from local.providers.exoscale.kind import Check, Kind, address, between, network, one_of, present
from local.providers.provider import ProviderError
from local.providers.values import Properties

_SOURCES = ("cidr", "publicSecurityGroup", "userSecurityGroup", "userSecurityGroupId")


class AntiAffinityGroup(Kind):
    """Instances that shall not share a hypervisor."""

    of_type = "exoscale:index/antiAffinityGroup:AntiAffinityGroup"
    replace_on = frozenset({"name", "description"})

    def make(self, api: Api, inputs: Properties) -> str:  # noqa: D102
        fields = present(name=inputs["name"], description=inputs.get("description"))
        return api.change("create_anti_affinity_group", **fields)

    def find(self, api: Api, id: str, known: Properties) -> Json | None:  # noqa: ARG002, D102
        return api.find("get_anti_affinity_group", id=id)

    def show(self, api: Api, found: Json, known: Properties) -> Properties:  # noqa: ARG002, D102
        return {"name": found["name"], "description": found.get("description", "")}

    def remove(self, api: Api, id: str, known: Properties) -> None:  # noqa: ARG002, D102
        api.remove("delete_anti_affinity_group", id=id)


class SecurityGroup(Kind):
    """A firewall; its rules are resources of their own."""

    of_type = "exoscale:index/securityGroup:SecurityGroup"
    replace_on = frozenset({"name", "description"})
    sets = frozenset({"externalSources"})
    any_case = frozenset({"name"})
    checks: ClassVar[Mapping[str, Check]] = {"externalSources": network}

    def make(self, api: Api, inputs: Properties) -> str:  # noqa: D102
        fields = present(name=inputs["name"], description=inputs.get("description"))
        return api.change("create_security_group", **fields)

    def complete(self, api: Api, id: str, inputs: Properties) -> None:  # noqa: D102
        self.change(api, id, {}, inputs)

    def find(self, api: Api, id: str, known: Properties) -> Json | None:  # noqa: ARG002, D102
        return api.find("get_security_group", id=id)

    def show(self, api: Api, found: Json, known: Properties) -> Properties:  # noqa: ARG002, D102
        return {
            "name": found["name"],
            "description": found.get("description", ""),
            "externalSources": found.get("external-sources", []),
        }

    def change(self, api: Api, id: str, old: Properties, new: Properties) -> None:  # noqa: ARG002, D102
        before = set(api.call("get_security_group", id=id).get("external-sources", []))
        after = set(new.get("externalSources", []))
        for cidr in sorted(after - before):
            api.change("add_external_source_to_security_group", id=id, cidr=cidr)
        for cidr in sorted(before - after):
            api.change("remove_external_source_from_security_group", id=id, cidr=cidr)

    def remove(self, api: Api, id: str, known: Properties) -> None:  # noqa: ARG002, D102
        api.remove("delete_security_group", id=id)


class SecurityGroupRule(Kind):
    """One rule of a group. Every change makes a new one."""

    of_type = "exoscale:index/securityGroupRule:SecurityGroupRule"
    replace_on = frozenset(
        {
            *("cidr", "description", "endPort", "icmpCode", "icmpType", "protocol", "publicSecurityGroup"),
            *("securityGroup", "securityGroupId", "startPort", "type"),
            *("userSecurityGroup", "userSecurityGroupId"),
        }
    )
    any_case = frozenset({"protocol"})
    computed = frozenset({"publicSecurityGroup", "securityGroup", "securityGroupId", "userSecurityGroup"})
    defaults: ClassVar[Mapping[str, Any]] = {"protocol": "TCP"}
    checks: ClassVar[Mapping[str, Check]] = {
        "type": one_of("INGRESS", "EGRESS"),
        "protocol": one_of("AH", "ALL", "ESP", "GRE", "ICMP", "ICMPv6", "IPIP", "TCP", "UDP", any_case=True),
        "cidr": network,
        "startPort": between(1, 65535),
        "endPort": between(1, 65535),
        "icmpCode": between(-1, 254),
        "icmpType": between(-1, 254),
    }
    conflicts = (
        *((port, icmp) for port in ("startPort", "endPort") for icmp in ("icmpCode", "icmpType")),
        ("securityGroupId", "securityGroup"),
        ("cidr", "publicSecurityGroup"),
        ("cidr", "userSecurityGroupId"),
        ("cidr", "userSecurityGroup"),
        ("userSecurityGroupId", "publicSecurityGroup"),
        ("userSecurityGroupId", "userSecurityGroup"),
        ("userSecurityGroup", "publicSecurityGroup"),
    )

    def make(self, api: Api, inputs: Properties) -> str:  # noqa: D102
        group = _group(api, inputs.get("securityGroupId"), inputs.get("securityGroup"))
        if group is None:
            raise ProviderError("either security_group or security_group_id must be specified")
        protocol = inputs["protocol"].lower()
        fields = present(
            flow_direction=inputs["type"].lower(),
            protocol=protocol,
            description=inputs.get("description"),
            start_port=inputs.get("startPort"),
            end_port=inputs.get("endPort"),
            network=inputs.get("cidr"),
        )
        if protocol.startswith("icmp"):
            fields["icmp"] = {"code": inputs.get("icmpCode", 0), "type": inputs.get("icmpType", 0)}
        if "cidr" not in inputs:
            fields["security_group"] = _member(api, inputs)
        before = {rule["id"] for rule in group["rules"]}
        with contextlib.suppress(PendingError):  # The operation refers to the group: the rule itself tells.
            api.change("add_rule_to_security_group", id=group["id"], **fields)
        # Others may have added rules by now: ours is the one that fits.
        for rule in api.call("get_security_group", id=group["id"])["rules"]:
            if rule["id"] not in before and _fits(rule, fields):
                return str(rule["id"])
        raise ProviderError(f"security group {group['id']}: the rule is gone right after it was written")

    def find(self, api: Api, id: str, known: Properties) -> Json | None:  # noqa: D102
        group = _group(api, known.get("securityGroupId"), known.get("securityGroup"))
        for rule in [] if group is None else group["rules"]:
            if rule["id"] == id:
                return {**rule, "group": group}
        return None

    def show(self, api: Api, found: Json, known: Properties) -> Properties:  # noqa: ARG002, D102
        member, icmp = found.get("security-group", {}), found.get("icmp", {})
        outputs = {
            "description": found.get("description", ""),
            "type": found["flow-direction"].upper(),
            "protocol": found["protocol"].upper().replace("V6", "v6"),
            "cidr": found.get("network"),
            "startPort": found.get("start-port"),
            "endPort": found.get("end-port"),
            "icmpCode": icmp.get("code"),
            "icmpType": icmp.get("type"),
            "securityGroupId": found["group"]["id"],
            "securityGroup": found["group"]["name"],
            "userSecurityGroupId": member.get("id"),
            "userSecurityGroup": member.get("name") if "id" in member else None,
            "publicSecurityGroup": None if "id" in member else member.get("name"),
        }
        return {name: value for name, value in outputs.items() if value is not None}

    def remove(self, api: Api, id: str, known: Properties) -> None:  # noqa: D102
        api.remove("delete_rule_from_security_group", id=known["securityGroupId"], rule_id=id)

    def imported(self, id: str) -> Properties:  # noqa: D102
        if "/" not in id:
            raise ProviderError(
                f"invalid ID {id!r}, expected format <SECURITY-GROUP-ID>/<SECURITY-GROUP-RULE-ID>"
            )
        return {"securityGroupId": id.partition("/")[0]}

    def own_id(self, id: str) -> str:  # noqa: D102
        return id.rpartition("/")[2]


class PrivateNetwork(Kind):
    """A network of the nodes, with or without DHCP."""

    of_type = "exoscale:index/privateNetwork:PrivateNetwork"
    zoned = True
    replace_on = frozenset({"zone"})
    checks: ClassVar[Mapping[str, Check]] = {"startIp": address, "endIp": address, "netmask": address}

    def make(self, api: Api, inputs: Properties) -> str:  # noqa: D102
        return api.change("create_private_network", **present(**_network_fields(inputs)))

    def find(self, api: Api, id: str, known: Properties) -> Json | None:  # noqa: ARG002, D102
        return api.find("get_private_network", id=id)

    def show(self, api: Api, found: Json, known: Properties) -> Properties:  # noqa: ARG002, D102
        addresses = {"startIp": "start-ip", "endIp": "end-ip", "netmask": "netmask"}
        return {
            "name": found["name"],
            "description": found.get("description", ""),
            "labels": found.get("labels", {}),
            "zone": known["zone"],
            **{name: found[field] for name, field in addresses.items() if field in found},
        }

    def change(self, api: Api, id: str, old: Properties, new: Properties) -> None:  # noqa: D102
        before, after = _network_fields(old), _network_fields(new)
        changed = {field: value for field, value in after.items() if value != before[field]}
        if changed:
            api.change("update_private_network", id=id, **changed)

    def remove(self, api: Api, id: str, known: Properties) -> None:  # noqa: ARG002, D102
        api.remove("delete_private_network", id=id)


def _network_fields(inputs: Properties) -> Json:
    return {
        "name": inputs.get("name"),
        "description": inputs.get("description", ""),
        "labels": inputs.get("labels", {}),
        "start_ip": inputs.get("startIp"),
        "end_ip": inputs.get("endIp"),
        "netmask": inputs.get("netmask"),
    }


def _group(api: Api, id: str | None, name: str | None) -> Json | None:
    if id:
        return api.find("get_security_group", id=id)
    if not name:
        return None
    groups = api.call("list_security_groups")["security-groups"]
    found = next((group for group in groups if group["name"].lower() == name.lower()), None)
    return None if found is None else api.find("get_security_group", id=found["id"])


def _member(api: Api, inputs: Properties) -> Json:
    if public := inputs.get("publicSecurityGroup"):
        return {"name": public, "visibility": "public"}
    if not any(inputs.get(name) for name in _SOURCES):
        raise ProviderError(
            "either cidr or user_security_group_id or user_security_group or public_security_group must be "
            "specified"
        )
    group = _group(api, inputs.get("userSecurityGroupId"), inputs.get("userSecurityGroup"))
    if group is None:
        raise ProviderError("unable to retrieve Security Group: resource not found")
    return {"id": group["id"]}


def _fits(rule: Json, fields: Json) -> bool:
    wanted = {name.replace("_", "-"): value for name, value in fields.items()}
    member = wanted.pop("security-group", {})
    found = rule.get("security-group", {})
    return all(rule.get(name) == value for name, value in wanted.items()) and all(
        found.get(name) == member[name] for name in ("id", "name") if name in member
    )
