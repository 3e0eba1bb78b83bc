"""Who shares what with whom, before and after."""

from review.isolation import circles, moves, sharing
from tests.review.examples import tenant

ROSTER = (
    tenant("acme"),
    tenant("bluebird", "starter"),
    tenant("corvus", "professional"),
    tenant("dufour", "private-cloud", own_database=True),
    tenant("egger", "starter"),
)


def shared_with(name: str) -> dict[str, tuple[str, ...] | None]:
    return {layer: None if found.own else found.others for layer, found in sharing(ROSTER)[name].items()}


def test_each_tier_shares_what_its_table_says() -> None:
    assert shared_with("bluebird") == {
        "agents": ("egger",),
        "kernel": ("corvus", "egger"),
        "nodes": ("acme", "corvus", "egger"),
        "namespace and network": ("egger",),
        "database servers": ("acme", "corvus", "egger"),
        "workspace": ("corvus", "egger"),
        "way in from outside": ("acme", "corvus", "dufour", "egger"),
    }
    assert shared_with("corvus")["agents"] is None
    assert shared_with("corvus")["kernel"] == ("bluebird", "egger")
    assert shared_with("acme")["kernel"] is None
    assert shared_with("acme")["nodes"] == ("bluebird", "corvus", "egger")
    assert shared_with("dufour")["nodes"] is None
    assert shared_with("dufour")["database servers"] is None


def test_a_move_down_is_weaker_and_a_move_up_is_not() -> None:
    down = sharing((tenant("acme", "professional"), *ROSTER[1:]))
    found = moves(sharing(ROSTER), down, "acme")
    assert [(move.layer, move.weaker) for move in found] == [
        ("agents", False),
        ("kernel", True),
        ("workspace", True),
    ]
    assert not any(move.weaker for move in moves(down, sharing(ROSTER), "acme"))


def test_a_tenant_whose_circle_grows_is_not_moved_but_the_circle_is_told() -> None:
    grown = (*ROSTER, tenant("falk", "starter"))
    assert moves(sharing(ROSTER), sharing(grown), "bluebird") == ()
    agents = next(circle for circle in circles(ROSTER, grown) if circle.layer == "agents")
    assert (agents.before, agents.after, agents.joined, agents.left) == (2, 3, ("falk",), ())


def test_a_tenant_that_comes_or_goes_shows_every_layer() -> None:
    gone = sharing(ROSTER[1:])
    assert len(moves(sharing(ROSTER), gone, "acme")) == len(sharing(ROSTER)["acme"])
    assert all(move.after is None and not move.weaker for move in moves(sharing(ROSTER), gone, "acme"))
    assert circles(ROSTER, ROSTER) == ()
