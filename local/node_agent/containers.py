"""Containers as processes of this machine: started, found again, ended.

All that is known of a container is on disk, below the folder of its Pod: `NAME/N.pid` and `NAME/N.exit` for
its N-th attempt. So an agent that was killed goes on where it was: nothing runs twice or is left behind.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from local.node_agent.isolation import Isolation
from local.paths import ROOT

LOST = 137
"""Exit code of a container whose end nobody saw, because the machine or its shell went down."""

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_SHELL = Path(__file__).with_name("container.sh")


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One run of a container; `exit_code` is None while it runs. Times in seconds since the epoch."""

    number: int
    started: float
    finished: float = 0
    exit_code: int | None = None


@dataclass(frozen=True, kw_only=True)
class Command:
    """What to run: its environment is complete, nothing of the agent's own is inherited."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    isolation: Isolation | None = None
    """None for a guest's hypervisor, which is a process of this machine."""


class Containers:
    """The containers of our Pods, below one folder per Pod uid."""

    def __init__(self, folder: Path, logs: Path, ended: Callable[[str], None]) -> None:
        """Keep records in `folder`, output in `logs`; `ended` gets the Pod's uid when a process ends."""
        self._folder = folder
        self._logs = logs
        self._ended = ended
        self._watched: set[int] = set()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def folder(self, uid: str) -> Path:
        """Return the Pod's folder, which `remove` deletes."""
        return self._folder / uid

    def known(self) -> set[str]:
        """Return the uids of all Pods that have a folder."""
        return {path.name for path in self._folder.iterdir()}

    def last(self, uid: str, name: str) -> Attempt | None:
        """Return the latest attempt, watching it if it runs."""
        records = list((self._folder / uid / name).glob("*.pid"))
        if not records:
            return None
        record = max(records, key=lambda path: int(path.stem))
        attempt = Attempt(number=int(record.stem), started=record.stat().st_mtime)
        process = _process(record)
        if process is not None:
            self._watch(process, uid)
            return attempt
        outcome = record.with_suffix(".exit")
        if not outcome.exists():
            outcome.write_text(f"{LOST}\n")
        return Attempt(
            number=attempt.number,
            started=attempt.started,
            finished=outcome.stat().st_mtime,
            exit_code=int(outcome.read_text()),
        )

    def start(self, uid: str, name: str, number: int, command: Command, *, label: str) -> None:
        """Start attempt `number`, output in `LABEL_UID/NAME/NUMBER.log`; OSError if the machine cannot."""
        folder = self._folder / uid / name
        root = folder / "root"
        root.mkdir(parents=True, exist_ok=True)
        output = self._logs / f"{label}_{uid}" / name / f"{number}.log"
        output.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        arguments = command.arguments
        if command.isolation is not None:
            arguments = command.isolation.command(root, arguments)
        with output.open("ab") as stream:
            # Whoever follows files knows one by how it begins; two of the same program begin alike.
            stream.write(f"{datetime.now(UTC).isoformat()} {label} {uid}: {name} starts\n".encode())
            stream.flush()
            process = subprocess.Popen(
                ["sh", _SHELL, folder / str(number), *arguments],
                cwd=ROOT,
                env=dict(command.environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        record = folder / f"{number}.pid"
        while not record.exists() or not record.stat().st_size:
            if process.poll() is not None:
                raise OSError(f"its shell ended with status {process.returncode}; see {output}")
            time.sleep(0.005)
        process.returncode = 0  # `_wait` waits for it; keep Popen from doing so
        self._watch(process.pid, uid)

    def signal(self, uid: str, name: str, number: signal.Signals) -> None:
        """Send a signal to all processes of a container, if it runs."""
        for record in (self._folder / uid / name).glob("*.pid"):
            process = _process(record)
            if process is not None:
                os.killpg(process, number)

    def processes(self, uid: str, name: str) -> list[int]:
        """Return the processes of a container that runs, none of one that does not."""
        leaders = [_process(record) for record in (self._folder / uid / name).glob("*.pid")]
        return [pid for pid in _all_processes() if _group(pid) in leaders]

    def remove(self, uid: str) -> None:
        """Kill what still runs of a Pod; delete its folder and its output."""
        folder = self._folder / uid
        for container in folder.iterdir() if folder.exists() else ():
            self.signal(uid, container.name, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
        for output in self._logs.glob(f"*_{uid}"):
            shutil.rmtree(output, ignore_errors=True)

    def _watch(self, process: int, uid: str) -> None:
        if process not in self._watched:
            self._watched.add(process)
            threading.Thread(target=self._wait, args=(process, uid), daemon=True).start()

    def _wait(self, process: int, uid: str) -> None:
        try:
            descriptor = os.pidfd_open(process)
        except ProcessLookupError:
            pass  # it has just ended
        else:
            select.select([descriptor], [], [])
            os.close(descriptor)
        with contextlib.suppress(ChildProcessError):  # an earlier agent had started it
            os.waitpid(process, 0)
        self._watched.discard(process)
        self._ended(uid)


def _all_processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _group(process: int) -> int:
    try:
        return os.getpgid(process)
    except ProcessLookupError:
        return 0


def _process(record: Path) -> int | None:
    """Return the process id in `record` if that very process still runs."""
    try:
        process, started, boot = record.read_text().split()
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    alive = fields[19] == started and fields[0] != "Z" and boot == _BOOT.read_text().strip()
    return int(process) if alive else None
