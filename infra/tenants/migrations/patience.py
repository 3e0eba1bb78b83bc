"""Keeps a tenant from holding up the update of its tables: whose session does so loses it.

Nor does what the tenant itself has put into the tables, such as a function in an index, keep the update going
for ever.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any

import psycopg

from infra.tenants import clients

_GRACE = "3s"
"""Wait this long for a session of the tenant's own before it is ended."""
_GLANCE = 0.5
_LONGEST = 600.0
"""Seconds that the update of one tenant's tables may take. The session's own limits do not do for that: a
function that runs in it can lift them."""

_END = """
SELECT usename, state, extract(epoch FROM clock_timestamp() - xact_start)::int, pg_terminate_backend(pid)
FROM pg_stat_activity JOIN pg_roles ON pg_roles.oid = usesysid
WHERE pid = ANY(pg_blocking_pids(%(waiting)s))
  AND usesysid IN (SELECT member FROM pg_auth_members WHERE roleid = to_regrole(%(owner)s))
  AND NOT rolsuper AND NOT rolcreaterole
  AND EXISTS (
    SELECT FROM pg_locks
    WHERE pid = %(waiting)s AND NOT granted AND waitstart < clock_timestamp() - %(grace)s::interval
  )
"""


class TooLongError(Exception):
    """The update of a tenant's tables took too long, and was ended."""


@contextmanager
def ending_holders(where: Mapping[str, Any], waiting: int, owner: str) -> Iterator[None]:
    """While this lasts, end the sessions of `owner`'s logins for which the process `waiting` waits; say so.

    No other session is ended: what belongs to somebody else is waited for.

    Raises:
        TooLongError: `waiting` itself was ended, after ten minutes.
    """
    done, late = Event(), Event()
    until = time.monotonic() + _LONGEST

    def watch() -> None:
        # Without it, the wait ends by its own limit.
        with suppress(psycopg.Error), clients.postgres(where) as administrator:
            while not done.wait(_GLANCE):
                if time.monotonic() > until:
                    late.set()
                    administrator.execute("SELECT pg_terminate_backend(%s)", [waiting])
                wanted = {"waiting": waiting, "owner": owner, "grace": _GRACE}
                for login, state, seconds, _ in administrator.execute(_END, wanted).fetchall():
                    sys.stderr.write(
                        f"{owner}: ended a session of its login {login}, {state} for {seconds} s of a "
                        "transaction, because it held up the update of its tables\n"
                    )

    watching = Thread(target=watch)
    watching.start()
    try:
        yield
    except Exception:
        if late.is_set():
            raise TooLongError(
                f"its update took longer than {_LONGEST:.0f} s and was ended; look for what the tenant has "
                "tables call when they are written, such as a function in an index or a default"
            ) from None
        raise
    finally:
        done.set()
        watching.join()
