"""Harm counts as denied if it is withstood, and as proof only if it is real."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import pytest

from local.attack.attempt import Attempt, Refused
from local.attack.harm import Harm, Harmed
from local.attack.tenants import Tenant

ACME, BLUEBIRD, CORVUS = (
    Tenant({"id": name, "schema": f"tenant_{name}", "prefix": f"tenant_{name}/", "namespace": "", "vm": ""})
    for name in ("acme", "bluebird", "corvus")
)
ADMINISTRATOR = 1000


@dataclass
class Server:
    """A server with ten places, of which a session takes as many as it is allowed."""

    places: int = 10
    refuses: bool = False
    order: list[str] = field(default_factory=list)

    @contextmanager
    def take(self, allowed: int, own: Tenant, victim: Tenant) -> Iterator[Tenant]:
        if self.refuses and allowed != ADMINISTRATOR:
            raise Refused("too many places")
        self.order.append(f"{own.id} on {victim.id}" if allowed != ADMINISTRATOR else "control")
        taken = min(allowed, self.places)
        self.places -= taken
        try:
            yield victim
        finally:
            self.places += taken

    def work(self, _victim: Tenant) -> None:
        if not self.places:
            raise TimeoutError("no place is free")

    def harm(self, kind: Literal["holds up others", "cannot be removed"] = "holds up others") -> Harm[int]:
        return Harm(kind=kind, name="take places", tried="TAKE", done=self.take, withstood=self.work)


def carried_out(harm: Harm[int], *, limit: int) -> list[Attempt]:
    sessions = dict.fromkeys((ACME, BLUEBIRD, CORVUS), limit)
    target = Harmed(server="Server", sessions=sessions, administrator=ADMINISTRATOR, harms=(harm,))
    return list(target.attempts())


def test_everybody_harms_one_and_is_harmed_by_one_one_after_the_other() -> None:
    server = Server()
    attempts = carried_out(server.harm(), limit=3)

    assert server.order == ["acme on bluebird", "bluebird on corvus", "corvus on acme", "control"]
    assert {attempt.kind for attempt in attempts} == {"holds up others"}


def test_harm_that_is_withstood_or_refused_is_denied() -> None:
    withstood = carried_out(Server().harm(), limit=3)
    refused = carried_out(Server(refuses=True).harm(), limit=3)

    assert [attempt.outcome for attempt in (*withstood, *refused)] == ["denied"] * 6
    assert refused[0].detail == "too many places"


@pytest.mark.parametrize("kind", ["holds up others", "cannot be removed"])
def test_harm_that_stops_what_it_is_to_stop_is_leaked(
    kind: Literal["holds up others", "cannot be removed"],
) -> None:
    attempts = carried_out(Server().harm(kind), limit=10)

    assert [attempt.outcome for attempt in attempts] == ["leaked"] * 3
    assert "TimeoutError: no place is free" in attempts[0].detail


def test_what_does_not_work_without_the_harm_either_shows_nothing() -> None:
    attempts = carried_out(Server(places=0).harm(), limit=3)

    assert [attempt.outcome for attempt in attempts] == ["broken"] * 3
    assert "without the harm" in attempts[0].detail


def test_harm_that_stops_nothing_even_with_all_rights_is_no_proof() -> None:
    attempts = carried_out(Server(places=ADMINISTRATOR + 1).harm(), limit=3)

    assert [attempt.outcome for attempt in attempts] == ["broken"] * 3
    assert "it stops nothing" in attempts[0].detail


def test_where_care_is_the_wall_the_control_goes_without_it() -> None:
    server = Server(places=ADMINISTRATOR + 1)

    def careless(_victim: Tenant) -> None:
        raise RuntimeError("other objects depend on it")

    harm = Harm(
        kind="cannot be removed",
        name="leave something",
        tried="LEAVE",
        done=server.take,
        withstood=server.work,
        unguarded=careless,
    )
    assert [attempt.outcome for attempt in carried_out(harm, limit=3)] == ["denied"] * 3


def test_what_could_not_be_done_is_broken() -> None:
    @contextmanager
    def broken(session: int, _own: Tenant, victim: Tenant) -> Iterator[Tenant]:
        if session:
            raise ConnectionError("no such server")
        yield victim

    harm = Harm(kind="holds up others", name="x", tried="X", done=broken, withstood=Server().work)
    attempts = carried_out(harm, limit=3)

    assert [attempt.outcome for attempt in attempts] == ["broken"] * 3
    assert "no such server" in attempts[0].detail
