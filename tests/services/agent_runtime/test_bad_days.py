"""Runs on a bad day: with MCP servers that hang, flood or die, and with servers that are away.

Each is one clear error of that run's; the next one is as good as ever.
"""

import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from services.agent_runtime import agent, mcp_servers, public
from services.agent_runtime.files import FolderFiles
from tests.services.agent_runtime import runtimes, scripted
from tests.services.agent_runtime.answering import Answering, serving
from tests.services.agent_runtime.conftest import Storage, Tables
from tests.services.agent_runtime.test_api import Api

_SERVER = """
import os, sys, time
import anyio
from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server

async def list_tools(*_):
    schema = {"type": "object"}
    tools = [types.Tool(name=name, input_schema=schema) for name in ("hang", "flood", "die", "greet")]
    return types.ListToolsResult(tools=tools)

async def call_tool(_, asked):
    if asked.name == "hang":
        await anyio.sleep(1000)
    if asked.name == "die":
        os._exit(3)
    text = "x" * 5_000_000 if asked.name == "flood" else "hello"
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)])

async def main():
    server = Server("odd", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())

anyio.run(main)
"""


class Runtime:
    """A machine of acme's, the Vault and the model that it asks."""

    def __init__(self, folder: Path, storage: dict[str, str], tables: Tables) -> None:
        self.folder = folder
        self._storage = storage
        self._tables = tables
        self.vault: ThreadingHTTPServer

    def serve(self) -> Iterator[Api]:
        for model in serving(scripted.server()):
            said = {"base_url": f"{model}/v1", "api_key": "k", "model": "m"}
            self.vault = runtimes.vault(self._storage, self._tables.login, said)
            for vault in serving(self.vault):
                machine = runtimes.runtime("machine", self.folder, vault, self._tables.url, commands=True)
                for url in serving(machine):
                    yield Api(url)


@pytest.fixture
def runtime(tmp_path: Path, storage: Storage, tables: Tables) -> Runtime:
    return Runtime(tmp_path, storage.secret("acme"), tables)


@pytest.fixture
def api(runtime: Runtime) -> Iterator[Api]:
    yield from runtime.serve()


@pytest.fixture
def odd(api: Api, tmp_path: Path) -> None:
    """An agent `odd`, whose MCP server has tools that hang, flood and die."""
    (tmp_path / "odd.py").write_text(_SERVER)
    named(api, "odd", sys.executable, str(tmp_path / "odd.py"))


def named(api: Api, name: str, command: str, *arguments: str) -> None:
    """Make an agent with the MCP server `s`."""
    server = {"command": command, "args": [*arguments]}
    api.told("PUT", f"/v1/agents/{name}", {"mcpServers": {"s": server}})


def runs_as(*words: str) -> bool:
    """Return True if a process with such a command line runs."""
    wanted, found = b"\0".join(map(os.fsencode, words)), False
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found |= wanted in line.read_bytes()
    return found


def is_well(api: Api) -> bool:
    """Return True if the next run, of another agent, is as good as ever."""
    run = api.run("hello")
    return (run["status"], run["output"].strip()) == ("succeeded", "You said: hello")


def test_an_mcp_server_that_answers_is_used(api: Api, odd: None) -> None:
    assert api.run("use s_greet {}", agent="odd")["output"].strip() == "The tool said: hello"


@pytest.mark.parametrize("command", [("sleep", "98765.4"), ("yes", "98765.4")])
def test_an_mcp_server_that_never_connects_is_a_run_that_failed_and_is_ended(
    api: Api, command: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_servers, "_CONNECTED_IN", 2.0)
    named(api, "odd", *command)

    run = api.run("hello", agent="odd")

    assert run["status"] == "failed"
    assert "odd cannot be used" in run["error"]
    assert not runs_as(*command)
    assert is_well(api)


def test_a_command_that_is_none_is_a_run_that_failed(api: Api) -> None:
    named(api, "odd", "/no/such/command")

    run = api.run("hello", agent="odd")

    assert (run["status"], "/no/such/command" in run["error"]) == ("failed", True)
    assert is_well(api)


