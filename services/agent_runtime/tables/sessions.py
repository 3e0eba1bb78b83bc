"""A tenant's conversations: the tables `sessions` and `session_messages`."""

import json
from datetime import datetime
from typing import Any

from psycopg.types.json import Json
from strands.session.session_repository import SessionRepository
from strands.types.session import Session as StrandsSession
from strands.types.session import SessionAgent, SessionMessage, SessionType, encode_bytes_values

from services.agent_runtime.database import Database
from services.agent_runtime.identity import NotReadyError
from services.agent_runtime.problems import ConflictError, NotFoundError
from services.agent_runtime.tables import agents
from services.agent_runtime.tables.shapes import Name, Page, Shape, page, storable

_THERE = """
SELECT sessions.id, agents.name AS agent, sessions.created_at, sessions.updated_at
FROM sessions JOIN agents ON agents.id = agent_id
"""


class Opening(Shape):
    """A conversation to begin."""

    agent: Name = agents.DEFAULT


class Session(Shape):
    """A conversation."""

    id: int
    agent: str
    created_at: datetime
    updated_at: datetime


class Message(Shape):
    """A message of a conversation, as Strands keeps it."""

    number: int
    role: str
    content: list[dict[str, Any]]
    created_at: datetime


class Sessions:
    """The conversations of one tenant."""

    def __init__(self, database: Database) -> None:
        """Keep them in `database`."""
        self._database = database

    def begin(self, agent: str) -> Session:
        """Begin one with an agent. Raises NotFoundError if there is no such agent."""
        with self._database.connection() as connection:
            row = connection.execute(
                "INSERT INTO sessions (agent_id) VALUES (%s) RETURNING id, created_at, updated_at",
                [agents.known(connection, agent)["id"]],
            ).fetchone()
        assert row, "an insert returns its row"  # noqa: S101
        return Session(agent=agent, **row)

    def listed(self, before: int | None = None, limit: int = 50) -> Page[Session]:
        """Return those that were begun before one, the newest first."""
        with self._database.connection() as connection:
            found = connection.execute(
                f"{_THERE} WHERE coalesce(sessions.id < %s, true) ORDER BY sessions.id DESC LIMIT %s",
                [before, limit + 1],
            ).fetchall()
        return page([Session(**row) for row in found], limit, lambda session: session.id)

    def get(self, number: int) -> Session:
        """Return one. Raises NotFoundError."""
        with self._database.connection() as connection:
            row = connection.execute(f"{_THERE} WHERE sessions.id = %s", [number]).fetchone()
        if row is None:
            raise absent(number)
        return Session(**row)

    def messages(self, number: int, after: int = -1, limit: int = 50) -> Page[Message]:
        """Return the messages after one, in their order. Raises NotFoundError."""
        self.get(number)
        with self._database.connection() as connection:
            found = connection.execute(
                "SELECT number, created_at, message FROM session_messages "
                "WHERE session_id = %s AND number > %s ORDER BY number LIMIT %s",
                [number, after, limit + 1],
            ).fetchall()
        return page([_message(row) for row in found], limit, lambda message: message.number)

    def delete(self, number: int) -> None:
        """Delete one with its messages; its runs stay. Raises NotFoundError, ConflictError during a run."""
        with self._database.connection() as connection:
            if connection.execute(
                "SELECT 1 FROM execution_logs WHERE session_id = %s AND status = 'running'", [number]
            ).fetchone():
                raise ConflictError(
                    f"A run of session {number} is at work, so it is not deleted; cancel that first."
                )
            if not connection.execute("DELETE FROM sessions WHERE id = %s", [number]).rowcount:
                raise absent(number)


def absent(number: int) -> NotFoundError:
    """Return the error for a session that is not there."""
    return NotFoundError(f"There is no session {number}.")


