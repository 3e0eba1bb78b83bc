"""A tenant of the shared runtime begins runs at a pace, however often and however long it asks."""

from collections.abc import Iterator

import pytest

from services.agent_runtime import pace
from services.agent_runtime.pace import Pace


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    yield clock


def test_some_may_come_in_a_row_and_then_one_every_five_seconds(clock: Clock) -> None:
    own = Pace()
    assert [own.begin() for _ in range(pace.IN_A_ROW)] == [0.0] * pace.IN_A_ROW
    assert own.begin() == 5.0
    clock.now += 5
    assert own.begin() == 0.0
    assert own.begin() > 0


def test_who_is_refused_is_told_its_turn_and_all_who_keep_to_it_come_in(clock: Clock) -> None:
    own = Pace()
    for _ in range(pace.IN_A_ROW):
        own.begin()
    turns = sorted(clock.now + own.begin() for _ in range(8))
    assert turns == [1005.0 + 5 * number for number in range(8)]
    for turn in turns:
        clock.now = turn
        assert own.begin() == 0.0


def test_nobody_is_told_to_wait_for_more_than_a_minute(clock: Clock) -> None:
    own = Pace()
    assert max(own.begin() for _ in range(1000)) == 60.0


def test_a_pause_does_not_make_it_faster_than_its_pace(clock: Clock) -> None:
    own, begun = Pace(), 0
    for _ in range(60):
        clock.now += 11
        while own.begin() == 0.0:
            begun += 1
    assert begun <= pace.IN_A_ROW + 60 * 11 / 5 + 1


def test_a_pace_is_kept_until_all_of_it_may_come_in_a_row_again(clock: Clock) -> None:
    own = Pace()
    for _ in range(pace.IN_A_ROW + 1):
        own.begin()
    clock.now += 49
    assert not own.is_rested()
    clock.now += 2
    assert own.is_rested()