def test_a_tool_that_hangs_has_failed_after_its_time_and_the_agent_goes_on(
    api: Api, odd: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_servers, "_PATIENCE", timedelta(seconds=1))

    run = api.run("use s_hang {}", agent="odd")

    assert run["status"] == "succeeded"
    assert "timed out" in run["output"]
    assert [(use["name"], use["failed"]) for use in run["tools"]] == [("s_hang", 1)]
    assert is_well(api)


def test_a_tool_that_floods_is_cut_off(api: Api, odd: None) -> None:
    run = api.run("use s_flood {}", agent="odd")

    assert run["status"] == "succeeded"
    assert "(cut off: 5000000 characters in all)" in run["output"]
    assert len(run["output"]) < 2**16 + 200
    assert is_well(api)


def test_an_mcp_server_that_dies_is_a_tool_that_failed(api: Api, odd: None) -> None:
    run = api.run("use s_die {}", agent="odd")

    assert run["status"] in ("succeeded", "failed")
    assert run["output"] or run["error"]
    assert [use["failed"] for use in run["tools"]] == [1]
    assert is_well(api)


def test_a_sealed_vault_begins_no_run_and_keeps_nothing_of_it(
    api: Api, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = api.told("GET", "/v1/runs")
    sealed = (503, {"errors": ["Vault is sealed"]})
    with monkeypatch.context() as patched:
        patched.setattr(runtime.vault.RequestHandlerClass, "get", lambda _: sealed)
        patched.setattr(runtime.vault.RequestHandlerClass, "post", lambda *_: sealed)
        run = api.run("hello")
        assert run["status"] == "failed"
        assert "Vault refuses acme the secret model (503)" in run["error"]
    assert is_well(api)
    assert len(api.told("GET", "/v1/runs")["items"]) == len(before["items"]) + 2


class _Endless(Answering):
    """A model that never comes to an end."""

    def do_POST(self) -> None:  # noqa: N802
        self.close_connection = True
        self._asked()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
        delta = {"index": 0, "delta": {"role": "assistant", "content": "x" * 1000}, "finish_reason": None}
        event = f"data: {json.dumps({**chunk, 'choices': [delta]})}\n\n".encode()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(event)


def test_where_memory_is_shared_a_model_that_floods_is_a_run_that_failed(
    tmp_path: Path, storage: Storage, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "_MOST_RECEIVED", 2**20)
    monkeypatch.setattr(public, "is_public", lambda _: True)
    for model in serving(ThreadingHTTPServer(("127.0.0.1", 0), _Endless)):
        monkeypatch.setattr(public, "PORT", int(model.rpartition(":")[2]))
        said = {"base_url": f"{model}/v1", "api_key": "k", "model": "m"}
        for vault in serving(runtimes.vault(storage.secret("acme"), tables.login, said)):
            for url in serving(runtimes.runtime("own", tmp_path, vault, tables.url)):
                run = Api(url).run("hello")

    assert run["status"] == "failed"
    assert run["error"] == "The model and the MCP servers have sent more than 1048576 bytes, so this ends."


@pytest.fixture
def without_storage(tmp_path: Path, storage: Storage, tables: Tables) -> Iterator[Api]:
    nowhere = {**storage.secret("acme"), "endpoint": "http://127.0.0.1:9"}
    yield from Runtime(tmp_path, nowhere, tables).serve()


def test_object_storage_that_is_away_is_a_tool_that_failed(without_storage: Api) -> None:
    run = without_storage.run('use save_artifact {"path": "a", "text": "b"}')

    assert "Object storage does not answer" in run["output"]
    assert [use["failed"] for use in run["tools"]] == [1]
    assert without_storage.run('use write_file {"path": "a", "text": "b"}')["output"].strip() == (
        "The tool said: Written: a"
    )


def test_a_full_volume_is_a_tool_that_failed_and_what_is_there_stays(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.told("PUT", "/v1/files/a", b"kept")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        run = api.run('use write_file {"path": "a", "text": "new"}')
        assert "No space left on device" in run["output"]
        assert api.ask("PUT", "/v1/files/a", b"new")[0] == 507
    assert FolderFiles(tmp_path / "workspace").read("a") == b"kept"
    assert [path.name for path in (tmp_path / "workspace").iterdir()] == ["a"]
    assert is_well(api)
