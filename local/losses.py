"""What the engine refuses to delete because it holds a tenant's data, told as what to write instead."""

import re
from collections.abc import Iterator
from pathlib import Path

from infra.tenants.retired import part_of
from infra.tenants.roster import load_roster

_REFUSED = re.compile(r'resource "(urn:\S+)" cannot be (?:delet|replac)ed')
"""The engine's words."""


def reasons(told: str, roster: Path, shard: str | None = None) -> Iterator[str]:
    """One message for all tenants that `roster` no longer has, and one for each that would lose a part.

    `told` is what the engine told of a failure; nothing is yielded where it failed for another reason. A
    stack of one slice, `shard`, loses tenants to others, too.
    """
    parts: dict[str, set[str]] = {}
    for tenant, part in filter(None, map(part_of, _REFUSED.findall(told))):
        parts.setdefault(tenant, set()).add(part)
    if not parts:
        return
    known = load_roster(roster)
    gone = sorted(parts.keys() - {entry.id for entry in known.tenants})
    own = known.tenants if shard is None else known.in_slice(shard)
    elsewhere = sorted(parts.keys() - {entry.id for entry in own} - set(gone))
    if gone:
        entry, them = ("entry", "it has") if len(gone) == 1 else ("entries", "they have")
        yield (
            f"error: {', '.join(gone)}: no longer in the roster, so all that {them} would be deleted: "
            f"tables, secrets, files, workspace. Put the {entry} back and write `state: offboarding` with "
            "`offboarding: {backup: final}` (or `waived` and a `reason`); after that update, take the "
            f"{entry} out and add the id to `retired`"
        )
    if elsewhere:
        yield (
            f"error: {', '.join(elsewhere)}: no longer in slice {shard}, so this stack would delete what "
            "another one is to keep. Put the roster's `slices` back, or move the state first "
            "(docs/runbooks/cut-the-roster-into-slices.md)"
        )
    for tenant in sorted(parts.keys() - set(gone) - set(elsewhere)):
        yield (
            f"error: {tenant}: {', '.join(sorted(parts[tenant]))} would be deleted, and the data with it. "
            "Put the entry back as it was; or, if the data may go, write `discard: [workspace]` or `discard: "
            "[database]` and run that update before this one"
        )
