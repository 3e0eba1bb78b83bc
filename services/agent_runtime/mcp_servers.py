"""The MCP servers that a workspace and an agent name: commands, where those may run, and streamable HTTP."""

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any, Literal, cast

import httpx2
from mcp import ClientSession, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from pydantic import BaseModel, ConfigDict, ValidationError
from strands.tools.mcp import MCPClient
from strands.tools.mcp.mcp_types import MCPToolResult

from services.agent_runtime import public
from services.agent_runtime.files import AbsentError, Files, RefusedPathError
from services.agent_runtime.identity import NotReadyError
from services.agent_runtime.tables.agents import MOST_SERVERS

FILE = ".agent/mcp.json"
"""The file in which a workspace names them, in the format of other MCP clients: `{"mcpServers": {…}}`."""
_PATIENCE = timedelta(minutes=10)
"""The time that a server has for one call of a tool."""


class _Client(MCPClient):
    """A client that waits for no answer for ever."""

    async def call_tool_async(self, *arguments: Any, **named: Any) -> MCPToolResult:
        """Call a tool; its failure if there is no answer in time."""
        named["read_timeout_seconds"] = named.get("read_timeout_seconds") or _PATIENCE
        return await super().call_tool_async(*arguments, **named)


class _Remote(BaseModel):
    """A server that is reached over streamable HTTP."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["http", "streamable-http"] = "http"
    url: str
    headers: dict[str, str] = {}


def clients(files: Files, more: Mapping[str, Any], *, commands: bool) -> list[MCPClient]:
    """Clients of those in the workspace's `files`, and of the agent's own, which go first; not connected yet.

    Unless `commands` may run, nothing is started here, and what is connected to has a public address.
    """
    if not commands:
        _leave_results_unchecked()
    servers = {**_named_in(files), **more}
    if len(servers) > MOST_SERVERS:
        raise NotReadyError(
            f"{FILE}: names {len(servers)} servers of at most {MOST_SERVERS}, so none is used."
        )
    return [_client(name, server, files, commands) for name, server in servers.items()]


def _named_in(files: Files) -> dict[str, Any]:
    try:
        said = json.loads(files.read(FILE))
    except AbsentError:
        return {}
    except RefusedPathError as error:
        raise NotReadyError(f"{error} So no MCP server is used.") from None
    except ValueError as error:
        raise NotReadyError(f"{FILE}: no JSON ({error}), so no MCP server is used.") from None
    servers = said.get("mcpServers") if isinstance(said, dict) else None
    if not isinstance(servers, dict):
        raise NotReadyError(f'{FILE}: has no "mcpServers" mapping, so no MCP server is used.')
    return servers


def _leave_results_unchecked() -> None:
    """Hold no result of a tool against the schema that its server gave for it.

    jsonschema does what a schema says: it fetches what the schema refers to, be it a file of this system, and
    a pattern can keep the interpreter, and with it every tenant's request, for as long as it likes.
    """

    async def validate_tool_result(self: ClientSession, name: str, result: object) -> None:
        pass

    cast("Any", ClientSession).validate_tool_result = validate_tool_result


def _client(name: str, server: Any, files: Files, commands: bool) -> MCPClient:
    if isinstance(server, dict) and "url" in server:
        return _remote(name, server, commands)
    if not commands:
        raise NotReadyError(
            f"{FILE}: {name} has no url, so no MCP server is used; no command runs in the runtime that "
            "tenants share: name a server by its https:// url."
        )
    try:
        parameters = StdioServerParameters(**server, cwd=files.folder)
    except (TypeError, ValueError):
        raise NotReadyError(
            f"{FILE}: {name} has neither a url nor a command with args and env, so no MCP server is used."
        ) from None
    # Strands runs MCP 2, and its types still are of MCP 1.
    return _Client(cast("Any", lambda: stdio_client(parameters)), prefix=name)


def _remote(name: str, server: dict[str, Any], commands: bool) -> MCPClient:
    try:
        remote = _Remote.model_validate(server)
        address = httpx2.URL(remote.url)
    except (ValidationError, httpx2.InvalidURL):
        raise NotReadyError(
            f"{FILE}: {name} is no server with a url, headers, and the type http, so no MCP server is used."
        ) from None
    if address.scheme != "https" and not commands:
        raise NotReadyError(f"{FILE}: {name} has no https:// url, so no MCP server is used.")

    @contextlib.asynccontextmanager
    async def connected() -> AsyncIterator[Any]:
        made = create_mcp_http_client(remote.headers) if commands else public.client(remote.headers)
        async with made as http, streamable_http_client(remote.url, http_client=http) as streams:
            yield streams

    return _Client(cast("Any", connected), prefix=name)
