"""The agent: Strands, a model, the workspace's files, and what MCP servers the tenant has."""

import asyncio
import json
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

from mcp import StdioServerParameters, stdio_client
from strands import Agent, tool
from strands.models import Model
from strands.models.openai import OpenAIModel
from strands.tools.mcp import MCPClient

from services.agent_runtime.files import Files, RefusedPathError
from services.agent_runtime.gateway import Gateway
from services.agent_runtime.identity import NotReadyError
from services.agent_runtime.model import LiteralModel
from services.agent_runtime.vault import Vault

MCP_SERVERS = ".agent/mcp.json"
"""Where a workspace says which MCP servers there are, as other MCP clients do: `{"mcpServers": {…}}`."""
MODEL = "model"
"""The secret that says which model is asked: `base_url`, `api_key` and `model` of an OpenAI-like API."""

_SYSTEM = "You work for the owner of this machine. Its workspace is where files last."


def answer(
    prompt: str, tenant: str, vault: Vault, gateway: Gateway, files: Files
) -> Iterator[dict[str, Any]]:
    """Run the agent on a prompt; the events `text`, `tool` and at last `done` or `error`, as they come.

    A lease is held for as long as it works. Raises NotReadyError before the first event if it cannot begin.
    """
    agent = Agent(
        model=_model(vault),
        tools=[*_file_tools(files), *_mcp_servers(files)],
        system_prompt=_SYSTEM,
        name=tenant,
        callback_handler=None,
    )
    return _run(agent, prompt, gateway)


def _run(agent: Agent, prompt: str, gateway: Gateway) -> Iterator[dict[str, Any]]:
    """Run the agent in a thread of its own, so that its events can be sent from this one."""
    events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    stop = threading.Event()

    async def work() -> None:
        async for event in agent.stream_async(prompt, cancel_signal=stop):
            if text := event.get("data"):
                events.put({"event": "text", "data": text})
            elif (use := event.get("current_tool_use")) and event.get("type") == "tool_use_stream":
                events.put({"event": "tool", "data": use["name"]})

    def run() -> None:
        try:
            asyncio.run(work())
            events.put({"event": "done", "data": {}})
        except Exception as error:  # noqa: BLE001 — whatever a model or a tool raises, its tenant is told
            events.put({"event": "error", "data": f"{type(error).__name__}: {error}"})
        finally:
            events.put(None)

    with gateway.lease(stop):
        threading.Thread(target=run, daemon=True).start()
        try:
            while (event := events.get()) is not None:
                yield event
        finally:
            # Whoever asked is gone: nobody reads what comes.
            stop.set()


def _model(vault: Vault) -> Model:
    said = vault.secret(MODEL)
    if not said:
        return LiteralModel()
    try:
        return OpenAIModel(
            client_args={"base_url": said["base_url"], "api_key": said["api_key"]}, model_id=said["model"]
        )
    except KeyError as error:
        raise NotReadyError(
            f"The secret {MODEL} lacks {error}, so no model can be asked; it has base_url, api_key and model."
        ) from None


def _file_tools(files: Files) -> list[Callable[..., Any]]:
    def list_files(path: str = "") -> str:
        """List the files of a folder of the workspace."""
        return "\n".join(files.listed(path)) or "(nothing)"

    def read_file(path: str) -> str:
        """Read a text file of the workspace."""
        return files.read(path).decode(errors="replace")

    def write_file(path: str, text: str) -> str:
        """Write a text file of the workspace."""
        files.write(path, [text.encode()])
        return f"Written: {path}"

    return [tool(list_files), tool(read_file), tool(write_file)]


def _mcp_servers(files: Files) -> list[MCPClient]:
    try:
        said = json.loads(files.read(MCP_SERVERS))
    except RefusedPathError:
        return []
    except ValueError as error:
        raise NotReadyError(f"{MCP_SERVERS}: no JSON ({error}), so no MCP server is started.") from None
    servers = said.get("mcpServers") if isinstance(said, dict) else None
    if not isinstance(servers, dict):
        raise NotReadyError(f'{MCP_SERVERS}: has no "mcpServers" mapping, so no MCP server is started.')
    return [_mcp_server(name, server, files) for name, server in servers.items()]


def _mcp_server(name: str, server: Any, files: Files) -> MCPClient:
    try:
        parameters = StdioServerParameters(**server, cwd=files.folder)
    except (TypeError, ValueError):
        raise NotReadyError(
            f"{MCP_SERVERS}: {name} is none with a command, args and env, so no MCP server is started."
        ) from None
    # Strands runs MCP 2, and its types still are of MCP 1.
    return MCPClient(cast("Any", lambda: stdio_client(parameters)), prefix=name)
