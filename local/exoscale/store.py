"""The emulator's state: one SQLite file, a transaction per request; `kill -9` loses nothing answered."""

import json
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local import store
from local.exoscale.contract import Json
from local.exoscale.errors import not_found

GLOBAL = ""
"""The zone of resources that belong to the organization, not to a zone."""


class Store:
    """Resources as JSON documents, by kind and id. Keys that start with `_` are the emulator's own."""

    def __init__(self, path: Path) -> None:
        """Open or create the file at `path`, readable by its owner only: it holds API secrets."""
        store.private_folder(path.parent)
        path.touch(mode=0o600)
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS resource (kind TEXT, id TEXT, zone TEXT NOT NULL, body TEXT NOT NULL,"
            " PRIMARY KEY (kind, id)) WITHOUT ROWID"
        )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; one at a time."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def put(self, kind: str, zone: str, body: Json, identifier: str | None = None) -> Json:
        """Write a resource whole; without an `id` it gets one."""
        body.setdefault("id", identifier or str(uuid.uuid4()))
        self._connection.execute(
            "INSERT OR REPLACE INTO resource VALUES (?, ?, ?, ?)",
            (kind, identifier or body["id"], zone, json.dumps(body)),
        )
        return body

    def find(self, kind: str, zone: str, identifier: str) -> Json | None:
        """The resource, or None."""
        row = self._connection.execute(
            "SELECT body FROM resource WHERE kind = ? AND id = ? AND zone = ?", (kind, identifier, zone)
        ).fetchone()
        return None if row is None else json.loads(row[0])

    def get(self, kind: str, zone: str, identifier: str) -> Json:
        """The resource. Raises `ApiError` 404."""
        if (body := self.find(kind, zone, identifier)) is None:
            raise not_found(kind, identifier)
        return body

    def all(self, kind: str, zone: str) -> list[Json]:
        """Every resource of a kind, in a stable order."""
        rows = self._connection.execute(
            "SELECT body FROM resource WHERE kind = ? AND zone = ? ORDER BY id", (kind, zone)
        )
        return [json.loads(body) for (body,) in rows]

    def delete(self, kind: str, zone: str, identifier: str) -> None:
        """Forget the resource. Raises `ApiError` 404."""
        self.get(kind, zone, identifier)
        self._connection.execute("DELETE FROM resource WHERE kind = ? AND id = ?", (kind, identifier))
