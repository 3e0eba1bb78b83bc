"""The soak's own logic: who is in the roster, what is drawn, and what is made of what was seen."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from rich.console import Console

from infra.tenants.roster import Roster, load_roster
from local import bench, bench_soak
from local.attack.attempt import Attack, Target
from local.attack.harm import Harm, Harmed
from local.attack.tenants import Tenant
from local.soak import attackers, cast, figures, witness

OWN, OTHER, THIRD, GUEST = (
    Tenant({"id": name, "schema": f"tenant_{name}", "prefix": f"tenant_{name}/", "namespace": "", "vm": ""})
    for name in ("acme", "bluebird", "corvus", "guest")
)
SEEDS = range(300)


def loaded(tmp_path: Path, **reached: cast.Stage) -> Roster:
    file = tmp_path / "tenants.yaml"
    stages: dict[cast.Party, cast.Stage] = {**reached}  # type: ignore[dict-item]
    file.write_text(yaml.safe_dump(cast.roster(stages)), encoding="utf-8")
    return load_roster(file)


def tiers(roster: Roster) -> dict[str, str]:
    return {entry.id: entry.tier for entry in roster.tenants}


@pytest.mark.parametrize("stage", cast.STAGES)
def test_every_stage_is_a_roster_with_twenty_attackers_and_the_witnesses(
    tmp_path: Path, stage: cast.Stage
) -> None:
    there = tiers(loaded(tmp_path, quiet=stage)).keys()

    assert len(cast.ATTACKERS) == 20
    stay = cast.ATTACKERS.keys() | cast.WITNESSES.keys()
    assert there >= stay
    assert there - stay == (set() if stage == "remove" else set(cast.guests("quiet")))


def test_five_come_move_and_leave_for_good_one_of_them_with_a_final_backup(tmp_path: Path) -> None:
    came, moved, leaving, gone = (
        loaded(tmp_path, quiet=stage) for stage in ("add", "move", "offboard", "remove")
    )
    five = set(cast.guests("quiet"))

    assert len(five) == 5
    assert {name for name, tier in tiers(moved).items() if tier != tiers(came)[name]} == five
    assert tiers(leaving) == tiers(moved)
    backups = [entry.offboarding.backup for entry in leaving.tenants if entry.offboarding]
    assert sorted(backups) == ["final", *4 * ["waived"]]
    assert set(gone.retired) == five


def test_the_parties_are_other_tenants_and_each_is_at_a_stage_of_its_own(tmp_path: Path) -> None:
    both = loaded(tmp_path, quiet="remove", loud="move")

    assert set(both.retired) == set(cast.guests("quiet"))
    assert tiers(both).keys() >= set(cast.guests("loud"))


def weapons(**options: Any) -> attackers.Weapons:
    tenants = (OWN, OTHER, THIRD)
    sessions = dict.fromkeys(tenants, "session")
    attacks: list[Attack[str]] = [
        Attack(name=name, tried="", run=lambda *_: None, **options) for name in ("read", "write")
    ]
    harm: Harm[str] = Harm(
        kind="holds up others", name="fill", tried="", done=lambda *_: pytest.fail(), withstood=lambda _: None
    )
    return attackers.Weapons(
        [Target(server="A", sessions=sessions, victims=tenants, administrator="", attacks=attacks)],
        [Harmed(server="A", sessions=sessions, administrator="", harms=(harm,))],
    )


def draws(armed: attackers.Weapons) -> list[attackers.Try | attackers.DoHarm | None]:
    return [attackers.drawn(Random(seed), OWN, armed, [GUEST]) for seed in SEEDS]


def test_what_is_drawn_is_the_seeds_and_everything_is_drawn_at_some_time() -> None:
    armed = weapons()

    assert draws(armed) == draws(armed)
    tried = {(draw.attack.name, draw.victim) for draw in draws(armed) if isinstance(draw, attackers.Try)}
    assert tried == {(name, victim) for name in ("read", "write") for victim in (OTHER, THIRD)}
    harmed = {draw.victim for draw in draws(armed) if isinstance(draw, attackers.DoHarm)}
    assert harmed == {OTHER, THIRD, GUEST}


def test_what_reaches_for_the_platform_has_nobody_else_for_a_victim() -> None:
    tried = [draw for draw in draws(weapons(on_platform=True)) if isinstance(draw, attackers.Try)]

    assert {draw.victim for draw in tried} == {OWN}


def test_where_an_attack_makes_no_sense_nothing_is_tried() -> None:
    drawn = draws(weapons(spares=lambda _own, _victim: True))

    assert None in drawn
    assert not [draw for draw in drawn if isinstance(draw, attackers.Try)]


def test_nobody_uses_a_tenants_logins_beside_another_nor_waits_for_itself() -> None:
    crowd, order = attackers.Attackers(1, Console(quiet=True)), list[str]()

    def harm(*tenants: Tenant) -> None:
        with crowd.alone(*tenants):
            order.append("in")

    with ThreadPoolExecutor() as pool:
        pool.submit(harm, OWN, OWN).result(timeout=5)
        with crowd.alone(OWN, OTHER):
            waiting = [pool.submit(harm, *pair) for pair in ((OTHER, THIRD), (THIRD, OWN))]
            pool.submit(harm, THIRD).result(timeout=5)
            assert order == ["in", "in"]
        for one in waiting:
            one.result(timeout=5)


def piece(at: float, seconds: float, failure: str = "", kind: str = "rows") -> witness.Piece:
    return {"tenant": "quiet1", "kind": kind, "at": at, "seconds": seconds, "failure": failure}


def test_work_is_compared_within_the_updates_and_what_fails_counts_whenever_it_was() -> None:
    quiet = [piece(at, 0.001 * at) for at in range(100)]
    between = [piece(150, 9.0), piece(151, 9.0, "refused")]
    loud = [piece(200 + at, 0.003 * at) for at in range(100)]

    found = figures.work([*quiet, *between, *loud], [(0, 49), (50, 99)], [(200, 299)])["rows"]

    assert found["quiet"] == pytest.approx(0.095, abs=0.002)
    assert found["loud"] == pytest.approx(3 * found["quiet"])
    assert (found["pieces"], found["failed"], found["failure"]) == (202, 1, "quiet1: refused")


@pytest.mark.parametrize(
    ("breaks", "left"),
    [
        ([], [(10, 20), (30, 40)]),
        ([(12, 14)], [(10, 12), (14, 20), (30, 40)]),
        ([(5, 12), (18, 32), (39, 50)], [(12, 18), (32, 39)]),
        ([(0, 5), (20, 30), (40, 41)], [(10, 20), (30, 40)]),
        ([(9, 21)], [(30, 40)]),
        ([(11, 12), (13, 14)], [(10, 11), (12, 13), (14, 20), (30, 40)]),
    ],
)
def test_work_while_attackers_log_in_is_left_out(
    breaks: list[figures.Window], left: list[figures.Window]
) -> None:
    assert figures.without([(10, 20), (30, 40)], breaks) == left


def soaked() -> figures.Soaked:
    pieces = [piece(at, 0.1, kind=kind) for kind in witness.KINDS for at in range(4)]
    return {
        "updates": [{"name": "add, quiet", "failure": ""}],
        "receipts": {"quietguest1": ""},
        "attempts": 7,
        "denied": 7,
        "leaked": 0,
        "findings": [],
        "left": "",
        "work": figures.work(pieces, [(0, 1)], [(2, 3)]),
    }


def run(found: figures.Soaked, monkeypatch: pytest.MonkeyPatch) -> tuple[list[bench.Figure], list[str]]:
    monkeypatch.setattr(bench_soak, "measure", lambda _console: found)
    monkeypatch.setattr("local.toolchain.ensure", lambda _console: None)
    return bench.run(Console(quiet=True), ["soak"])


def test_a_soak_in_which_all_is_well_has_figures_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    told, failures = run(soaked(), monkeypatch)

    assert failures == []
    assert all(figure["met"] for figure in told)
    assert len(told) == 4 + len(witness.KINDS)


WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"updates": [{"name": "move, loud", "failure": "exit status 1"}]},
        "update move, loud failed: exit status 1",
    ),
    ({"receipts": {"loudguest3": "there is none"}}, "the receipt of loudguest3: there is none"),
    ({"denied": 6, "findings": ["broken: PostgreSQL: read"]}, "broken: PostgreSQL: read"),
    ({"left": "1 update"}, "an update would still change something: 1 update"),
    (
        {"work": figures.work([piece(0, 1.0, "no slot"), piece(0, 1.0)], [(0, 1)], [(0, 1)])},
        "1 of 2 pieces of work (rows) failed; quiet1: no slot",
    ),
    (
        {
            "work": figures.work(
                [piece(0, 1.0), piece(1, 1.0), piece(2, 1.6), piece(3, 1.6)], [(0, 1)], [(2, 3)]
            )
        },
        "p95 of others' work (rows) beside harm / without: 1.6",
    ),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG, ids=[message for _, message in WRONG])
def test_whatever_is_not_as_it_must_be_is_told_next_to_the_figures(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any], message: str
) -> None:
    found: figures.Soaked = {**soaked(), **wrong}  # type: ignore[typeddict-item]

    told, (failure,) = run(found, monkeypatch)

    assert message in failure.splitlines()
    assert len(told) >= 5
