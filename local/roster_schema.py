"""The roster's JSON schema (`tenants.schema.json`), by which an editor completes and checks what one writes.

Generated from the model and the tiers, so that the editor refuses what the program would refuse. Only the
program sees more than one entry at a time: a second use of an id or of a key is told there alone.
Draft 7 is what editors' YAML support goes by.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infra.tenants.roster import Roster
from infra.tenants.roster_rules import RESERVED, SIZES
from infra.tenants.roster_text import UNSEEN
from infra.tenants.tiers import TIERS, Tier
from local.paths import ROOT

PATH = ROOT / "tenants.schema.json"


def write() -> Path:
    """Bring the file up to date."""
    PATH.write_text(text(), encoding="utf-8")
    return PATH


def text() -> str:
    """What the file has to hold."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def schema() -> dict[str, Any]:
    """The schema of the whole file."""
    generated = _tidy(Roster.model_json_schema())
    entry = generated["$defs"]["TenantEntry"]
    entry["properties"]["id"]["not"] = {"enum": sorted(RESERVED)}
    entry["allOf"] = list(_rules())
    _seen(generated)
    for key in ("keep", "discard", "claims"):
        entry["properties"][key]["uniqueItems"] = True
    generated["properties"]["slices"]["additionalProperties"] = False
    return {"$schema": "http://json-schema.org/draft-07/schema#", **generated, "title": "Roster"}


def _tidy(node: Any) -> Any:
    """Without what tells a reader nothing, and without null, which the roster takes for a forgotten value."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    tidy = {
        key: _tidy(value)
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str)) and not (key == "default" and value in (None, {}))
    }
    options = [option for option in tidy.pop("anyOf", []) if option != {"type": "null"}]
    return {**tidy, **(options[0] if options else {})}


def _seen(node: Any) -> None:
    """Refuse, in each text that may hold any character, those that nobody sees."""
    for below in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _seen(below)
    if isinstance(node, dict) and "[^" in str(node.get("pattern", "")):
        node["not"] = {"pattern": UNSEEN}


def _rules() -> Iterator[dict[str, Any]]:
    """The rules of `infra/tenants/roster_rules.py`, as far as they concern one entry."""
    leaving = {"properties": {"state": {"const": "offboarding"}}, "required": ["state"]}
    section = {"required": ["offboarding"]}
    yield {"if": leaving, "then": section, "else": {"not": section}}
    waived = {"properties": {"backup": {"const": "waived"}}}
    reasoned = {"properties": {"offboarding": {"if": waived, "then": {"required": ["reason"]}}}}
    yield reasoned
    for name, tier in TIERS.items():
        this = {"properties": {"tier": {"const": name}}, "required": ["tier"]}
        yield {"if": this, "then": {"allOf": list(_rules_of(tier))}}


def _rules_of(tier: Tier) -> Iterator[dict[str, Any]]:
    kept = _names("keep", "workspace")
    limits = {key: getattr(tier.maximum, attribute) for key, attribute in SIZES.items()}
    if tier.machine:
        yield {"not": kept}
        yield _at_most(limits)
    else:
        largest = max(known.maximum.workspace_gib for known in TIERS.values())
        parked = _at_most({**limits, "workspaceGib": largest})
        parked["properties"]["sizes"]["required"] = ["workspaceGib"]
        yield {"if": kept, "then": {**parked, "required": ["sizes"]}, "else": _at_most(limits)}
        yield {"not": {"required": ["idleSeconds"]}}
        yield {"properties": {"overrides": {"not": {"required": ["image"]}}}}
    if not tier.vpn:
        yield {"not": {"required": ["vpn"]}}
    if not tier.own_database:
        yield {"properties": {"ownDatabase": {"const": False}}}


def _at_most(limits: dict[str, int]) -> dict[str, Any]:
    return {
        "properties": {"sizes": {"properties": {key: {"maximum": limit} for key, limit in limits.items()}}}
    }


def _names(key: str, value: str) -> dict[str, Any]:
    return {"properties": {key: {"contains": {"const": value}}}, "required": [key]}
