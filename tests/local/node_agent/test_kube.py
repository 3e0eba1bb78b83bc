"""A collection in step with an API server that says what makes no sense."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from local.node_agent import kube
from local.node_agent.kube import Api, Watched


def pod(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "tenant-acme", "resourceVersion": "1"}}


class Answers(Api):
    """An API that gives one answer to each list, and one event to each watch."""

    def __init__(self, *lists: dict[str, Any], event: dict[str, Any] | None = None) -> None:
        self._lists = iter(lists)
        self._last: dict[str, Any] = lists[-1]
        self._event = event
        self.troubles: list[str] = []
        self.listed_again = threading.Event()

    def get(self, path: str) -> dict[str, Any]:
        self._last = next(self._lists, self._last)
        return self._last

    def watch(self, path: str, version: str) -> Iterator[dict[str, Any]]:
        if self._event is not None:
            event, self._event = self._event, None
            yield event
        self.listed_again.set()
        threading.Event().wait()

    def trouble(self, about: str, error: Exception) -> None:
        self.troubles.append(str(error))

    def well(self, about: str) -> None:
        pass


GOOD = {"items": [pod("one"), pod("two")], "metadata": {"resourceVersion": "1"}}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "_RETRY_SECONDS", (0.01,))


@pytest.mark.parametrize("odd", [{"items": None}, {"items": [{"metadata": None}]}, {}])
def test_a_list_that_makes_no_sense_is_told_and_asked_for_again(odd: dict[str, Any]) -> None:
    api = Answers(odd, GOOD)
    watched = Watched(api, "/api/v1/pods", lambda _: None)
    watched.start()
    assert watched.synced.wait(20)
    assert len(api.troubles) == 1


@pytest.mark.parametrize("odd", [{"type": "ADDED"}, {"type": "ADDED", "object": None}, {}])
def test_an_event_that_makes_no_sense_is_told_and_all_is_listed_again(odd: dict[str, Any]) -> None:
    api = Answers(GOOD, event=odd)
    Watched(api, "/api/v1/pods", lambda _: None).start()
    assert api.listed_again.wait(20)
    assert len(api.troubles) == 1


def test_an_object_that_its_reader_makes_no_sense_of_ends_no_watch(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    def changed(obj: dict[str, Any]) -> None:
        seen.append(obj["metadata"]["name"])
        if seen[-1] == "one":
            raise KeyError("podIP")

    watched = Watched(Answers(GOOD), "/api/v1/pods", changed)
    watched._list()
    assert seen == ["one", "two"]
    assert "tenant-acme/one: left alone until it changes" in caplog.text
