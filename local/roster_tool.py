"""`python -m local tenant …`: changes the roster as a pull request would, and says what comes next.

Whatever is asked for, the roster stays valid: a mistake is told in one message and nothing is written.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from rich.table import Table

from infra.tenants.roster import TenantEntry, load_roster
from infra.tenants.tiers import TIERS, TierName
from local.consoles import console
from local.errors import LocalError
from local.paths import ROOT
from local.roster_edit import Entry, RosterText, exclusive, put

_REVIEW = "Next: `make preview` shows what it changes; then open a pull request."
_DISCARDABLE = ("workspace", "database")


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the commands below `tenant`."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    def add(action: Callable[[argparse.Namespace], None], name: str, summary: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=summary, description=summary)
        sub.set_defaults(action=action)
        if name != "list":
            sub.add_argument("id", metavar="ID")
        return sub

    sub = add(_add, "add", "add a tenant")
    sub.add_argument("--name", help="the customer as people call it")
    sub.add_argument("--owner", help="the e-mail address of whoever answers for the tenant")
    sub.add_argument("--tier", choices=get_args(TierName))
    for key in ("cpu", "memory-gib", "workspace-gib"):
        sub.add_argument(f"--{key}", type=int, metavar="N", help="other than the tier's own")
    sub = add(_list, "list", "list the tenants")
    sub.add_argument("--json", action="store_true", help="JSON on stdout")
    sub = add(_move, "move", "move a tenant to another tier")
    sub.add_argument("--tier", choices=get_args(TierName), required=True)
    sub.add_argument("--keep", choices=("workspace",), help="what the new tier has not, and is to stay")
    sub.add_argument(
        "--discard", choices=_DISCARDABLE, action="append", default=[], help="what may be destroyed"
    )
    add(_suspend, "suspend", "stop all that runs of a tenant, and keep its data")
    add(_resume, "resume", "serve a suspended tenant again, or take a move or an offboarding back")
    sub = add(_offboard, "offboard", "first step of a tenant's leaving: stop it, take the final backup")
    sub.add_argument("--backup", choices=("final", "waived"))
    sub.add_argument("--reason", help="who waived the backup, and why")
    add(_retire, "retire", "second step: drop the entry, so that the next update deletes all the tenant had")


def run(options: argparse.Namespace) -> None:
    """Do what was asked for."""
    options.path = ROOT / "tenants.yaml"
    with exclusive(options.path):
        options.action(options)


def _add(options: argparse.Namespace) -> None:
    roster = RosterText(options.path)
    wanted = {
        "name": ("--name", "nobody could tell whose tenant this is", '"The customer"'),
        "owner": ("--owner", "nobody could be asked about it", "somebody@customer.example"),
        "tier": ("--tier", "nobody could say what it is to get", "|".join(get_args(TierName))),
    }
    missing = {key: told for key, told in wanted.items() if not getattr(options, key)}
    if missing:
        flags = " and ".join(flag for flag, _, _ in missing.values())
        reasons = ", and ".join(reason for _, reason, _ in missing.values())
        rest = " ".join(f"{flag} {example}" for flag, _, example in missing.values())
        raise LocalError(
            f"{flags} {'is' if len(missing) == 1 else 'are'} missing, so {reasons}; nothing was changed. "
            f"Add: {rest}"
        )
    sizes = {
        key: value
        for key, value in (
            ("cpu", options.cpu),
            ("memoryGib", options.memory_gib),
            ("workspaceGib", options.workspace_gib),
        )
        if value is not None
    }
    entry = {"id": options.id, "name": options.name, "tier": options.tier, "owner": options.owner}
    roster.add({**entry, **({"sizes": sizes} if sizes else {})})
    _saved(roster, _REVIEW)


def _list(options: argparse.Namespace) -> None:
    path: Path = options.path
    roster = load_roster(path)
    if options.json:
        sys.stdout.write(roster.model_dump_json(by_alias=True, exclude_none=True) + "\n")
        return
    table = Table("id", "name", "tier", "state", "owner", title=f"{len(roster.tenants)} tenants")
    for entry in roster.tenants:
        table.add_row(entry.id, entry.name, entry.tier, entry.state, entry.owner)
    console(width=None if sys.stdout.isatty() else 140).print(table)


def _move(options: argparse.Namespace) -> None:
    roster = RosterText(options.path)
    entry, new = roster.entry(options.id), TIERS[_tier(options.tier)]
    old = TIERS[entry.tier]
    if entry.tier == options.tier:
        raise LocalError(f"{entry.id} is in tier {entry.tier} already; nothing was changed.")
    notes: list[str] = []
    volume = entry.size.workspace_gib if old.machine or "workspace" in entry.keep else 0
    discarded = set(options.discard)
    goes = bool(volume) and not new.machine and options.keep is None and "workspace" not in entry.keep
    if not discarded <= set(entry.discard):
        _let_go(roster, entry, discarded)
        return
    if entry.own_database and not new.own_database and "database" not in discarded:
        raise LocalError(
            f"Tier {options.tier} has no database of its own, so that of {entry.id} would be lost; nothing "
            "was changed. Have the data brought over to its schema, then add: --discard database"
        )
    if goes and "workspace" not in discarded and entry.state != "moving":
        _in_state(roster, entry.id, ("active",))
        _hand_over(roster, entry, options.tier)
        return
    parks = options.keep is not None or "workspace" in entry.keep
    keep = ["workspace"] if volume and not new.machine and parks and "workspace" not in discarded else []
    if options.keep and not keep:
        raise LocalError(
            f"There is nothing to keep: {entry.id} "
            + ("has a machine in the new tier, too" if new.machine else "has no workspace volume")
            + "; nothing was changed. Leave --keep away."
        )
    sizes: dict[str, int] = {}
    for key, wanted, limit in (
        ("cpu", entry.sizes.cpu, new.maximum.cpu),
        ("memoryGib", entry.sizes.memory_gib, new.maximum.memory_gib),
    ):
        if wanted is not None and wanted <= limit:
            sizes[key] = wanted
        elif wanted is not None:
            notes.append(f"sizes.{key} {wanted} is gone: tier {options.tier} has at most {limit}.")
    if keep or (new.machine and volume > new.default.workspace_gib and "workspace" not in discarded):
        sizes["workspaceGib"] = volume  # a volume only grows
    if entry.vpn and not new.vpn:
        notes.append(f"The VPN is gone: tier {options.tier} has none.")
    if entry.idle_seconds and not new.machine:
        notes.append(f"idleSeconds is gone: only a machine sleeps, and tier {options.tier} has none.")
    if entry.overrides.image and not new.machine:
        notes.append(f"overrides.image is gone: it is a machine's, and tier {options.tier} has none.")
    unfounded = [claim for claim in entry.claims if not new.may_claim(claim)]
    if unfounded:
        notes.append(
            f"Tier {options.tier} does not bear out: {', '.join(unfounded)}. The review will say so."
        )

    def edit(mapping: Entry) -> None:
        put(mapping, "tier", options.tier)
        if entry.state == "moving":
            put(mapping, "state", None)
        _put_sizes(mapping, sizes)
        put(mapping, "keep", keep or None)
        put(mapping, "discard", sorted(discarded) or None)
        if not new.machine:
            put(mapping, "idleSeconds", None)
            put(mapping, "overrides", None)
        if not new.vpn:
            put(mapping, "vpn", None)
        if not new.own_database:
            put(mapping, "ownDatabase", None)

    roster.change(options.id, edit)
    _saved(roster, *notes, _REVIEW)


def _let_go(roster: RosterText, entry: TenantEntry, discarded: set[str]) -> None:
    """The first step of a move that destroys something: nothing goes that an update before did not name."""
    names = sorted(discarded | set(entry.discard))
    roster.change(entry.id, lambda mapping: put(mapping, "discard", names))
    _saved(
        roster,
        f"The first of two steps. {_REVIEW} Its update lifts the protection of the {' and '.join(names)}"
        f" of {entry.id}; then give the same command again.",
    )


def _hand_over(roster: RosterText, entry: TenantEntry, tier: str) -> None:
    """The first step of a move to a tier without machines: the workspace goes before its volume does."""
    roster.change(entry.id, lambda mapping: put(mapping, "state", "moving"))
    _saved(
        roster,
        f"The first of two steps. {_REVIEW} In tier {tier} there is no machine: this update stops that of "
        f"{entry.id} and brings its workspace to the prefix; then give the same command again. Nobody is "
        "served meanwhile. Instead, --keep workspace parks the volume, --discard workspace has it deleted.",
    )


def _put_sizes(mapping: Entry, sizes: dict[str, int]) -> None:
    """Bring the entry's sizes to `sizes`, leaving those alone that stay."""
    if not sizes:
        put(mapping, "sizes", None)
        return
    if "sizes" not in mapping:
        put(mapping, "sizes", sizes)
        return
    for key in [key for key in mapping["sizes"] if key not in sizes]:
        put(mapping["sizes"], key, None)
    for key, value in sizes.items():
        put(mapping["sizes"], key, value)


