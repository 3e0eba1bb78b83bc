"""The lines of the tour about a wake."""

import io
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from local.demo import tour

EARLIER = {"at": 1.0, "seconds": 182.0, "boot": 154.0}
THIS = {"at": 200.0, "seconds": 28.0, "boot": 20.0}


class _Asked(tour._Tour):
    """A tour whose tenant's last wake is, each time that it is looked at, the next one noted."""

    def __init__(self, *noted: dict[str, float] | None) -> None:
        self._noted: Iterator[dict[str, float] | None] = iter(noted)
        self.said = io.StringIO()
        self._console = Console(file=self.said, width=200)
        self._last: dict[str, float] | None = None

    def _now(self) -> dict[str, Any]:
        self._last = next(self._noted, self._last)
        return {"last_wake": self._last}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tour, "_NOTE_SECONDS", 0.2)
    monkeypatch.setattr(tour, "_PAUSE", 0.01)


def test_a_wake_is_told_once_the_gateway_has_noted_it_and_no_earlier_one() -> None:
    asked = _Asked(EARLIER, EARLIER, THIS)
    asked._tell_phases(EARLIER)
    assert "The wake took 28.00 s: boot 20.00 s." in asked.said.getvalue()
    assert "182" not in asked.said.getvalue()


@pytest.mark.parametrize("before", [None, EARLIER])
def test_a_wake_that_the_gateway_notes_nothing_of_is_told_as_such(before: dict[str, float] | None) -> None:
    asked = _Asked(before)
    asked._tell_phases(before)
    assert "noted no wake" in asked.said.getvalue()
    assert "182" not in asked.said.getvalue()
