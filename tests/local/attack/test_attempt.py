"""A refusal counts only if it is one: in the server's words, and of what works for whoever may."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from local.attack import tenants as attackers
from local.attack.attempt import PLATFORM, Attack, Attempt, Refused, Target
from local.attack.campaign import Report
from local.attack.tenants import Tenant
from local.errors import LocalError

ACME, BLUEBIRD, CORVUS = (
    Tenant({"id": name, "schema": f"tenant_{name}", "prefix": f"tenant_{name}/", "namespace": "", "vm": ""})
    for name in ("acme", "bluebird", "corvus")
)
ADMINISTRATOR = "administrator"


@dataclass
class Server:
    """A server that lets `allowed` through, by session and victim, and fails as it is told to."""

    allowed: Callable[[str, Tenant], bool]
    failure: Exception = Refused("permission denied")  # noqa: RUF009 - never changed

    def attack(self, **options: Any) -> Attack[str]:
        return Attack(name="read", tried="READ", run=self._read, **options)

    def _read(self, session: str, _own: Tenant, victim: Tenant) -> None:
        if not self.allowed(session, victim):
            raise self.failure


def carried_out(attack: Attack[str], *tenants: Tenant) -> list[Attempt]:
    sessions: Mapping[Tenant, str] = {tenant: tenant.id for tenant in tenants}
    target = Target(
        server="Server",
        sessions=sessions,
        victims=tenants,
        administrator=ADMINISTRATOR,
        attacks=[attack],
    )
    return list(target.attempts())


def owner_only(session: str, victim: Tenant) -> bool:
    return session == victim.id


def nobody(_session: str, _victim: Tenant) -> bool:
    return False


def administrator_only(session: str, _victim: Tenant) -> bool:
    return session == ADMINISTRATOR


def everybody(_session: str, _victim: Tenant) -> bool:
    return True


def test_every_ordered_pair_is_tried_and_nobody_attacks_itself() -> None:
    attempts = carried_out(Server(owner_only).attack(), ACME, BLUEBIRD, CORVUS)

    pairs = {(attempt.attacker, attempt.victim) for attempt in attempts}
    assert len(attempts) == len(pairs) == 6
    assert all(attacker != victim for attacker, victim in pairs)
    assert {attempt.outcome for attempt in attempts} == {"denied"}
    assert {attempt.detail for attempt in attempts} == {"permission denied"}


def test_what_is_granted_is_leaked() -> None:
    attempts = carried_out(Server(everybody).attack(), ACME, BLUEBIRD)

    assert [attempt.outcome for attempt in attempts] == ["leaked", "leaked"]


def test_a_refusal_is_no_proof_where_the_owner_is_refused_too() -> None:
    attempts = carried_out(Server(nobody).attack(), ACME, BLUEBIRD)

    assert [attempt.outcome for attempt in attempts] == ["broken", "broken"]
    assert "does not work for bluebird either: permission denied" in attempts[1].detail


def test_what_no_tenant_may_is_proven_by_the_administrator() -> None:
    beyond = carried_out(Server(administrator_only).attack(by_owner=False), ACME, BLUEBIRD)
    on_platform = carried_out(Server(administrator_only).attack(on_platform=True), ACME, BLUEBIRD)

    assert [attempt.outcome for attempt in (*beyond, *on_platform)] == ["denied"] * 4
    assert {attempt.victim for attempt in on_platform} == {PLATFORM}


@pytest.mark.parametrize("failure", [ValueError("no such table"), ConnectionError("refused"), KeyError("x")])
def test_any_other_failure_is_no_refusal(failure: Exception) -> None:
    attempts = carried_out(Server(owner_only, failure).attack(), ACME, BLUEBIRD)

    assert [attempt.outcome for attempt in attempts] == ["broken", "broken"]
    assert type(failure).__name__ in attempts[0].detail


def test_the_control_comes_after_the_attempts_which_it_may_use_up() -> None:
    order: list[str] = []

    def read(session: str, _own: Tenant, victim: Tenant) -> None:
        order.append(session)
        if session != victim.id:
            raise Refused("no")

    carried_out(Attack(name="take", tried="TAKE", run=read), ACME, BLUEBIRD, CORVUS)

    assert order == ["bluebird", "corvus", "acme", "acme", "corvus", "bluebird", "acme", "bluebird", "corvus"]


def test_a_pair_for_which_it_makes_no_sense_is_left_out() -> None:
    attack = Attack(
        name="read",
        tried="READ",
        run=Server(owner_only).attack().run,
        spares=lambda attacker, victim: (attacker, victim) == (ACME, BLUEBIRD),
    )

    attempts = carried_out(attack, ACME, BLUEBIRD)

    assert [(attempt.attacker, attempt.victim) for attempt in attempts] == [("bluebird", "acme")]


def attempt(outcome: str, name: str = "read", victim: str = "bluebird") -> Attempt:
    return Attempt(
        server="Server",
        attacker="acme",
        victim=victim,
        name=name,
        tried="READ",
        outcome=outcome,  # type: ignore[arg-type]
        detail="so it is",
    )


def test_the_report_holds_only_if_everything_was_denied_and_something_was_tried() -> None:
    assert Report([attempt("denied")]).holds
    assert not Report([attempt("denied"), attempt("leaked")]).holds
    assert not Report([attempt("denied"), attempt("broken")]).holds
    assert not Report([]).holds


def test_the_last_line_has_the_figures_and_leaks_are_told_first_an_attack_a_line() -> None:
    leaked = [attempt("leaked", "write", f"victim{number}") for number in (1, 1, 2, 3, 4, 5, 6, 7)]
    report = Report([attempt("broken"), attempt("denied"), *leaked])

    assert report.last_line == "attempts=10 denied=1 leaked=8"
    leak, failure = report.findings()
    # Each pair once, and no more than five of them.
    assert leak.startswith("leaked: Server: write (acme on victim1, acme on victim2, ")
    assert "acme on victim5 and 2 more)" in leak
    assert failure.startswith("broken: Server: read (acme on bluebird): READ: so it is")


def test_fewer_than_two_active_tenants_are_told() -> None:
    summary = {"id": "acme", "schema": "", "prefix": "", "namespace": "", "vm": ""}

    with pytest.raises(LocalError, match="1 active tenants"):
        attackers.active([{**summary, "state": "active"}, {**summary, "state": "suspended"}])
