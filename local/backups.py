"""PostgreSQL's backups: base backups and the write-ahead log in the backups bucket, and servers recovered
from them.

They are made and read by Barman's tools, as CloudNativePG's plugin does it in production, and lie in the same
layout. The server archives a segment of its log when it is full, and five minutes after something was
written.
"""

import json
import os
import shlex
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from rich.console import Console

from local import store, supervisor
from local.errors import LocalError
from local.paths import DATA, ROOT
from local.servers import object_storage, postgres
from local.supervisor import Service

_SERVER = "agent-platform"
_HOME = DATA / "recovered-postgres"
_TOOLS = Path(sysconfig.get_path("scripts"))
_EVERY = timedelta(days=1)
_ARCHIVE_SECONDS = 300
_PATIENCE = 60


@dataclass(frozen=True, kw_only=True)
class BaseBackup:
    """A copy of the whole server, from which any later time can be recovered."""

    id: str
    ended: datetime


def keep(console: Console) -> None:
    """Have the log archived from now on, and a base backup of the last day."""
    postgres.configure(archive_command=_archive_command(), archive_timeout=str(_ARCHIVE_SECONDS))
    latest = max((one.ended for one in base_backups()), default=None)
    if latest is None or latest < datetime.now(UTC) - _EVERY:
        with console.status("postgres: its first base backup of the day"):
            base_backup()


def base_backup() -> None:
    """Make a base backup. Raises LocalError."""
    _barman("backup", "--immediate-checkpoint", *_connection(), _folder(), _SERVER)


def base_backups() -> Sequence[BaseBackup]:
    """Return the base backups that are complete, the oldest first."""
    listed = json.loads(_barman("backup-list", "--format=json", _folder(), _SERVER))
    return [
        BaseBackup(id=each["backup_id"], ended=datetime.fromisoformat(each["end_time_iso"]))
        for each in listed["backups_list"]
        if each.get("end_time_iso")
    ]


def archive_all() -> None:
    """Archive what is written by now. Raises LocalError if that does not happen within a minute."""
    segment = postgres.switch_log()
    deadline = time.monotonic() + _PATIENCE
    while (last := postgres.last_archived()) is None or last < segment:
        if time.monotonic() > deadline:
            raise LocalError(
                f"postgres: its log is archived up to {last}, and {segment} does not follow; see `make logs "
                "SERVER=postgres`."
            )
        time.sleep(0.2)


@contextmanager
def recovered(at: datetime, console: Console) -> Iterator[str]:
    """Run a second server as of that time; yield its HOST:PORT. Raises LocalError."""
    chosen = [one for one in base_backups() if one.ended <= at]
    if not chosen:
        first = min((one.ended for one in base_backups()), default=None)
        since = f"the first is of {first:%Y-%m-%dT%H:%M:%SZ}" if first else "there is none yet"
        raise LocalError(
            f"postgres: no base backup is from before {at:%Y-%m-%dT%H:%M:%SZ}, {since}, so that time cannot "
            "be recovered and nothing was changed; choose a later one."
        )
    # A target is only known to be reached by something that was written after it.
    postgres.write_something()
    archive_all()
    service = postgres.recovering(_HOME / "cluster", _restore_command(), at)
    # One that an interruption has left would go on without its files.
    supervisor.stop(service.name)
    shutil.rmtree(_HOME, ignore_errors=True)
    try:
        with console.status(f"postgres: a second server as of {at:%Y-%m-%dT%H:%M:%SZ}"):
            _fetch(chosen[-1], store.private_folder(_HOME) / "cluster")
            supervisor.start(service, console)
            supervisor.wait_until(
                lambda: postgres.require_recovered(service.ports[0]),
                timeout=300,
                what="postgres: the recovery",
            )
        yield f"127.0.0.1:{service.ports[0]}"
    finally:
        supervisor.stop(service.name)
        shutil.rmtree(_HOME, ignore_errors=True)


def recover_disk(console: Console) -> None:
    """Make the server's own disk again, from the last base backup and all of the log that was archived."""
    backups = base_backups()
    if not backups:
        raise LocalError("postgres: there is no base backup, so its disk cannot be recovered.")
    supervisor.stop("postgres")
    postgres.forget_disk()
    with console.status("postgres: its disk, from the last base backup"):
        _fetch(backups[-1], postgres.CLUSTER)
        (service,) = postgres.services()
        postgres.recover_to_the_end(_restore_command())
        supervisor.start(service, console)
        _wait_for(service)


def _wait_for(service: Service) -> None:
    supervisor.wait_until(
        lambda: postgres.require_recovered(service.ports[0]), timeout=300, what="postgres: the recovery"
    )


def _fetch(backup: BaseBackup, folder: Path) -> None:
    _barman("restore", _folder(), _SERVER, backup.id, str(folder))
    (folder / "recovery.signal").touch()
    postgres.own(folder.parent)


def _barman(tool: str, *arguments: str) -> str:
    command = [str(_TOOLS / f"barman-cloud-{tool}"), *_storage(), *arguments]
    done = subprocess.run(
        command,
        env={**os.environ, **environment(), **postgres.environment()},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise LocalError(f"postgres: barman-cloud-{tool} failed: {said[-1] if said else 'it said nothing'}")
    return done.stdout


def environment() -> dict[str, str]:
    """Return the key to the bucket, as Barman's tools take it."""
    exports = object_storage.environment()
    return {name: exports[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")}


def _connection() -> list[str]:
    where = postgres.environment()
    # Not the database of tenants: to enter that one runs what it runs for every login.
    return [
        "--host",
        where["PGHOST"],
        "--port",
        where["PGPORT"],
        "--user",
        where["PGUSER"],
        "--dbname",
        "postgres",
    ]


def _storage() -> list[str]:
    return ["--cloud-provider", "aws-s3", "--endpoint-url", object_storage.url()]


def _folder() -> str:
    return f"s3://{bucket()}/postgres"


def bucket() -> str:
    """Return the name of the backups bucket."""
    config = yaml.safe_load((ROOT / "Pulumi.local.yaml").read_text(encoding="utf-8"))["config"]
    return str(config["agent-platform:objectStorage"]["backupsBucket"])


def _archive_command() -> str:
    return f"{_tool('wal-archive')} {_folder()} {_SERVER} %p"


def _restore_command() -> str:
    return f"{_tool('wal-restore')} {_folder()} {_SERVER} %f %p"


def _tool(name: str) -> str:
    return shlex.join([str(_TOOLS / f"barman-cloud-{name}"), *_storage()])
