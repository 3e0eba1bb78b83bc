"""The tenant's API, over HTTP, on the tenant's real tables and object storage."""

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from local.paths import ROOT
from tests.infra.tenants.conftest import Connect
from tests.services.agent_runtime import runtimes
from tests.services.agent_runtime.answering import serving
from tests.services.agent_runtime.conftest import Storage, Tables


@dataclass(frozen=True)
class Api:
    """The API of acme's own runtime."""

    url: str

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """An answer's status and what it says; `body` is bytes, or becomes JSON."""
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data=content, method=method)
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        if content is not None:
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, _read(answer.read())
        except urllib.error.HTTPError as error:
            assert error.headers["Content-Type"] == "application/problem+json"
            return error.code, _read(error.read())

    def told(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Ask for something that must succeed; return the answer."""
        status, said = self.ask(method, path, body, **headers)
        assert status < 300, said
        return said

    def run(self, prompt: str, **more: Any) -> Any:
        """A run, at its end."""
        begun = self.told("POST", "/v1/runs", {"prompt": prompt, **more})
        self.told("GET", f"/v1/runs/{begun['id']}/events")
        return self.told("GET", f"/v1/runs/{begun['id']}")


def _read(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.decode()


@pytest.fixture
def api(tmp_path: Path, storage: Storage, tables: Tables) -> Iterator[Api]:
    for vault in serving(runtimes.vault(storage.secret("acme"), tables.login)):
        for url in serving(runtimes.runtime("own", tmp_path, vault, tables.url)):
            yield Api(url)


def test_an_agent_is_made_read_changed_listed_and_deleted(api: Api) -> None:
    wanted = {"model": "m", "instructions": "Be brief.", "tools": ["recall"]}
    assert api.ask("PUT", "/v1/agents/clerk", wanted)[0] == 201
    assert api.told("GET", "/v1/agents/clerk") | wanted == api.told("GET", "/v1/agents/clerk")

    assert api.ask("PUT", "/v1/agents/clerk", {"model": "n"})[0] == 200
    changed = api.told("GET", "/v1/agents/clerk")
    assert (changed["model"], changed["instructions"], changed["tools"]) == ("n", "", None)
    assert [each["name"] for each in api.told("GET", "/v1/agents")["items"]] == ["clerk", "default"]

    assert api.ask("DELETE", "/v1/agents/clerk")[0] == 204
    assert api.ask("GET", "/v1/agents/clerk")[0] == 404
    assert api.ask("DELETE", "/v1/agents/clerk")[0] == 404


def test_the_agent_named_default_is_there_and_stays(api: Api) -> None:
    assert api.told("GET", "/v1/agents/default")["name"] == "default"
    assert api.ask("DELETE", "/v1/agents/default")[0] == 409


def test_a_list_comes_in_pages(api: Api) -> None:
    names = [f"a{number}" for number in range(5)]
    for name in names:
        api.told("PUT", f"/v1/agents/{name}", {})
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page = api.told("GET", f"/v1/agents?limit=2&after={after}")
        assert len(page["items"]) <= 2
        found += [each["name"] for each in page["items"]]
        after = page["next"]

    assert found == [*names, "default"]


@pytest.mark.parametrize("kind", ["runs", "sessions"])
def test_the_newest_come_first_and_in_pages(api: Api, kind: str) -> None:
    body = {"prompt": "hello"} if kind == "runs" else {}
    made = [api.told("POST", f"/v1/{kind}", body)["id"] for _ in range(3)]

    first = api.told("GET", f"/v1/{kind}?limit=2")
    second = api.told("GET", f"/v1/{kind}?limit=2&after={first['next']}")

    assert [each["id"] for each in first["items"] + second["items"]] == made[::-1]
    assert second["next"] is None


@pytest.mark.parametrize("key", ["colour", "a/b", "Größe ✓", "..", "a b%"])
def test_what_an_agent_remembers_is_written_read_and_forgotten(api: Api, key: str) -> None:
    path = f"/v1/agents/default/memory/{quote(key, safe='')}"
    api.told("PUT", path, {"value": "blue"})

    assert api.told("GET", path)["value"] == "blue"
    assert [each["key"] for each in api.told("GET", "/v1/agents/default/memory")["items"]] == [key]
    assert "blue" in api.run(f"recall {key}")["output"]
    assert api.ask("DELETE", path)[0] == 204
    assert api.ask("GET", path)[0] == 404


def test_a_memory_ends_with_its_days(api: Api, connect: Connect) -> None:
    api.told("PUT", "/v1/agents/default/memory/short", {"value": "v", "days": 1})
    connect().execute("UPDATE tenant_acme.agent_memory SET expires_at = now() - interval '1 s'")

    assert api.told("GET", "/v1/agents/default/memory")["items"] == []
    assert connect().execute("SELECT count(*) FROM tenant_acme.agent_memory").fetchall() == [(0,)]


def test_a_conversation_goes_on(api: Api) -> None:
    session = api.told("POST", "/v1/sessions", {})["id"]
    for prompt in ("my colour is green", "hello"):
        api.run(prompt, session=session)

    assert api.run("what did I say first?", session=session)["output"] == "You said: my colour is green\n"
    messages = api.told("GET", f"/v1/sessions/{session}/messages")["items"]
    assert [message["role"] for message in messages] == ["user", "assistant"] * 3
    assert api.run("what did I say first?")["output"] == "You said: what did I say first?\n"


def test_a_session_is_deleted_with_its_messages_and_its_runs_stay(api: Api, connect: Connect) -> None:
    session = api.told("POST", "/v1/sessions", {})["id"]
    run = api.run("hello", session=session)["id"]

    assert api.ask("DELETE", f"/v1/sessions/{session}")[0] == 204

    assert connect().execute("SELECT count(*) FROM tenant_acme.session_messages").fetchall() == [(0,)]
    assert api.told("GET", f"/v1/runs/{run}")["session"] is None


def test_a_run_says_what_it_did(api: Api) -> None:
    run = api.run("write plan.txt: sleep well")

    assert (run["status"], run["agent"], run["input"]) == (
        "succeeded",
        "default",
        "write plan.txt: sleep well",
    )
    assert (run["output"], run["error"]) == ("Written: plan.txt\n", None)
    assert [(use["name"], use["calls"], use["failed"]) for use in run["tools"]] == [("write_file", 1, 0)]
    assert 0 < run["seconds"] < 60
    assert api.told("GET", "/v1/files/plan.txt") == "sleep well"


def test_an_agent_has_the_tools_that_it_is_given(api: Api) -> None:
    api.told("PUT", "/v1/agents/reader", {"tools": ["read_file"]})

    assert api.run("write plan.txt: sleep well", agent="reader")["tools"][0]["failed"] == 1
    assert api.ask("GET", "/v1/files/plan.txt")[0] == 404


def test_a_run_is_followed_from_its_beginning_and_from_any_event(api: Api) -> None:
    run = api.run("recall everything")["id"]
    whole = api.told("GET", f"/v1/runs/{run}/events")
    events = whole.split("\n\n")[:-1]
    assert events[-1].endswith("event: done\ndata: {}")
    assert [event.split("\n")[0] for event in events] == [f"id: {n + 1}" for n in range(len(events))]

    later = api.told("GET", f"/v1/runs/{run}/events", Last_Event_ID="1")

    assert later == "".join(f"{event}\n\n" for event in events[1:])


def test_a_run_whose_events_the_tables_refuse_is_failed_with_that_reason(api: Api, connect: Connect) -> None:
    connect().execute("ALTER TABLE tenant_acme.run_events ADD CHECK (event <> 'text')")

    begun = api.told("POST", "/v1/runs", {"prompt": "hello"})["id"]
    api.told("GET", f"/v1/runs/{begun}/events")

    run = api.told("GET", f"/v1/runs/{begun}")
    assert (run["status"], "cannot be noted" in run["error"]) == ("failed", True)


def test_a_run_is_deleted_with_its_events(api: Api, connect: Connect) -> None:
    run = api.run("hello")["id"]
    assert api.ask("DELETE", f"/v1/runs/{run}")[0] == 204

    assert api.ask("GET", f"/v1/runs/{run}")[0] == 404
    assert connect().execute("SELECT count(*) FROM tenant_acme.run_events").fetchall() == [(0,)]


def test_uploads_are_read_and_artifacts_given_away(api: Api, storage: Storage) -> None:
    assert api.ask("PUT", "/v1/uploads/in/a.txt", b"from me")[0] == 201
    assert api.told("GET", "/v1/uploads/in/")["files"] == ["a.txt"]
    api.told("PUT", "/v1/artifacts/out.txt", b"for you")

    wanted = {"folder": "artifacts", "name": "out.txt", "seconds": 60}
    address = api.told("POST", "/v1/addresses", wanted)["address"]

    with urllib.request.urlopen(address, timeout=10) as answer:
        assert answer.read() == b"for you"
    assert api.ask("POST", "/v1/addresses", {**wanted, "name": "none"})[0] == 404
    assert api.ask("POST", "/v1/addresses", {**wanted, "name": "../../tenant_globex/a"})[0] == 400
    assert storage.keys("tenant_acme/") == ["artifacts/out.txt", "uploads/in/a.txt", "workspace/"]


def test_a_table_that_the_tenant_changed_is_told_as_such(api: Api, connect: Connect) -> None:
    connect().execute("ALTER TABLE tenant_acme.agents ALTER name TYPE int USING 1")
    status, said = api.ask("GET", "/v1/agents")
    assert (status, "not as the platform made them" in said["detail"]) == (409, True)


def test_a_configuration_that_the_tenant_wrote_by_itself_is_told(api: Api, connect: Connect) -> None:
    api.told("PUT", "/v1/agents/a", {})
    connect().execute("""UPDATE tenant_acme.agents SET configuration = '{"tools": 5}'""")

    status, said = api.ask("GET", "/v1/agents/a")

    assert (status, "PUT /v1/agents/a makes another" in said["detail"]) == (503, True)
    assert "PUT /v1/agents/a makes another" in api.run("hello", agent="a")["error"]
    assert len(api.told("GET", "/v1/agents")["items"]) == 2


def test_the_tour_of_the_documentation_goes_as_it_says(api: Api, tmp_path: Path) -> None:
    tour = (ROOT / "docs" / "agents.md").read_text().partition("```console\n")[2].partition("```")[0]
    commands = "".join(line.removeprefix("$ ") for line in tour.splitlines(keepends=True))

    went = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands.replace("curl ", "curl --fail-with-body ")],
        cwd=tmp_path,
        env={"URL": api.url, "AUTH": "Authorization: Bearer none", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )

    assert went.returncode == 0, went.stdout + went.stderr
    for said in ("my colour is green", '"value":"green"', "sleep well", "Saved: done.txt", '"expiresAt"'):
        assert said in went.stdout.replace('" ', '"')
