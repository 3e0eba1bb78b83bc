"""Agents at work: Strands with the tenant's model and tools."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx2
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from strands import Agent, tool
from strands.agent.conversation_manager import (
    ConversationManager,
    SlidingWindowConversationManager,
    SummarizingConversationManager,
)
from strands.hooks import AfterToolCallEvent, BeforeToolCallEvent
from strands.models import Model
from strands.models.openai import OpenAIModel
from strands.session.repository_session_manager import RepositorySessionManager

from services.agent_runtime import computer, mcp_servers, public
from services.agent_runtime.context import TenantContext
from services.agent_runtime.files import Files
from services.agent_runtime.identity import Identity, NotReadyError
from services.agent_runtime.model import LiteralModel
from services.agent_runtime.problems import NotFoundError
from services.agent_runtime.public import Allowance
from services.agent_runtime.tables.agents import Agent as Declared
from services.agent_runtime.tables.agents import Agents, Conversation
from services.agent_runtime.tables.memory import Memory
from services.agent_runtime.tables.runs import Ended, Order, ToolUse
from services.agent_runtime.tables.sessions import Transcript

if TYPE_CHECKING:
    from services.agent_runtime.storage import Storage

MODEL = "model"
"""The secret that says which model is asked: `base_url`, `api_key`, `model`, `provider`."""

_SYSTEM = "You work for the owner of this machine. Its workspace is where files last."
_LONGEST_ANSWER = 8192
"""Tokens of one answer, where the model's API wants to be told."""
_MOST_RECEIVED = 32 * 2**20
"""Bytes that a run is sent by its model and MCP servers, where tenants share the memory."""
_LONGEST_RESULT = 2**16
"""Characters of a tool's result that a model is shown and a conversation keeps."""


Tell = Callable[[str, Any], None]
"""Takes the events of a run: `text`, `tool`, and `output`, which is what a command prints."""


@dataclass(frozen=True)
class Prepared:
    """An agent that is ready for its run."""

    agent: Agent
    clients: tuple[httpx2.AsyncClient, ...]
    """With which its model is asked."""

    async def work(self, prompt: str, stop: threading.Event, tell: Tell) -> Ended:
        """Do the run. When `stop` is set, it ends before its next step."""
        try:
            output = ""
            async for event in self.agent.stream_async(prompt, cancel_signal=stop):
                if text := event.get("data"):
                    tell("text", text)
                elif result := event.get("result"):
                    output = str(result)
            return self._ended(Ended("succeeded", output=output))
        except Exception as error:  # noqa: BLE001 — whatever a model or a tool raises, its tenant is told
            return self._ended(Ended("failed", error=told(error)))
        except asyncio.CancelledError:
            return self._ended(Ended("cancelled"))
        finally:
            for client in self.clients:
                # One of them has worked in other event loops.
                with contextlib.suppress(Exception):
                    await client.aclose()

    def _ended(self, ended: Ended) -> Ended:
        """Add what the agent used."""
        metrics = self.agent.event_loop_metrics
        return ended._replace(
            tools=[
                ToolUse(name=name, calls=use.call_count, failed=use.error_count, seconds=use.total_time)
                for name, use in metrics.tool_metrics.items()
            ],
            tokens_in=metrics.accumulated_usage["inputTokens"],
            tokens_out=metrics.accumulated_usage["outputTokens"],
        )


@dataclass(frozen=True)
class Worker:
    """Makes the agents of one tenant ready for their runs."""

    known: Identity
    context: TenantContext

    def prepare(
        self,
        order: Order,
        name: str,
        tell: Tell,
        fail: Callable[[str], object],
        cleanup: contextlib.ExitStack,
    ) -> Prepared:
        """Make the agent of that name ready, its MCP servers connected; `cleanup` disconnects them.

        `fail` ends the run for a reason that the agent itself may go on without. MCP servers can keep it
        waiting for as long as they like. Raises NotReadyError, NotFoundError.
        """
        declared = Agents(self.context.database).get(name)
        secret = self.context.secrets.read(MODEL)
        # Where commands may run, all that there is is the tenant's own.
        public_only = None if self.known.commands else Allowance(_MOST_RECEIVED, fail)
        model, client = _model(secret, public_only, declared.model)
        # Summing a conversation up is done in an event loop of its own, with which no client can be shared.
        for_summary, its_client = _model(secret, public_only, declared.model)
        files, database = self.context.workspace, self.context.database
        conversation = _shown(declared.conversation)

        def tell_tool(event: BeforeToolCallEvent) -> None:
            tell("tool", event.tool_use["name"])

        kept = None
        if order.session is not None:
            transcript = Transcript(database, order.session, type(conversation).__name__)
            kept = RepositorySessionManager(str(order.session), transcript)
        named = declared.model_dump(mode="json", include={"mcp_servers"})["mcp_servers"]
        servers = mcp_servers.clients(files, named, public_only)
        for server in servers:
            cleanup.callback(_quietly, server.stop, None, None, None)
        try:
            agent = Agent(
                model=model,
                aux_model=for_summary,
                tools=[*self._tools(declared), *servers],
                sandbox=computer.Computer(files.folder, tell) if self.known.commands else None,
                system_prompt="\n\n".join(filter(None, (_SYSTEM, declared.instructions))),
                name=declared.name,
                callback_handler=None,
                conversation_manager=conversation,
                session_manager=kept,
                hooks=[tell_tool, _shorten],
            )
        except ValueError as error:
            raise NotReadyError(
                f"A part of the agent {declared.name} cannot be used ({_cause(error)}), so it does not begin."
            ) from None
        for server in servers:
            server.settled()
        return Prepared(agent, tuple(filter(None, (client, its_client))))

    def _tools(self, declared: Declared) -> list[Any]:
        """Those that an agent is given, or all that there are here."""
        there = {
            each.tool_name: each
            for each in (
                *_file_tools(self.context.workspace),
                *_memory_tools(Memory(self.context.database, declared.name)),
                *_storage_tools(lambda: self.context.storage),
                *(computer.tools() if self.known.commands else []),
            )
        }
        wanted = there if declared.tools is None else declared.tools
        if missing := [name for name in wanted if name not in there]:
            raise NotReadyError(
                f"The agent {declared.name} has the tool {missing[0]}, which needs a machine or pod of the "
                "tenant's own, so it does not begin; give it other tools, or move the tenant to professional."
            )
        return [there[name] for name in wanted]


