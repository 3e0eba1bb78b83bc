"""Models of each provider, over HTTP: conversation, tools, and what they cost."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.services.agent_runtime import runtimes, scripted
from tests.services.agent_runtime.answering import serving
from tests.services.agent_runtime.conftest import Storage, Tables
from tests.services.agent_runtime.test_api import Api

PATHS = {"openai": "/v1", "anthropic": ""}
"""Of the address that each provider's client wants, below the server's."""


def serve(folder: Path, storage: Storage, tables: Tables, secret: dict[str, Any]) -> Iterator[Api]:
    for vault in serving(runtimes.vault(storage.secret("acme"), tables.login, secret)):
        for url in serving(runtimes.runtime("own", folder, vault, tables.url, commands=True)):
            yield Api(url)


@pytest.fixture(params=PATHS)
def api(request: pytest.FixtureRequest, tmp_path: Path, storage: Storage, tables: Tables) -> Iterator[Api]:
    """Acme's own runtime, which asks the scripted model."""
    for url in serving(scripted.server()):
        said = {
            "provider": request.param,
            "base_url": url + PATHS[request.param],
            "api_key": "k",
            "model": "m",
        }
        yield from serve(tmp_path, storage, tables, said)


def test_a_conversation_of_three_turns_uses_model_tools_tables_and_storage(
    api: Api, storage: Storage
) -> None:
    session = api.told("POST", "/v1/sessions", {})["id"]
    first = api.run("my colour is green", session=session)
    second = api.run('use save_artifact {"path": "colour.txt", "text": "green"}', session=session)
    third = api.run("what did I say first?", session=session)

    assert [run["output"].strip() for run in (first, second, third)] == [
        "You said: my colour is green",
        "The tool said: Saved: colour.txt",
        "my colour is green",
    ]
    assert [use["name"] for use in second["tools"]] == ["save_artifact"]
    assert storage.keys("tenant_acme/artifacts/") == ["colour.txt"]


def test_a_run_says_what_it_cost(api: Api) -> None:
    run = api.run('use remember {"key": "colour", "value": "green"}')

    used = 2 * scripted.TOKENS_IN, 2 * scripted.TOKENS_OUT
    assert (run["tokensIn"], run["tokensOut"]) == used


def test_an_agent_runs_commands_on_its_own_computer(api: Api) -> None:
    run = api.run('use shell {"command": "echo 6 times 7 is $((6 * 7))"}')

    assert "6 times 7 is 42" in run["output"]
    events = api.told("GET", f"/v1/runs/{run['id']}/events")
    assert 'event: output\ndata: "6 times 7 is 42\\n"' in events


def test_an_agents_own_model_is_asked_in_the_place_of_the_secrets(api: Api) -> None:
    api.told("PUT", "/v1/agents/other", {"model": "n", "conversation": {"keep": "summary", "messages": 4}})
    assert api.run("hello", agent="other")["output"].strip() == "You said: hello"


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ({"base_url": "https://a"}, "lacks api_key, model"),
        ({"base_url": 5, "api_key": "k", "model": "m"}, "lacks base_url"),
        ({"base_url": "https://a", "api_key": "k", "model": "m", "provider": "x"}, "names the provider x"),
        ({"base_url": "http://a:b", "api_key": "k", "model": "m"}, "has no address in base_url"),
        ({"base_url": "http://127.0.0.1:9/v1", "api_key": "k", "model": "m"}, "Connect"),
    ],
)
def test_a_secret_that_names_no_model_is_a_run_that_failed(
    tmp_path: Path, storage: Storage, tables: Tables, secret: dict[str, Any], why: str
) -> None:
    for api in serve(tmp_path, storage, tables, secret):
        run = api.run("hello")
        assert (run["status"], why in run["error"]) == ("failed", True), run["error"]
