"""Runs that are cut off, refused, at work elsewhere, or whose tables or model fail them."""

import threading
import time
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from services.agent_runtime import runs
from services.agent_runtime.tables.runs import CUT_OFF
from tests.infra.tenants.conftest import Connect
from tests.services.agent_runtime import runtimes
from tests.services.agent_runtime.answering import Answering, serving
from tests.services.agent_runtime.conftest import Storage, Tables
from tests.services.agent_runtime.test_api import Api


class _Model(Answering):
    """A model that answers when it is let."""

    status: ClassVar[int] = 200
    let: ClassVar[threading.Event]

    def post(self, asked: Any) -> tuple[int, Any]:
        self.let.wait(60)
        return self.status, {"error": {"message": "the model's own words"}}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Model]]:
    monkeypatch.setattr(_Model, "let", threading.Event(), raising=False)
    yield _Model
    _Model.let.set()


Open = Callable[[], Api]


@pytest.fixture
def opened(
    tmp_path: Path, storage: Storage, tables: Tables, model: type[_Model]
) -> Iterator[Callable[[], Iterator[Api]]]:
    """A runtime of acme's own, another each time, whose model waits."""
    for url in serving(ThreadingHTTPServer(("127.0.0.1", 0), model)):
        said = {"base_url": f"{url}/v1", "api_key": "k", "model": "m"}
        for vault in serving(runtimes.vault(storage.secret("acme"), tables.login, said)):

            def opened() -> Iterator[Api]:
                made = runtimes.runtime("own", tmp_path, vault, tables.url, commands=True)  # noqa: B023
                for address in serving(made):
                    yield Api(address)

            yield opened


@pytest.fixture
def api(opened: Callable[[], Iterator[Api]]) -> Iterator[Api]:
    yield from opened()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def begun(api: Api, **more: Any) -> int:
    number: int = api.told("POST", "/v1/runs", {"prompt": "hello", **more})["id"]
    return number


def test_a_run_that_a_crash_cut_off_is_failed_with_that_reason(api: Api, connect: Connect) -> None:
    session = api.told("POST", "/v1/sessions", {})["id"]
    connect().execute(
        "INSERT INTO tenant_acme.execution_logs (session_id, input, started_at, seen_at) "
        "VALUES (%s, %s, %s, %s)",
        [session, '"hello"', "2026-01-01", "2026-01-01 00:01"],
    )
    connect().execute(
        "INSERT INTO tenant_acme.run_events SELECT max(id), 1, 'text', '\"so far\"' "
        "FROM tenant_acme.execution_logs"
    )

    found = api.told("GET", "/v1/runs")["items"][0]

    assert (found["status"], found["error"], found["seconds"]) == ("failed", CUT_OFF, 60)
    events = api.told("GET", f"/v1/runs/{found['id']}/events")
    assert events.startswith('id: 1\nevent: text\ndata: "so far"\n\nid: 2\nevent: error\n')
    # Nor does it keep its session.
    assert begun(api, session=session)


def test_a_run_that_a_stop_cut_off_is_failed_at_once(
    opened: Callable[[], Iterator[Api]], connect: Connect
) -> None:
    for api in opened():
        begun(api)

    rows = connect().execute("SELECT status, error FROM tenant_acme.execution_logs").fetchall()
    assert rows == [("failed", "The run was cut off: the machine or pod that it was in was stopped.")]


def test_a_run_at_work_elsewhere_is_followed_and_cancelled(
    opened: Callable[[], Iterator[Api]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_SEEN", 0.2)
    for first in opened():
        for second in opened():
            number = begun(first)
            assert second.told("GET", f"/v1/runs/{number}")["status"] == "running"

            second.told("POST", f"/v1/runs/{number}/cancel", b"")

            assert second.told("GET", f"/v1/runs/{number}/events").endswith("event: cancelled\ndata: {}\n\n")
            assert first.told("GET", f"/v1/runs/{number}")["status"] == "cancelled"


def test_a_conversation_has_one_run_at_a_time(api: Api) -> None:
    session = api.told("POST", "/v1/sessions", {})["id"]
    begun(api, session=session)

    status, said = api.ask("POST", "/v1/runs", {"prompt": "hello", "session": session})

    assert (status, "is at work" in said["detail"]) == (409, True)
    assert api.ask("DELETE", f"/v1/sessions/{session}")[0] == 409


def test_a_run_at_work_is_not_deleted(api: Api) -> None:
    assert api.ask("DELETE", f"/v1/runs/{begun(api)}")[0] == 409


def test_a_tenant_has_so_many_runs_at_once(api: Api, model: type[_Model]) -> None:
    numbers = [begun(api) for _ in range(8)]

    status, said = api.ask("POST", "/v1/runs", {"prompt": "hello"})

    assert (status, "8 runs at work already" in said["detail"]) == (429, True)
    api.told("POST", f"/v1/runs/{numbers[0]}/cancel", b"")
    until(lambda: api.ask("POST", "/v1/runs", {"prompt": "hello"})[0] == 201)


@pytest.mark.parametrize("status", [401, 400])
def test_a_model_that_refuses_is_a_run_that_failed_with_its_reason(
    api: Api, model: type[_Model], monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(model, "status", status)
    model.let.set()

    run = api.run("hello")

    assert (run["status"], "the model's own words" in run["error"]) == ("failed", True)


def test_a_run_whose_row_is_gone_ends(api: Api, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_SEEN", 0.2)
    for _ in range(8):
        begun(api)
    connect().execute("DELETE FROM tenant_acme.execution_logs")

    until(lambda: api.ask("POST", "/v1/runs", {"prompt": "hello"})[0] == 201)
