"""Who must approve: the rules in approvals.yaml, applied to what changes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from review.changes import Changes

RULES = Path(__file__).with_name("approvals.yaml")


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why, and what of it."""

    because: str
    causes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Approval:
    """Somebody who must approve."""

    approver: str
    """As people call it."""
    person: str
    """The e-mail address, where it is one person's task."""
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, kw_only=True)
class Affected:
    """A tenant that the change concerns."""

    id: str
    owner: str
    fate: str
    """added, removed, moved, offboarding, suspended, moving or changed."""


def approvals(
    changes: Changes,
    tenants: Iterable[Affected],
    weaker: Iterable[str],
    paths: Iterable[str],
    rules_file: Path = RULES,
) -> tuple[Approval, ...]:
    """Apply the rules; `weaker` names the tenants that share more than before."""
    document = yaml.safe_load(rules_file.read_text(encoding="utf-8"))
    affected, weakened, files = tuple(tenants), tuple(weaker), tuple(paths)
    unnamed = _unnamed(document, files)
    asked: dict[tuple[str, str], dict[str, list[str]]] = {}
    for rule in document["rules"]:
        when = rule["when"]
        concerned = [tenant for tenant in affected if tenant.fate in when.get("tenants", ())]
        causes = [
            *((tenant.owner, f"{tenant.id} ({tenant.fate})") for tenant in concerned),
            *(("", f"{change.owner}: {change.name}") for change in changes.losses if when.get("losses")),
            *(("", name) for name in weakened if when.get("weaker")),
            *(("", name) for name in _touched(changes, when.get("types", ()))),
            *(("", name) for name in files if _any(name, when.get("paths", ()))),
            *(("", name) for name in unnamed if when.get("unnamed")),
        ]
        for owner, cause in causes:
            who = (rule["approver"], owner if rule["approver"] == "owner" else "")
            asked.setdefault(who, {}).setdefault(rule["because"], []).append(cause)
    return tuple(
        Approval(
            approver=document["approvers"][approver],
            person=person,
            reasons=tuple(Reason(because=why, causes=tuple(what)) for why, what in reasons.items()),
        )
        for (approver, person), reasons in asked.items()
    )


def _touched(changes: Changes, types: Iterable[str]) -> list[str]:
    return [change.name for change in changes.made if change.kind == "shared" and _any(change.type, types)]


def _unnamed(document: Mapping[str, Any], files: Iterable[str]) -> list[str]:
    """Return the files that no rule names, so that a new folder has an approver from its first day."""
    named = [pattern for rule in document["rules"] for pattern in rule["when"].get("paths", ())]
    return [name for name in files if not _any(name, [*named, *document["by_tenant"]])]


def _any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