def _suspend(options: argparse.Namespace) -> None:
    _change_state(options, "suspended", from_=("active",))


def _resume(options: argparse.Namespace) -> None:
    _change_state(options, None, from_=("suspended", "moving", "offboarding"))


def _change_state(options: argparse.Namespace, state: str | None, *, from_: tuple[str, ...]) -> None:
    roster = RosterText(options.path)
    entry = _in_state(roster, options.id, from_)

    def edit(mapping: Entry) -> None:
        put(mapping, "state", state)
        put(mapping, "offboarding", None)

    roster.change(entry.id, edit)
    _saved(roster, _REVIEW)


def _offboard(options: argparse.Namespace) -> None:
    roster = RosterText(options.path)
    entry = _in_state(roster, options.id, ("active", "suspended", "moving"))
    if options.backup is None or (options.backup == "waived" and not options.reason):
        raise LocalError(
            f"Nobody could say what becomes of the data of {entry.id}; nothing was changed. Add --backup "
            'final for one more backup, or --backup waived --reason "who waived it, and why".'
        )
    leaving: dict[str, Any] = {"backup": options.backup}
    if options.reason:
        leaving["reason"] = options.reason

    def edit(mapping: Entry) -> None:
        put(mapping, "state", "offboarding")
        put(mapping, "offboarding", leaving)

    roster.change(entry.id, edit)
    backup = "takes the final backup" if options.backup == "final" else "notes that the backup is waived"
    _saved(
        roster,
        f"{_REVIEW} Its update stops the tenant, {backup} and lifts the protection of its data.",
        f'After that update: make tenant ARGS="retire {entry.id}"',
    )


def _retire(options: argparse.Namespace) -> None:
    roster = RosterText(options.path)
    entry = _in_state(roster, options.id, ("offboarding",))
    roster.retire(entry.id)
    _saved(
        roster,
        f"{_REVIEW} Its update deletes all that {entry.id} has, and leaves a receipt of it; "
        "the id is never used again.",
    )


def _in_state(roster: RosterText, identifier: str, states: tuple[str, ...]) -> TenantEntry:
    entry = roster.entry(identifier)
    if entry.state not in states:
        remedy = ""
        if states == ("offboarding",):
            remedy = f' First: make tenant ARGS="offboard {identifier} --backup final", and an update.'
        raise LocalError(
            f"{identifier} is {entry.state}, and this is for a tenant that is {' or '.join(states)}; nothing "
            f"was changed.{remedy}"
        )
    return entry


def _saved(roster: RosterText, *notes: str) -> None:
    sys.stdout.write(roster.save())
    sys.stdout.flush()
    for note in notes:
        sys.stderr.write(f"{note}\n")


def _tier(name: str) -> TierName:
    return next(tier for tier in TIERS if tier == name)
