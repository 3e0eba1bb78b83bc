"""The agent: Strands, a model, the workspace's files, a memory, and what MCP servers the tenant has."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import httpx2
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from strands import Agent, tool
from strands.models import Model
from strands.models.openai import OpenAIModel

from services.agent_runtime import mcp_servers, public
from services.agent_runtime.context import TenantContext
from services.agent_runtime.files import Files
from services.agent_runtime.gateway import Gateway
from services.agent_runtime.identity import Identity, NotReadyError
from services.agent_runtime.memory import Memory
from services.agent_runtime.model import LiteralModel

MODEL = "model"
"""The secret that says which model is asked: `base_url`, `api_key` and `model` of an OpenAI-like API."""

_QUIET = 15.0
"""Seconds without an event after which there is None instead."""

_SYSTEM = "You work for the owner of this machine. Its workspace is where files last."


def answer(
    prompt: str, known: Identity, context: TenantContext, gateway: Gateway
) -> Iterator[dict[str, Any] | None]:
    """Run the agent on a prompt; the events `text`, `tool` and at last `done` or `error`, as they come.

    None comes while there is nothing to say, so that whoever sends the events notices when nobody reads them:
    closed, the iterator ends the run. A lease is held for as long as it works. Raises NotReadyError before
    the first event if it cannot begin.
    """
    model, http = _model(context, known)
    servers = mcp_servers.named_in(context.workspace, commands=known.commands)
    try:
        agent = Agent(
            model=model,
            tools=[*_file_tools(context.workspace), *_memory_tools(Memory(context.database)), *servers],
            system_prompt=_SYSTEM,
            name=known.tenant,
            callback_handler=None,
        )
    except ValueError as error:
        raise NotReadyError(
            f"{mcp_servers.FILE}: a server cannot be used ({_cause(error)}), so the agent does not begin."
        ) from None
    return _run(agent, prompt, gateway, http)


def _run(
    agent: Agent, prompt: str, gateway: Gateway, http: httpx2.AsyncClient | None
) -> Iterator[dict[str, Any] | None]:
    """Run the agent in a thread of its own, so that its events can be sent from this one."""
    events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    stop = threading.Event()
    cancels: list[Callable[[], object]] = []

    def end() -> None:
        """End the run, whatever it waits for."""
        stop.set()
        with contextlib.suppress(RuntimeError):  # it has ended
            for cancel in cancels:
                cancel()

    async def work() -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        cancels.append(partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel))
        if stop.is_set():
            return
        async with http or contextlib.nullcontext():
            async for event in agent.stream_async(prompt, cancel_signal=stop):
                if text := event.get("data"):
                    events.put({"event": "text", "data": text})
                elif (use := event.get("current_tool_use")) and event.get("type") == "tool_use_stream":
                    events.put({"event": "tool", "data": use["name"]})

    def run() -> None:
        try:
            asyncio.run(work())
            events.put({"event": "done", "data": {}})
        except asyncio.CancelledError:
            events.put({"event": "error", "data": "The run was ended: it may work no longer."})
        except Exception as error:  # noqa: BLE001 — whatever a model or a tool raises, its tenant is told
            events.put({"event": "error", "data": f"{type(error).__name__}: {_cause(error)}"})
        finally:
            agent.cleanup()
            events.put(None)

    with gateway.lease(stop):
        threading.Thread(target=run, daemon=True).start()
        try:
            while True:
                try:
                    event = events.get(timeout=_QUIET)
                except queue.Empty:
                    if stop.is_set():
                        end()
                    yield None
                    continue
                if event is None:
                    return
                yield event
        finally:
            # Whoever asked is gone: nobody reads what comes.
            end()


def _model(context: TenantContext, known: Identity) -> tuple[Model, httpx2.AsyncClient | None]:
    """The model, and what it is asked with, which the run closes."""
    said = context.secrets.read(MODEL)
    if not said:
        return LiteralModel(), None
    # Its address is the tenant's to choose, as those of MCP servers are.
    http = DefaultAsyncHttpxClient() if known.commands else public.client()
    try:
        client = AsyncOpenAI(base_url=said["base_url"], api_key=said["api_key"], http_client=http)
        return OpenAIModel(client=client, model_id=said["model"]), http
    except KeyError as error:
        raise NotReadyError(
            f"The secret {MODEL} lacks {error}, so no model can be asked; it has base_url, api_key and model."
        ) from None
    except (TypeError, httpx2.InvalidURL) as error:
        raise NotReadyError(
            f"The secret {MODEL} has no address in base_url ({error}), so no model can be asked."
        ) from None


def _cause(error: BaseException) -> BaseException:
    """Return the first exception in the chain that led to an error."""
    if isinstance(error, BaseExceptionGroup):
        return _cause(error.exceptions[0])
    return _cause(error.__cause__) if error.__cause__ else error


def _file_tools(files: Files) -> list[Callable[..., Any]]:
    def list_files(path: str = "") -> str:
        """List the files of a folder of the workspace."""
        folder = files.listed(path)
        return "\n".join([*folder.names, *(["(and more)"] if folder.more else [])]) or "(nothing)"

    def read_file(path: str) -> str:
        """Read a text file of the workspace."""
        return files.read(path).decode(errors="replace")

    def write_file(path: str, text: str) -> str:
        """Write a text file of the workspace."""
        files.write(path, [text.encode()])
        return f"Written: {path}"

    return [tool(list_files), tool(read_file), tool(write_file)]


def _memory_tools(memory: Memory) -> list[Callable[..., Any]]:
    def remember(key: str, value: str, days: float | None = None) -> str:
        """Remember something under a key, for some days or for good; what was under the key is forgotten.

        Args:
            key: A short name for it.
            value: What to remember.
            days: After as many days it is forgotten.
        """
        memory.remember(key, value, days)
        return f"Remembered: {key}"

    def recall(words: str = "") -> str:
        """Recall what was remembered, in this conversation or an earlier one: the newest first.

        Args:
            words: What the key or the value has in it; empty for everything.
        """
        found = memory.recall(words)
        return "\n".join(f"{key}: {value}" for key, value in found.items()) or "(nothing)"

    def forget(key: str) -> str:
        """Forget what was remembered under a key."""
        return f"Forgotten: {key}" if memory.forget(key) else f"Nothing was remembered under {key}."

    return [tool(remember), tool(recall), tool(forget)]
