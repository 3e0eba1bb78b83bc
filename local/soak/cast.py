"""The tenants of the soak, and the roster of each of its updates."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

Stage = Literal["add", "migrate", "move", "offboard", "remove"]
STAGES: Sequence[Stage] = ("add", "migrate", "move", "offboard", "remove")
"""The updates through which a party goes, in their order."""

ATTACKERS: Mapping[str, str] = {
    f"attacker{number:02}": tier
    for number, tier in enumerate(12 * ["starter"] + 6 * ["professional"] + 2 * ["enterprise"], start=1)
}
"""The tenants that do harm, by id, with their tiers."""

WITNESSES: Mapping[str, str] = {"witness1": "starter", "witness2": "starter", "witness3": "professional"}
"""The tenants whose work is measured, by id, with their tiers."""

_GUESTS = (
    ("starter", "professional"),
    ("starter", "professional"),
    ("professional", "starter"),
    ("professional", "enterprise"),
    ("enterprise", "private-cloud"),
)
"""Of each tenant that comes and goes, the tier that it joins with and the one that it moves to."""
_WITH_FINAL_BACKUP = 0

Entry = Mapping[str, Any]


Party = Literal["quiet", "loud"]
"""Five who come and go together: while nobody does harm, or while everybody does."""


def guests(party: Party) -> list[str]:
    """Their ids."""
    return [f"{party}guest{number}" for number in range(1, len(_GUESTS) + 1)]


def roster(reached: Mapping[Party, Stage]) -> dict[str, Any]:
    """The roster in which each party has reached a stage; whoever is not named has not come yet."""
    gone = [guest for party, stage in reached.items() if stage == "remove" for guest in guests(party)]
    present = [entry for party, stage in reached.items() for entry in _present(party, stage)]
    stay = [_entry(name, tier) for name, tier in {**ATTACKERS, **WITNESSES}.items()]
    return {"tenants": [*stay, *present], **({"retired": gone} if gone else {})}


def _present(party: Party, stage: Stage) -> Iterator[Entry]:
    if stage == "remove":
        return
    moved = stage in ("move", "offboard")
    for number, (guest, tiers) in enumerate(zip(guests(party), _GUESTS, strict=True)):
        entry = _entry(guest, tiers[moved])
        if stage == "offboard":
            waived = {"backup": "waived", "reason": "the soak is over"}
            backup = {"backup": "final"} if number == _WITH_FINAL_BACKUP else waived
            entry = {**entry, "state": "offboarding", "offboarding": backup}
        yield entry


def _entry(name: str, tier: str) -> Entry:
    return {"id": name, "name": name.capitalize(), "tier": tier, "owner": f"ops@{name}.example"}
