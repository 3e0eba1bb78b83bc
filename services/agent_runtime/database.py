"""A tenant's tables: a small pool of connections, with logins that Vault issues and renews."""

import contextlib
import errno
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from services.agent_runtime.identity import Identity, NotReadyError
from services.agent_runtime.vault import DatabaseLogin, Vault

Connection = psycopg.Connection[DictRow]

_MOST = 3
"""Connections at once; a login has two more at least, for what the tenant runs besides."""
_PATIENCE = 5.0
"""Seconds until a request that finds no connection is refused."""
_LIFETIME = 180.0
"""Seconds of a connection: less than a login is good for once another takes its place."""
_REFUSED = " is refused: "
"""The platform's words for a tenant that has more than its tier holds (control_schema.sql)."""


class Database:
    """One tenant's tables, in its schema and under its rights.

    Nothing is connected, and no login issued, before it is used.
    """

    def __init__(self, identity: Identity, vault: Vault) -> None:
        """Enter with logins that `vault` issues."""
        self._identity = identity
        self._vault = vault
        self._lock = threading.Lock()
        self._login: DatabaseLogin | None = None
        self._pool: ConnectionPool[Connection] | None = None

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection in a transaction, committed at the end of the block; rows are dictionaries.

        Raises NotReadyError if the database cannot be used, OSError (EDQUOT) if it takes no more; what else
        the statements of the block raise (`psycopg.Error`) is passed on.
        """
        pool, connection = self._taken()
        try:
            with connection.transaction():
                yield connection
        except psycopg.Error as error:
            told = self._told(error)
            if told is error:
                raise
            raise told from error
        finally:
            pool.putconn(connection)

    def close(self) -> None:
        """Close all connections; the login ends with the one to Vault."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool:
            pool.close()

    def _taken(self) -> "tuple[ConnectionPool[Connection], Connection]":
        """A connection and its pool; with another login if the one in use is good no longer."""
        failure = None
        for _ in range(3):
            pool = self._opened()
            try:
                return pool, pool.getconn(_PATIENCE)
            except PoolClosed:
                continue  # another request has begun with another login
            except PoolTimeout:
                known, failure = failure, self._failure()
                if failure is None or known:
                    break
                with contextlib.suppress(NotReadyError):
                    self._begin_anew()
        raise self._unreached(failure)

    def _opened(self) -> "ConnectionPool[Connection]":
        with self._lock:
            self._login = self._vault.database_login(self._login)
            if self._pool is None:
                self._pool = self._new_pool()
            return self._pool

    def _begin_anew(self) -> None:
        """Use another login, in a pool that has not failed yet: one that has waits before it tries again."""
        with self._lock:
            self._login = self._vault.database_login(None)
            pool, self._pool = self._pool, None
        if pool:
            pool.close()

    def _new_pool(self) -> "ConnectionPool[Connection]":
        return ConnectionPool(
            self._url(),
            connection_class=Connection,
            kwargs=self._entrance,
            min_size=0,
            max_size=_MOST,
            max_lifetime=_LIFETIME,
            max_idle=_LIFETIME / 3,
            check=ConnectionPool.check_connection,
            num_workers=1,
            reconnect_timeout=_PATIENCE,
            open=True,
        )

    def _url(self) -> str:
        if not self._identity.database:
            raise NotReadyError(
                f"{self._identity.tenant}: nothing says where its tables are; the platform's next update "
                "writes it, and the machine or pod reads it at its next start."
            )
        return self._identity.database

    def _entrance(self) -> dict[str, Any]:
        """The parameters of a connection beside the URL."""
        login = self._login
        assert login, "a pool is opened with one"  # noqa: S101
        return {
            "user": login.user,
            "password": login.password,
            "connect_timeout": int(_PATIENCE),
            "application_name": "agent-runtime",
            "autocommit": True,
            "row_factory": dict_row,
        }

    def _failure(self) -> psycopg.Error | None:
        """The error of a plain attempt to connect, which the pool does not tell; None if it succeeds."""
        try:
            psycopg.connect(self._url(), **self._entrance()).close()
        except psycopg.Error as error:
            return error
        return None

    def _unreached(self, failure: psycopg.Error | None) -> Exception:
        if failure is None:
            return NotReadyError(
                f"All {_MOST} connections of {self._identity.tenant} to its tables were in use for "
                f"{_PATIENCE:.0f} s, so this is not done; ask again when other requests have ended."
            )
        return self._told(failure)

    def _told(self, error: psycopg.Error) -> Exception:
        """The error to raise for one of PostgreSQL's: itself, if it is about the statement."""
        words = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        tenant = self._identity.tenant
        if _REFUSED in words or isinstance(error, psycopg.errors.DiskFull):
            return OSError(
                errno.EDQUOT, f"the tables of {tenant} take no more ({words}); what is there is kept"
            )
        if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
            return NotReadyError(
                f"{tenant}: {words}, so this is not done; the platform's next update with a refresh makes "
                "what is missing of its tables."
            )
        if isinstance(error, psycopg.OperationalError):
            where = urlsplit(self._url()).netloc
            return NotReadyError(
                f"PostgreSQL at {where} does not serve {tenant} ({words}), so this is not done; what was "
                "committed is kept. Try again."
            )
        return error
