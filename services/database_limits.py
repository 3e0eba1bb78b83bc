"""Hold tenants to their limits in PostgreSQL, once: `python -m services.database_limits`.

All that is done is a function of the platform's own in the database (`agent_platform.hold_to_limits`), which
is all that this may call. libpq's variables say where it is, `PGPASSWORD_FILE` names the password's file.
Exit status 1: it could not be done, or a tenant is refused, so that whoever watches for failed Jobs is told.
"""

import logging
import os
import sys
from pathlib import Path

import psycopg

from services import logs

log = logging.getLogger("database_limits")

_TIMEOUT = "40s"
"""Less than a Job has: what is left undone, the next one does."""


def hold() -> int:
    """Do it, and log a line for each thing that the function tells."""
    password = Path(os.environ["PGPASSWORD_FILE"]).read_text().strip()
    try:
        with psycopg.connect(password=password, connect_timeout=10) as connection:
            connection.execute(f"SET statement_timeout = '{_TIMEOUT}'")
            told = connection.execute("SELECT * FROM agent_platform.hold_to_limits()").fetchall()
    except psycopg.Error as error:
        log.error("nobody was held to anything: PostgreSQL: %s", str(error).strip().splitlines()[0])
        return 1
    for tenant, what, refused in told:
        level = logging.ERROR if refused else logging.WARNING
        log.log(level, "%s: %s", tenant, what, extra={"tenant": tenant.removeprefix("tenant_")})
    return int(any(refused for _, _, refused in told))


if __name__ == "__main__":
    logs.to_stdout()
    sys.exit(hold())
