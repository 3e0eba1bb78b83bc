"""A tenant's runs and what happened in each: the tables `execution_logs` and `run_events`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

import psycopg
from psycopg.types.json import Json, Jsonb
from pydantic import Field, ValidationError

from services.agent_runtime.database import Connection, Database
from services.agent_runtime.problems import ConflictError, NotFoundError
from services.agent_runtime.tables import agents
from services.agent_runtime.tables.sessions import absent
from services.agent_runtime.tables.shapes import Name, Number, Page, Prompt, Shape, page, storable

CUT_OFF = (
    "The run was cut off: the machine or pod that it was in was stopped or lost, or could not reach its "
    "tables for two minutes."
)

_THERE = """
SELECT execution_logs.id, agents.name AS agent, session_id AS session, status, input #>> '{}' AS input,
  output #>> '{}' AS output, error, tools, tokens_in, tokens_out, started_at, finished_at,
  extract(epoch FROM coalesce(finished_at, now()) - started_at)::float AS seconds
FROM execution_logs LEFT JOIN agents ON agents.id = agent_id
"""

# Whoever is at work in a run says so every ten seconds (`runs.py`).
_END_CUT_OFF = """
WITH ended AS (
  UPDATE execution_logs SET status = 'failed', error = %(why)s,
    finished_at = greatest(started_at, coalesce(seen_at, started_at))
  WHERE status = 'running' AND coalesce(seen_at, started_at) < now() - interval '120 s'
  RETURNING id
)
INSERT INTO run_events (run_id, number, event, data)
SELECT id, coalesce((SELECT max(number) FROM run_events WHERE run_id = id), 0) + 1, 'error', %(data)s
FROM ended
"""

Status = Literal["running", "succeeded", "failed", "cancelled"]


class Order(Shape):
    """A run to begin."""

    prompt: Prompt
    agent: Name = Field(default=agents.DEFAULT, description="Of a session, the agent is the session's.")
    session: Number | None = Field(
        default=None, description="The conversation that it goes on with; null: none."
    )


class ToolUse(Shape):
    """The use of one tool in a run."""

    name: str
    calls: int
    failed: int
    seconds: float


class Run(Shape):
    """A run."""

    id: int
    agent: str | None = Field(description="Null if it is gone.")
    session: int | None
    status: Status
    input: str | None
    output: str | None
    error: str | None
    tools: list[ToolUse]
    tokens_in: int
    tokens_out: int
    started_at: datetime
    finished_at: datetime | None
    seconds: float


class Event(NamedTuple):
    """Something that happened in a run; `data` is as JSON has it."""

    number: int
    event: str
    data: Any


class Ended(NamedTuple):
    """The end of a run, and what the run used."""

    status: Status
    output: str | None = None
    error: str | None = None
    tools: Sequence[ToolUse] = ()
    tokens_in: int = 0
    tokens_out: int = 0


class RunLog:
    """The runs of one tenant."""

    def __init__(self, database: Database) -> None:
        """Keep them in `database`."""
        self._database = database

    def begin(self, order: Order) -> tuple[int, str]:
        """Note a run that begins; its number, and its agent's name.

        Raises NotFoundError if there is no such agent or session, ConflictError if the session has a run.
        """
        with self._database.connection() as connection:
            _end_cut_off(connection)
            name = order.agent if order.session is None else _agent_of(connection, order.session)
            try:
                row = connection.execute(
                    """
                    INSERT INTO execution_logs (agent_id, session_id, input, seen_at)
                    VALUES (%s, %s, to_jsonb(%s::text), now()) RETURNING id
                    """,
                    [agents.known(connection, name)["id"], order.session, order.prompt],
                ).fetchone()
            except psycopg.errors.UniqueViolation:
                raise ConflictError(
                    f"A run of session {order.session} is at work, so this one does not begin; wait for its "
                    "end, or cancel it."
                ) from None
        assert row, "an insert returns its row"  # noqa: S101
        return row["id"], name

    def listed(self, before: int | None = None, limit: int = 50) -> Page[Run]:
        """Return those that began before one, the newest first."""
        with self._database.connection() as connection:
            _end_cut_off(connection)
            found = connection.execute(
                f"{_THERE} WHERE coalesce(execution_logs.id < %s, true) "
                "ORDER BY execution_logs.id DESC LIMIT %s",
                [before, limit + 1],
            ).fetchall()
        return page([_run(row) for row in found], limit, lambda run: run.id)

    def get(self, number: int) -> Run:
        """Return one. Raises NotFoundError."""
        with self._database.connection() as connection:
            _end_cut_off(connection)
            row = connection.execute(f"{_THERE} WHERE execution_logs.id = %s", [number]).fetchone()
        if row is None:
            raise _absent(number)
        return _run(row)

    def delete(self, number: int) -> None:
        """Delete one with its events. Raises NotFoundError, ConflictError while it is at work."""
        run = self.get(number)
        if run.status == "running":
            raise ConflictError(f"Run {number} is at work, so it is not deleted; cancel it first.")
        with self._database.connection() as connection:
            connection.execute("DELETE FROM execution_logs WHERE id = %s", [number])

    def cancel(self, number: int) -> Run:
        """Have a run end soon, wherever it is; one that has ended stays as it is. Raises NotFoundError."""
        with self._database.connection() as connection:
            connection.execute(
                "UPDATE execution_logs SET cancelled = true WHERE id = %s AND status = 'running'", [number]
            )
        return self.get(number)

    def events(self, number: int, after: int = 0, limit: int = 500) -> tuple[list[Event], bool]:
        """Return what happened after an event, and whether more may come. Raises NotFoundError."""
        with self._database.connection() as connection:
            _end_cut_off(connection)
            # First whether it is at work: what it told before its end is there then.
            row = connection.execute("SELECT status FROM execution_logs WHERE id = %s", [number]).fetchone()
            if row is None:
                raise _absent(number)
            found = connection.execute(
                "SELECT number, event, data FROM run_events WHERE run_id = %s AND number > %s "
                "ORDER BY number LIMIT %s",
                [number, after, limit],
            ).fetchall()
        return [Event(**each) for each in found], row["status"] == "running" or len(found) == limit

    def tell(self, number: int, events: Sequence[Event]) -> bool:
        """Note what happened in a run at work, be it nothing; whether it is to go on."""
        with self._database.connection() as connection:
            row = connection.execute(
                "UPDATE execution_logs SET seen_at = now() WHERE id = %s AND status = 'running' "
                "RETURNING cancelled",
                [number],
            ).fetchone()
            if row is not None:
                _insert(connection, number, events)
        return row is not None and not row["cancelled"]

    def end(self, number: int, ended: Ended, events: Sequence[Event]) -> None:
        """Note the end of a run at work, and what happened last."""
        with self._database.connection() as connection:
            done = connection.execute(
                """
                UPDATE execution_logs SET status = %(status)s,
                  output = to_jsonb(%(output)s::text), error = %(error)s,
                  tools = %(tools)s, tokens_in = %(tokens_in)s, tokens_out = %(tokens_out)s, seen_at = now(),
                  finished_at = greatest(now(), started_at)
                WHERE id = %(number)s AND status = 'running'
                """,
                {
                    "number": number,
                    "status": ended.status,
                    "output": None if ended.output is None else storable(ended.output),
                    "error": None if ended.error is None else storable(ended.error),
                    "tools": Jsonb([use.model_dump() for use in ended.tools]),
                    "tokens_in": ended.tokens_in,
                    "tokens_out": ended.tokens_out,
                },
            )
            if done.rowcount:
                _insert(connection, number, events)


def _run(row: dict[str, Any]) -> Run:
    try:
        return Run(**row)
    except ValidationError:
        # The one column in which the tenant's own SQL can write anything.
        return Run(**{**row, "tools": []})


def _insert(connection: Connection, number: int, events: Sequence[Event]) -> None:
    with connection.cursor() as cursor:
        cursor.executemany(
            # Written before, if the server took it and its answer was lost.
            "INSERT INTO run_events (run_id, number, event, data) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (run_id, number) DO UPDATE SET event = excluded.event, data = excluded.data",
            [(number, each.number, each.event, Json(each.data)) for each in events],
        )


def _agent_of(connection: Connection, session: int) -> str:
    row = connection.execute(
        "SELECT name FROM sessions JOIN agents ON agents.id = agent_id WHERE sessions.id = %s", [session]
    ).fetchone()
    if row is None:
        raise absent(session)
    name: str = row["name"]
    return name


def _end_cut_off(connection: Connection) -> None:
    connection.execute(_END_CUT_OFF, {"why": CUT_OFF, "data": Json(CUT_OFF)})


def _absent(number: int) -> NotFoundError:
    return NotFoundError(f"There is no run {number}.")
