"""The tenants of the soak, and the roster of each of its updates."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

Stage = Literal["add", "migrate", "move", "offboard", "remove"]
STAGES: Sequence[Stage] = ("add", "migrate", "move", "offboard", "remove")
"""The updates of a round, in their order."""

ATTACKERS: Mapping[str, str] = {
    f"attacker{number:02}": tier
    for number, tier in enumerate(12 * ["starter"] + 6 * ["professional"] + 2 * ["enterprise"], start=1)
}
"""Who does harm, by tier."""

WITNESSES: Mapping[str, str] = {"quiet1": "starter", "quiet2": "starter", "quiet3": "professional"}
"""Whose work is measured, by tier."""

_GUESTS = (
    ("starter", "professional"),
    ("starter", "professional"),
    ("professional", "starter"),
    ("professional", "enterprise"),
    ("enterprise", "private-cloud"),
)
"""Who comes and goes: the tier as which each comes, and the one that it moves to."""
_WITH_FINAL_BACKUP = 0

Entry = Mapping[str, Any]


def guests(turn: int) -> list[str]:
    """The ids of those who come and go in a round; an id is never given twice."""
    return [f"guest{turn}{letter}" for letter in "abcde"]


def roster(turn: int, stage: Stage | None) -> dict[str, Any]:
    """The roster at a stage of a round; before the first of them if it is None."""
    gone = [guest for earlier in range(1, turn) for guest in guests(earlier)]
    present: list[Entry] = []
    if stage == "remove":
        gone += guests(turn)
    elif stage is not None:
        present = list(_present(turn, stage))
    stay = [_entry(name, tier) for name, tier in {**ATTACKERS, **WITNESSES}.items()]
    return {"tenants": [*stay, *present], **({"retired": gone} if gone else {})}


def _present(turn: int, stage: Stage) -> Iterator[Entry]:
    moved = stage in ("move", "offboard")
    for number, (guest, tiers) in enumerate(zip(guests(turn), _GUESTS, strict=True)):
        entry = _entry(guest, tiers[moved])
        if stage == "offboard":
            waived = {"backup": "waived", "reason": "the soak is over"}
            backup = {"backup": "final"} if number == _WITH_FINAL_BACKUP else waived
            entry = {**entry, "state": "offboarding", "offboarding": backup}
        yield entry


def _entry(name: str, tier: str) -> Entry:
    return {"id": name, "name": name.capitalize(), "tier": tier, "owner": f"ops@{name}.example"}
