"""Who must approve: the rules in approvals.yaml, applied to what changes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from review.changes import Changes

RULES = Path(__file__).with_name("approvals.yaml")


@dataclass(frozen=True, kw_only=True)
class Approval:
    """Somebody who must approve."""

    approver: str
    """As people call it."""
    person: str
    """The e-mail address, where it is one person's task."""
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Affected:
    """A tenant that the change concerns."""

    id: str
    owner: str
    fate: str
    """added, removed, moved, offboarding, suspended or changed."""


def approvals(
    changes: Changes,
    tenants: Iterable[Affected],
    weaker: Iterable[str],
    paths: Iterable[str],
    rules_file: Path = RULES,
) -> tuple[Approval, ...]:
    """Apply the rules; `weaker` names the tenants that share more than before."""
    document = yaml.safe_load(rules_file.read_text(encoding="utf-8"))
    known, affected, weakened, files = document["approvers"], tuple(tenants), tuple(weaker), tuple(paths)
    reasons: dict[tuple[str, str], list[str]] = {}
    for rule in document["rules"]:
        when = rule["when"]
        concerned = [tenant for tenant in affected if tenant.fate in when.get("tenants", ())]
        causes = [f"{tenant.id} ({tenant.fate})" for tenant in concerned]
        causes += [f"{change.owner}: {change.name}" for change in changes.losses if when.get("losses")]
        causes += [name for name in weakened if when.get("weaker")]
        causes += _touched(changes, when)
        causes += [name for name in files if _any(name, when.get("paths", ()))]
        if rule["approver"] == "owner":
            for tenant in concerned:
                reasons.setdefault(("owner", tenant.owner), []).append(f"{rule['because']}: {tenant.id}")
        elif causes:
            told = f"{rule['because']}: {_some(causes)}"
            reasons.setdefault((rule["approver"], ""), []).append(told)
    return tuple(
        Approval(approver=known[approver], person=person, reasons=tuple(why))
        for (approver, person), why in reasons.items()
    )


def _touched(changes: Changes, when: Mapping[str, list[str]]) -> list[str]:
    return [
        change.name
        for change in changes.made
        if change.kind == "shared" and _any(change.type, when.get("types", ()))
    ]


def _any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


_SHOWN = 4


def _some(causes: list[str]) -> str:
    distinct = list(dict.fromkeys(causes))
    more = len(distinct) - _SHOWN
    return ", ".join(distinct[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
