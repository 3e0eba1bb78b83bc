"""A tenant's agents, each under a name: the table `agents`."""

from datetime import datetime
from typing import Annotated, Any, Literal

from psycopg.types.json import Jsonb
from pydantic import Field, ValidationError

from services.agent_runtime.database import Connection, Database
from services.agent_runtime.identity import NotReadyError
from services.agent_runtime.problems import ConflictError, NotFoundError
from services.agent_runtime.tables.shapes import Key, Long, Name, Page, Shape, Short, page

DEFAULT = "default"
"""The agent that every tenant has."""
TOOLS = (
    *("list_files", "read_file", "write_file"),
    *("remember", "recall", "forget"),
    *("list_uploads", "read_upload", "save_artifact"),
    # These need a machine or pod of the tenant's own.
    *("shell", "python_repl", "web_fetch"),
)
"""The names of the tools that agents have besides those of MCP servers."""
MOST_SERVERS = 16
"""MCP servers of one agent: each takes a thread."""


class Conversation(Shape):
    """The part of a conversation that the model is shown."""

    keep: Literal["window", "summary"] = Field(
        default="window",
        description="`window`: the last messages. `summary`: those, and what the model makes of older ones "
        "once its context is full.",
    )
    messages: Annotated[int, Field(ge=2, le=1000)] = 40


class RemoteServer(Shape):
    """An MCP server that is reached over streamable HTTP."""

    type: Literal["http", "streamable-http"] = "http"
    url: Key
    headers: dict[Key, Short] = Field(default={})


class CommandServer(Shape):
    """An MCP server that is started, where the tenant has a machine or pod of its own."""

    command: Key
    args: list[Short] = Field(default=[])
    env: dict[Key, Long] = Field(default={})


class Settings(Shape):
    """The settings of an agent."""

    model: Short = Field(
        default="", description="Asked in the place of the one that the secret `model` names."
    )
    instructions: Long = Field(default="", description="Said to the model before everything else.")
    tools: Annotated[list[Literal[TOOLS]], Field(max_length=len(TOOLS))] | None = Field(  # type: ignore[valid-type]
        default=None, description="Null: all."
    )
    mcp_servers: Annotated[dict[Name, RemoteServer | CommandServer], Field(max_length=MOST_SERVERS)] = Field(
        default={}, description="Besides those that `.agent/mcp.json` in the workspace names for every agent."
    )
    conversation: Conversation = Conversation()


class Entry(Shape):
    """An agent in a list."""

    name: str
    model: str
    created_at: datetime
    updated_at: datetime


class Agent(Settings):
    """An agent."""

    name: str
    created_at: datetime
    updated_at: datetime


class Agents:
    """The agents of one tenant."""

    def __init__(self, database: Database) -> None:
        """Keep them in `database`."""
        self._database = database

    def listed(self, after: str = "", limit: int = 50) -> Page[Entry]:
        """Return those whose names come after one."""
        with self._database.connection() as connection:
            _make_default(connection)
            found = connection.execute(
                "SELECT name, model, created_at, updated_at FROM agents "
                'WHERE name COLLATE "C" > %s ORDER BY name COLLATE "C" LIMIT %s',
                [after, limit + 1],
            ).fetchall()
        return page([Entry(**row) for row in found], limit, lambda entry: entry.name)

    def get(self, name: str) -> Agent:
        """Return one. Raises NotFoundError."""
        with self._database.connection() as connection:
            return _agent(known(connection, name))

    def put(self, name: str, settings: Settings) -> tuple[Agent, bool]:
        """Make an agent, or make another of the one that has the name; and whether it is new."""
        configuration = settings.model_dump(mode="json", by_alias=True, exclude={"model"})
        with self._database.connection() as connection:
            row = connection.execute(
                """
                INSERT INTO agents (name, model, configuration)
                VALUES (%(name)s, %(model)s, %(configuration)s)
                ON CONFLICT (name) DO UPDATE SET model = excluded.model,
                  configuration = excluded.configuration, updated_at = now()
                RETURNING *, xmax = 0 AS is_new
                """,
                {"name": name, "model": settings.model, "configuration": Jsonb(configuration)},
            ).fetchone()
        assert row, "an insert returns its row"  # noqa: S101
        return _agent(row), row["is_new"]

    def delete(self, name: str) -> None:
        """Delete one with its memory and its sessions; its runs stay. Raises NotFoundError, ConflictError."""
        if name == DEFAULT:
            raise ConflictError(
                f"The agent {DEFAULT} stays: it is the one that is asked where none is named."
            )
        with self._database.connection() as connection:
            if not connection.execute("DELETE FROM agents WHERE name = %s", [name]).rowcount:
                raise NotFoundError(f"There is no agent {name}, so none is deleted.")


def known(connection: Connection, name: str) -> dict[str, Any]:
    """Return the row of an agent. Raises NotFoundError."""
    if name == DEFAULT:
        _make_default(connection)
    row = connection.execute("SELECT * FROM agents WHERE name = %s", [name]).fetchone()
    if row is None:
        raise NotFoundError(f"There is no agent {name}; PUT /v1/agents/{name} makes one.")
    return row


def _make_default(connection: Connection) -> None:
    connection.execute(
        "INSERT INTO agents (name, model) SELECT %(name)s, '' "
        "WHERE NOT EXISTS (SELECT FROM agents WHERE name = %(name)s) ON CONFLICT (name) DO NOTHING",
        {"name": DEFAULT},
    )


def _agent(row: dict[str, Any]) -> Agent:
    named = {key: row[key] for key in ("name", "model", "created_at", "updated_at")}
    try:
        return Agent.model_validate({**row["configuration"], **named})
    except (ValidationError, TypeError) as error:
        raise NotReadyError(
            f"The agent {row['name']} has a configuration in the table agents that is none "
            f"({str(error).splitlines()[0]}), so it is not used; PUT /v1/agents/{row['name']} makes another."
        ) from None
