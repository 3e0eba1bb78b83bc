"""An agent's memory, kept from one conversation to the next: the table `agent_memory`."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from services.agent_runtime.body import BadRequestError
from services.agent_runtime.database import Connection, Database
from services.agent_runtime.problems import NotFoundError
from services.agent_runtime.tables import agents
from services.agent_runtime.tables.shapes import Page, Shape, Value, page

_LONGEST_KEY = 200
_LONGEST_VALUE = 2**16
_MOST = 100
"""Memories that are recalled at once."""
_YEARS = 100 * 365.0
"""Days; what is to be kept for longer has no end."""

Days = Annotated[float, Field(gt=0, le=_YEARS, allow_inf_nan=False)]

_THERE = """
SELECT key, value #>> '{}' AS value, expires_at, agent_memory.updated_at
FROM agent_memory JOIN agents ON agents.id = agent_id WHERE name = %(agent)s
"""


class Remembering(Shape):
    """A memory to keep."""

    value: Value
    days: Days | None = Field(default=None, description="After as many it is forgotten; null: never.")


class Remembered(Shape):
    """A memory, under its key."""

    key: str
    value: str | None
    expires_at: datetime | None
    updated_at: datetime


class Memory:
    """The memory of one agent."""

    def __init__(self, database: Database, agent: str = agents.DEFAULT) -> None:
        """Keep it in the tenant's `database`."""
        self._database = database
        self._agent = agent

    def remember(self, key: str, value: str, days: float | None = None) -> Remembered:
        """Keep `value` under `key`, for some days if they are given.

        Raises NotFoundError if there is no such agent, BadRequestError if something is too long or no days.
        """
        _check("key", key, _LONGEST_KEY)
        _check("value", value, _LONGEST_VALUE)
        if days is not None and not 0 < days <= _YEARS:
            raise BadRequestError(
                f"days: {days} is not above 0 and at most {_YEARS:.0f}, so nothing is remembered."
            )
        with self._database.connection() as connection:
            _forget_expired(connection)
            agent = agents.known(connection, self._agent)["id"]
            row = connection.execute(
                """
                INSERT INTO agent_memory (agent_id, key, value, expires_at)
                VALUES (%(agent)s, %(key)s, to_jsonb(%(value)s::text), now() + %(days)s * interval '1 day')
                ON CONFLICT (agent_id, key) DO UPDATE
                SET value = EXCLUDED.value, expires_at = EXCLUDED.expires_at, updated_at = now()
                RETURNING key, value #>> '{}' AS value, expires_at, updated_at
                """,
                {"agent": agent, "key": key, "value": value, "days": days},
            ).fetchone()
        assert row, "an insert returns its row"  # noqa: S101
        return Remembered(**row)

    def listed(self, after: str = "", limit: int = 50) -> Page[Remembered]:
        """Return those whose keys come after one. Raises NotFoundError if there is no such agent."""
        with self._database.connection() as connection:
            agents.known(connection, self._agent)
            _forget_expired(connection)
            found = connection.execute(
                f"""{_THERE} AND key COLLATE "C" > %(after)s ORDER BY key COLLATE "C" LIMIT %(limit)s""",
                {"agent": self._agent, "after": after, "limit": limit + 1},
            ).fetchall()
        return page([Remembered(**row) for row in found], limit, lambda each: each.key)

    def get(self, key: str) -> Remembered:
        """Return what is under a key. Raises NotFoundError."""
        with self._database.connection() as connection:
            agents.known(connection, self._agent)
            _forget_expired(connection)
            row = connection.execute(
                f"{_THERE} AND key = %(key)s", {"agent": self._agent, "key": key}
            ).fetchone()
        if row is None:
            raise NotFoundError(f"The agent {self._agent} remembers nothing under this key.")
        return Remembered(**row)

    def recall(self, words: str = "") -> dict[str, str]:
        """The memories by key, the newest first; with `words`, only those that have them in key or value."""
        with self._database.connection() as connection:
            _forget_expired(connection)
            found = connection.execute(
                f"""
                {_THERE} AND position(lower(%(words)s) IN lower(key || ' ' || (value #>> '{{}}'))) > 0
                ORDER BY agent_memory.updated_at DESC, agent_memory.id DESC LIMIT %(most)s
                """,
                {"agent": self._agent, "words": words, "most": _MOST},
            )
            return {row["key"]: row["value"] for row in found}

    def forget(self, key: str) -> bool:
        """Forget what is under `key`; whether there was anything."""
        with self._database.connection() as connection:
            done = connection.execute(
                "DELETE FROM agent_memory USING agents WHERE agents.id = agent_id AND name = %s AND key = %s",
                [self._agent, key],
            )
            return done.rowcount > 0


def _forget_expired(connection: Connection) -> None:
    connection.execute("DELETE FROM agent_memory WHERE expires_at <= now()")


def _check(what: str, text: str, longest: int) -> None:
    if not text.strip() or "\0" in text or len(text) > longest:
        raise BadRequestError(
            f"{what}: has to have 1 to {longest} characters, none of them NUL, so nothing is remembered."
        )