def _message(row: dict[str, Any]) -> Message:
    try:
        said = SessionMessage.from_dict(row["message"]).to_message()
    except (AttributeError, TypeError) as error:
        raise NotReadyError(
            f"Message {row['number']} of the session is none that the platform wrote ({error}), so it is not "
            "shown."
        ) from None
    # What a tool said may have halves of characters in it, and bytes.
    content = json.loads(storable(json.dumps(encode_bytes_values(said["content"]), ensure_ascii=False)))
    return Message(number=row["number"], role=said["role"], content=content, created_at=row["created_at"])


class Transcript(SessionRepository):
    """One conversation, as Strands stores it and finds it again.

    Strands knows an agent in it by a name; there is one.
    """

    def __init__(self, database: Database, number: int, manager: str) -> None:
        """Keep it in `database`, in that session; `manager` is the class of what shortens it."""
        self._database = database
        self._number = number
        self._manager = manager

    def create_session(self, session: StrandsSession, **_: Any) -> StrandsSession:
        """Refuse: the row is made before a run begins, and is gone if it was deleted since."""
        raise absent(self._number)

    def read_session(self, session_id: str, **_: Any) -> StrandsSession | None:
        """Return it, None if it is gone."""
        found = self._rows("SELECT FROM sessions WHERE id = %s")
        return StrandsSession(session_id=session_id, session_type=SessionType.AGENT) if found else None

    def create_agent(self, session_id: str, session_agent: SessionAgent, **_: Any) -> None:
        """Keep the state of the agent."""
        self.update_agent(session_id, session_agent)

    def read_agent(self, session_id: str, agent_id: str, **_: Any) -> SessionAgent | None:
        """Return the state of the agent, None before its first run."""
        rows = self._rows("SELECT state FROM sessions WHERE id = %s AND state IS NOT NULL")
        if not rows:
            return None
        found = SessionAgent.from_dict(rows[0]["state"])
        # Strands takes the state of no other class than its own, and the agent may have another by now.
        found.conversation_manager_state["__name__"] = self._manager
        return found

    def update_agent(self, session_id: str, session_agent: SessionAgent, **_: Any) -> None:
        """Keep the state of the agent."""
        self._do(
            "UPDATE sessions SET state = %s, updated_at = now() WHERE id = %s",
            Json(session_agent.to_dict()),
            self._number,
        )

    def create_message(
        self, session_id: str, agent_id: str, session_message: SessionMessage, **_: Any
    ) -> None:
        """Add a message."""
        self._do(
            "INSERT INTO session_messages (session_id, number, message) VALUES (%s, %s, %s)",
            self._number,
            session_message.message_id,
            Json(session_message.to_dict()),
        )

    def read_message(
        self, session_id: str, agent_id: str, message_id: int, **_: Any
    ) -> SessionMessage | None:
        """Return a message, None if it is not there."""
        rows = self._rows(
            "SELECT message FROM session_messages WHERE session_id = %s AND number = %s", message_id
        )
        return SessionMessage.from_dict(rows[0]["message"]) if rows else None

    def update_message(
        self, session_id: str, agent_id: str, session_message: SessionMessage, **_: Any
    ) -> None:
        """Keep another message in the place of one."""
        self._do(
            "UPDATE session_messages SET message = %s WHERE session_id = %s AND number = %s",
            Json(session_message.to_dict()),
            self._number,
            session_message.message_id,
        )

    def list_messages(
        self, session_id: str, agent_id: str, limit: int | None = None, offset: int = 0, **_: Any
    ) -> list[SessionMessage]:
        """Return the messages in their order."""
        rows = self._rows(
            "SELECT message FROM session_messages WHERE session_id = %s ORDER BY number LIMIT %s OFFSET %s",
            limit,
            offset,
        )
        return [SessionMessage.from_dict(row["message"]) for row in rows]

    def _rows(self, statement: str, *more: Any) -> list[dict[str, Any]]:
        with self._database.connection() as connection:
            return connection.execute(statement.encode(), [self._number, *more]).fetchall()

    def _do(self, statement: str, *values: Any) -> None:
        """Change a row of the session; NotFoundError if it is gone."""
        with self._database.connection() as connection:
            if not connection.execute(statement.encode(), values).rowcount:
                raise absent(self._number)
