"""The MCP servers that a workspace and an agent name: commands, where those may run, and streamable HTTP."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
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
from services.agent_runtime.public import Allowance
from services.agent_runtime.tables.agents import MOST_SERVERS

Connect = Callable[[], contextlib.AbstractAsyncContextManager[Any]]
"""Makes what connects to a server: two streams, while it is entered."""

FILE = ".agent/mcp.json"
"""The file in which a workspace names them, in the format of other MCP clients: `{"mcpServers": {…}}`."""
_CONNECTED_IN = 45.0
"""Seconds until a server has to be connected, and to have said which tools it has."""
_PATIENCE = timedelta(minutes=10)
"""The time that a server has for one call of a tool."""


for _name in ("mcp", "client"):
    # What a server says wrongly is its tenant's business, and may be said without end.
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class Client(MCPClient):
    """A client that waits for nothing for ever.

    Strands waits for its own thread to end, which waits for a server that says nothing.
    """

    def __init__(self, connect: Connect, name: str) -> None:
        """Connect by `connect` when it is started; the names of the tools begin with `name`."""
        self._connect = connect
        self._loop: asyncio.AbstractEventLoop | None = None
        self._patience: asyncio.Timeout | None = None
        # Strands runs MCP 2, and its types still are of MCP 1.
        super().__init__(cast("Any", self._connected), prefix=name)

    def settled(self) -> None:
        """Let it go on for as long as the run does: it has said which tools it has."""
        if self._loop and self._patience:
            self._loop.call_soon_threadsafe(self._patience.reschedule, None)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        self._loop = asyncio.get_running_loop()
        async with asyncio.timeout(_CONNECTED_IN) as self._patience, self._connect() as streams:
            yield streams

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


def clients(files: Files, more: Mapping[str, Any], public_only: Allowance | None) -> list[Client]:
    """Clients of those in the workspace's `files`, and of the agent's own, which go first; not connected yet.

    With `public_only`, nothing is started here, and what is connected to has a public address and sends no
    more than is allowed.
    """
    if public_only:
        _leave_results_unchecked()
    servers = {**_named_in(files), **more}
    if len(servers) > MOST_SERVERS:
        raise NotReadyError(
            f"{FILE}: names {len(servers)} servers of at most {MOST_SERVERS}, so none is used."
        )
    return [_client(name, server, files, public_only) for name, server in servers.items()]


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


def _client(name: str, server: Any, files: Files, public_only: Allowance | None) -> Client:
    if isinstance(server, dict) and "url" in server:
        return _remote(name, server, public_only)
    if public_only:
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
    return Client(lambda: stdio_client(parameters), name)


def _remote(name: str, server: dict[str, Any], public_only: Allowance | None) -> Client:
    try:
        remote = _Remote.model_validate(server)
        address = httpx2.URL(remote.url)
    except (ValidationError, httpx2.InvalidURL):
        raise NotReadyError(
            f"{FILE}: {name} is no server with a url, headers, and the type http, so no MCP server is used."
        ) from None
    if address.scheme != "https" and public_only:
        raise NotReadyError(f"{FILE}: {name} has no https:// url, so no MCP server is used.")

    @contextlib.asynccontextmanager
    async def connected() -> AsyncIterator[Any]:
        made = (
            public.client(public_only, remote.headers)
            if public_only
            else create_mcp_http_client(remote.headers)
        )
        async with made as http, streamable_http_client(remote.url, http_client=http) as streams:
            yield streams

    return Client(connected, name)
