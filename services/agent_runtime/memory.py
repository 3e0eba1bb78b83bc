"""An agent's memory, kept from one conversation to the next in the table `agent_memory`."""

from services.agent_runtime.database import Connection, Database

DEFAULT = "default"
"""The agent that every tenant has."""
_LONGEST_KEY = 200
_LONGEST_VALUE = 2**16
_MOST = 100
"""Memories that are recalled at once."""
_YEARS = 100 * 365.0
"""Days; what is to be kept for longer has no end."""


class Memory:
    """The memory of one agent. Each method raises what `Database.connection` does."""

    def __init__(self, database: Database, agent: str = DEFAULT) -> None:
        """Keep it in the tenant's `database`."""
        self._database = database
        self._agent = agent

    def remember(self, key: str, value: str, days: float | None = None) -> None:
        """Keep `value` under `key`, for some days if they are given.

        Raises ValueError if it is too long, or the days are none.
        """
        _check("key", key, _LONGEST_KEY)
        _check("value", value, _LONGEST_VALUE)
        if days is not None and not 0 < days <= _YEARS:
            raise ValueError(
                f"days: {days} is not above 0 and at most {_YEARS:.0f}, so nothing is remembered."
            )
        with self._database.connection() as connection:
            _forget_expired(connection)
            connection.execute(
                "INSERT INTO agents (name, model) VALUES (%s, '') ON CONFLICT (name) DO NOTHING",
                [self._agent],
            )
            connection.execute(
                """
                INSERT INTO agent_memory (agent_id, key, value, expires_at)
                SELECT id, %(key)s, to_jsonb(%(value)s::text), now() + %(days)s * interval '1 day'
                FROM agents WHERE name = %(agent)s
                ON CONFLICT (agent_id, key) DO UPDATE
                SET value = EXCLUDED.value, expires_at = EXCLUDED.expires_at, updated_at = now()
                """,
                {"agent": self._agent, "key": key, "value": value, "days": days},
            )

    def recall(self, words: str = "") -> dict[str, str]:
        """The memories by key, the newest first; with `words`, only those that have them in key or value."""
        with self._database.connection() as connection:
            _forget_expired(connection)
            found = connection.execute(
                """
                SELECT key, value #>> '{}' AS value FROM agent_memory JOIN agents ON agents.id = agent_id
                WHERE name = %(agent)s
                  AND position(lower(%(words)s) IN lower(key || ' ' || (value #>> '{}'))) > 0
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
        raise ValueError(
            f"{what}: has to have 1 to {longest} characters, none of them NUL, so nothing is remembered."
        )
