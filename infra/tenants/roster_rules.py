"""What one entry of the roster may not say, though each of its values is of the right form.

The rules look at the entry as it was written, so that no other mistake in it hides them. Rules between
entries are in `roster.py`, rules between an entry and what it was before in `registration.py`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from infra.tenants.roster_text import Position
from infra.tenants.tiers import TIERS, Tier

_PLATFORM = """
admin api app auth backup billing blog cdn console control dashboard dev docs domain exoscale ftp gateway
grafana help imap internal kubernetes kubevirt localhost login logs longhorn mail metrics monitoring ns1 ns2
platform pop portal postgres postgresql prometheus public redis registry root shop smtp sso staging status
support system tenant tenants test valkey vault vpn webmail www
"""
"""Names under the domain that are the platform's, or that customers would take for it."""

_WORDS = "all any default false nan none null off select true user yes"
"""Words that YAML, SQL or a shell script take for something else than a name."""

RESERVED = frozenset(f"{_PLATFORM} {_WORDS}".split())
"""Ids that no tenant can have."""

SIZES = {"cpu": "cpu", "memoryGib": "memory_gib", "workspaceGib": "workspace_gib"}
"""The keys of `sizes`, and what a `Size` calls them."""

_UNSIZED = {
    "cpu": "its agents run in the runtime that others share; remove it or change the tier",
    "memoryGib": "its agents run in the runtime that others share; remove it or change the tier",
    "workspaceGib": "its workspace is a folder of the prefix; remove it, or write `keep: [workspace]` too if "
    "it is the volume of an earlier tier",
}
"""Why a tier that has none of a size takes none."""

_Found = Iterator[tuple[Position, str]]


def beyond_shape(data: Mapping[str, Any]) -> _Found:
    """Where in the entry a rule is broken, and what to tell."""
    written = data.get("tier")
    tier = next((known for name, known in TIERS.items() if name == written), None)
    yield from _reserved(data)
    yield from _twice(data)
    yield from _offboarding(data)
    if tier is not None:
        yield from _sizes(data, tier)
        yield from _not_in_tier(data, tier)


def _reserved(data: Mapping[str, Any]) -> _Found:
    if isinstance(data.get("id"), str) and data["id"] in RESERVED:
        yield (
            ("id",),
            f'"{data["id"]}" is reserved: the platform or a tool takes it for its own; choose another id',
        )


def _twice(data: Mapping[str, Any]) -> _Found:
    peers = [_section({"peer": peer}, "peer").get("name") for peer in _list(_section(data, "vpn"), "peers")]
    lists: dict[Position, list[Any]] = {
        **{(key,): _list(data, key) for key in ("keep", "discard", "claims")},
        ("vpn", "peers"): peers,
    }
    for position, values in lists.items():
        seen: set[str] = set()
        for index, value in enumerate(values):
            if isinstance(value, str) and value in seen:
                yield (
                    (*position, index),
                    f'`{".".join(map(str, position))}` names "{value}" twice, so one of the two was meant to '
                    "be something else; keep one",
                )
            if isinstance(value, str):
                seen.add(value)


def _offboarding(data: Mapping[str, Any]) -> _Found:
    leaving, written = data.get("state") == "offboarding", data.get("offboarding") is not None
    if leaving and not written:
        yield (
            ("state",),
            "`offboarding` is missing: nobody could say what becomes of the data; write "
            "`offboarding: {backup: final}`, or `{backup: waived, reason: …}` with the customer's reason",
        )
    if written and not leaving:
        yield (
            ("offboarding",),
            "`offboarding` stands with a tenant that is to stay, so it would do nothing; remove it or write "
            "`state: offboarding`",
        )
    section = _section(data, "offboarding")
    if section.get("backup") == "waived" and "reason" not in section:
        yield (
            ("offboarding",),
            "`offboarding.reason` is missing: nobody could say later why no backup was taken; write who "
            "waived it, and why",
        )


def _sizes(data: Mapping[str, Any], tier: Tier) -> _Found:
    sizes, name = _section(data, "sizes"), data["tier"]
    parked = "workspace" in _list(data, "keep") and not tier.machine
    limits = {key: getattr(tier.maximum, attribute) for key, attribute in SIZES.items()}
    if parked:
        limits["workspaceGib"] = max(known.maximum.workspace_gib for known in TIERS.values())
        if "workspaceGib" not in sizes:
            yield (
                ("keep",),
                "`sizes.workspaceGib` is missing: the volume to keep would be declared with a size that it "
                "has not; write the size it had",
            )
    for key, limit in limits.items():
        if type(sizes.get(key)) is not int or sizes[key] <= limit:
            continue
        if limit == 0:
            yield ("sizes", key), f"{key} means nothing in tier {name}: {_UNSIZED[key]}"
        else:
            yield (
                ("sizes", key),
                f"{key} {sizes[key]} is above the {limit} of tier {name}, so more would be delivered than "
                "is paid for; lower it or change the tier",
            )


def _not_in_tier(data: Mapping[str, Any], tier: Tier) -> _Found:
    name = data["tier"]
    if "workspace" in _list(data, "keep") and tier.machine:
        yield (
            ("keep",),
            f"tier {name} has a machine, which keeps its workspace anyway, so `keep` would do nothing; "
            "remove it",
        )
    if data.get("state") == "moving" and not tier.machine:
        yield (
            ("state",),
            f"tier {name} has no machine, so its workspace is in the prefix already and nothing has to be "
            "brought there; remove `state: moving`, and change `tier` in the same edit if it is to move",
        )
    if data.get("idleSeconds") is not None and not tier.machine:
        yield (
            ("idleSeconds",),
            f"tier {name} has no machine, and only a machine sleeps, so it would do nothing; remove it or "
            f"change the tier ({_tiers_with('machine')})",
        )
    if _section(data, "contract").get("wakeSeconds") is not None and not tier.machine:
        yield (
            ("contract", "wakeSeconds"),
            f"tier {name} has no machine, and only a machine wakes, so it would promise nothing; remove it "
            f"or change the tier ({_tiers_with('machine')})",
        )
    if _section(data, "overrides").get("image") is not None and not tier.machine:
        yield (
            ("overrides", "image"),
            f"tier {name} has no machine, and the image is the system disk of one, so it would do nothing; "
            f"remove it or change the tier ({_tiers_with('machine')})",
        )
    if data.get("vpn") is not None and not tier.vpn:
        yield (
            ("vpn",),
            f"tier {name} has no VPN, so no peer could connect; remove `vpn` or change the tier "
            f"({_tiers_with('vpn')})",
        )
    if data.get("ownDatabase") is True and not tier.own_database:
        yield (
            ("ownDatabase",),
            f"tier {name} has no database of its own, so more would be delivered than is paid for; remove "
            f"`ownDatabase` or change the tier ({_tiers_with('own_database')})",
        )


def _tiers_with(part: str) -> str:
    return " or ".join(name for name, tier in TIERS.items() if getattr(tier, part))


def _section(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A mapping inside, empty where something else was written."""
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def _list(data: Mapping[str, Any], key: str) -> list[Any]:
    """A list inside, empty where something else was written."""
    value = data.get(key)
    return value if isinstance(value, list) else []