class _Summary(SummarizingConversationManager):
    """Leaves as many messages as are wanted, or half of fewer; if it fails, all is as it was."""

    def reduce_context(self, agent: Agent, e: Exception | None = None, **kwargs: Any) -> None:
        """Sum the oldest messages up."""
        wanted, before = self.preserve_recent_messages, (self.removed_message_count, self._summary_message)
        self.preserve_recent_messages = min(wanted, len(agent.messages) // 2)
        try:
            super().reduce_context(agent, e, **kwargs)
        except Exception:
            self.removed_message_count, self._summary_message = before
            raise
        finally:
            self.preserve_recent_messages = wanted


def _shown(conversation: Conversation) -> ConversationManager:
    if conversation.keep == "summary":
        return _Summary(preserve_recent_messages=conversation.messages)
    return SlidingWindowConversationManager(window_size=conversation.messages)


def _shorten(event: AfterToolCallEvent) -> None:
    """Cut what a tool says off where it is too long for a model."""
    for block in event.result["content"]:
        text = block.get("text", "")
        if len(text) > _LONGEST_RESULT:
            block["text"] = f"{text[:_LONGEST_RESULT]}\n(cut off: {len(text)} characters in all)"


def _model(
    said: dict[str, Any], public_only: Allowance | None, chosen: str
) -> tuple[Model, httpx2.AsyncClient | None]:
    """The model that the secret names, and the client that it is asked with, which the run closes."""
    if not said:
        return LiteralModel(), None
    provider = said.get("provider", "openai")
    if missing := [
        field for field in ("base_url", "api_key", "model") if not isinstance(said.get(field), str)
    ]:
        raise NotReadyError(
            f"The secret {MODEL} lacks {', '.join(missing)}, so no model can be asked; it has base_url, "
            "api_key, model, and provider if that is not openai."
        )
    # Its address is the tenant's to choose, as those of MCP servers are.
    http = public.client(public_only) if public_only else DefaultAsyncHttpxClient()
    client = {"base_url": said["base_url"], "api_key": said["api_key"], "http_client": http}
    model = chosen or said["model"]
    try:
        if provider == "openai":
            return OpenAIModel(client=AsyncOpenAI(**client), model_id=model), http
        if provider == "anthropic":
            # Loaded only where it is asked: it takes half a second.
            from strands.models.anthropic import AnthropicModel

            return AnthropicModel(client_args=client, model_id=model, max_tokens=_LONGEST_ANSWER), http
    except httpx2.InvalidURL as error:
        raise NotReadyError(
            f"The secret {MODEL} has no address in base_url ({error}), so no model can be asked."
        ) from None
    raise NotReadyError(
        f"The secret {MODEL} names the provider {provider}, so no model can be asked; there are openai "
        "and anthropic."
    )


def told(error: BaseException) -> str:
    """The words for an error that ends a run."""
    if isinstance(error, NotReadyError | NotFoundError):
        return str(error)
    return f"{type(error).__name__}: {_cause(error)}"


def _quietly(do: Callable[..., object], *arguments: object) -> None:
    with contextlib.suppress(Exception):
        do(*arguments)


def _cause(error: BaseException) -> BaseException:
    """Return the first exception in the chain that led to an error."""
    if isinstance(error, BaseExceptionGroup):
        return _cause(error.exceptions[0])
    return _cause(error.__cause__) if error.__cause__ else error


def _file_tools(files: Files) -> list[Any]:
    def list_files(path: str = "") -> str:
        """List the files of a folder of the workspace."""
        return _listed(files, path)

    def read_file(path: str) -> str:
        """Read a text file of the workspace."""
        return files.read(path).decode(errors="replace")

    def write_file(path: str, text: str) -> str:
        """Write a text file of the workspace."""
        files.write(path, [text.encode()])
        return f"Written: {path}"

    return [tool(list_files), tool(read_file), tool(write_file)]


def _memory_tools(memory: Memory) -> list[Any]:
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


def _storage_tools(storage: "Callable[[], Storage]") -> list[Any]:
    def list_uploads(path: str = "") -> str:
        """List what the owner has uploaded, in a folder of the uploads."""
        return _listed(storage().uploads, path)

    def read_upload(path: str) -> str:
        """Read a text file that the owner has uploaded."""
        return storage().uploads.read(path).decode(errors="replace")

    def save_artifact(path: str, text: str) -> str:
        """Save a text file for the owner, who finds it among the artifacts."""
        storage().artifacts.write(path, [text.encode()])
        return f"Saved: {path}"

    return [tool(list_uploads), tool(read_upload), tool(save_artifact)]


def _listed(files: Files, path: str) -> str:
    folder = files.listed(path)
    return "\n".join([*folder.names, *(["(and more)"] if folder.more else [])]) or "(nothing)"
