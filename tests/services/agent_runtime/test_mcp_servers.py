"""MCP servers that a workspace names: how many, and what becomes of what their tools answer."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from mcp import ClientSession, types
from mcp.client.streamable_http import streamable_http_client
from mcp.server.lowlevel import Server

from services.agent_runtime import mcp_servers
from services.agent_runtime.files import FolderFiles
from services.agent_runtime.identity import NotReadyError
from services.agent_runtime.public import Allowance

ALLOWED = Allowance(2**20, print)
_CHECKED = ClientSession.validate_tool_result
"""As it is before a shared runtime has begun in this process."""


async def _list_tools(*_: Any) -> types.ListToolsResult:
    schema = {"type": "object", "properties": {"x": {"type": "string", "pattern": "^never$"}}}
    tool = types.Tool(name="tell", input_schema={"type": "object"}, output_schema=schema)
    return types.ListToolsResult(tools=[tool])


async def _call_tool(*_: Any) -> types.CallToolResult:
    return types.CallToolResult(content=[], structured_content={"x": "always"})


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of one whose tool answers otherwise than its schema says."""
    app = Server("odd", on_list_tools=_list_tools, on_call_tool=_call_tool).streamable_http_app()
    running = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
        running.should_exit = True
        thread.join()


async def _called(url: str) -> Any:
    async with (
        streamable_http_client(url) as (reading, writing, *_),
        ClientSession(reading, writing) as session,
    ):
        await session.initialize()
        result = await session.call_tool("tell", {})
        return result.structured_content


def test_where_tenants_share_a_runtime_no_schema_is_carried_out(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClientSession, "validate_tool_result", _CHECKED)
    with pytest.raises(Exception, match=r"unhandled|Invalid structured content"):
        asyncio.run(_called(server))

    assert mcp_servers.clients(FolderFiles(tmp_path), {}, ALLOWED) == []

    assert asyncio.run(_called(server)) == {"x": "always"}


@pytest.mark.parametrize("public_only", [None, ALLOWED])
def test_a_workspace_names_few_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, public_only: Allowance | None
) -> None:
    monkeypatch.setattr(ClientSession, "validate_tool_result", _CHECKED)
    files = FolderFiles(tmp_path)
    entries = ", ".join(f'"s{number}": {{"url": "https://one.example/"}}' for number in range(17))
    files.write(mcp_servers.FILE, [f'{{"mcpServers": {{{entries}}}}}'.encode()])

    with pytest.raises(NotReadyError, match="names 17 servers of at most 16"):
        mcp_servers.clients(files, {}, public_only)
