"""Starts, watches and stops the platform's servers: plain processes, detached from the terminal.

A server outlives the command that started it. `RUN/NAME.json` says which process it is: its pid with the
moment of its start and of the machine's, so that a pid used again, or a file left by a reboot, is never taken
for it. A process also carries its record's path in its environment: one whose starter was killed before it
could write the record is found by that, and ended before the server is started again.

Nothing here needs a clean end: after Ctrl-C, a kill or a power cut, the next `start` or `stop` goes on.
"""

import contextlib
import fcntl
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from local import ports, store
from local.errors import LocalError
from local.paths import DATA, LOGS, ROOT, RUN

_MARK = "AGENT_PLATFORM_SERVER"
_INHERITED = (
    "PATH",
    "HOME",
    "USER",
    "TMPDIR",
    "LANG",
    "LC_ALL",
    "TZ",
    "AGENT_PLATFORM_CACHE",
    "XDG_CACHE_HOME",
)
_GRACE = 20.0
"""Seconds from the stop signal to SIGKILL."""
_LOG_LIMIT = 16 * 2**20
_RELEASE = 5.0
_LEAST_FREE_DISK = 2**30


class NotReady(Exception):  # noqa: N818 - a state, not an error
    """Raised by a readiness check, with what is still awaited."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """How to run one server."""

    name: str
    command: Sequence[str]
    ready: Callable[[], None]
    """Returns once the server does its work; until then raises NotReady (or OSError: connection refused)."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the few variables that a server inherits."""
    ports: Sequence[int] = ()
    """Loopback ports it listens on."""
    timeout: float = 60.0
    """Seconds it may take to become ready."""
    stop_signal: signal.Signals = signal.SIGTERM
    cwd: Path = ROOT


@dataclass(frozen=True)
class Status:
    """What a server is doing now."""

    ready: bool
    pid: int | None
    detail: str


def start(service: Service, console: Console) -> None:
    """Make the server run and wait until it is ready; LocalError if it dies or takes too long."""
    launch(service)
    wait(service, console)


def launch(service: Service) -> None:
    """Start the server's process unless it runs already; does not wait."""
    if pid_of(service.name) is not None:
        return
    for pid in _left_over(service.name):
        _end(pid, signal.SIGKILL)
    check_ports(service)
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    environment |= {
        "AGENT_PLATFORM_DATA": str(DATA),
        **service.environment,
        _MARK: str(_record(service.name)),
    }
    log = _log(service.name)
    if log.exists() and log.stat().st_size > _LOG_LIMIT:
        log.replace(log.with_suffix(".log.old"))
    with log.open("ab") as output:
        output.write(f"{time.strftime('%F %T')} {_opening(service.name)}".encode())
        output.flush()
        try:
            process = subprocess.Popen(
                service.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=service.cwd,
                env=environment,
                start_new_session=True,
                umask=0o077,
            )
        except OSError as error:
            raise LocalError(
                f"{service.name}: {service.command[0]} cannot be run ({error}), so the platform is not up; "
                "run `make up` again to install what is missing."
            ) from error
    store.write(
        _record(service.name),
        {"pid": process.pid, "born": _born(process.pid), "stop_signal": int(service.stop_signal)},
    )
    process.returncode = 0  # It is meant to outlive us: keep Popen from warning about that.


def wait(service: Service, console: Console) -> None:
    """Wait until a launched server is ready, saying what for; LocalError if it dies or takes too long."""
    began = time.monotonic()
    with console.status(f"{service.name}: starting") as line:
        while not (now := status(service)).ready:
            if now.pid is None:
                raise LocalError(_obituary(service, "ended instead of becoming ready"))
            if time.monotonic() - began > service.timeout:
                raise LocalError(
                    _obituary(service, f"is not ready after {service.timeout:.0f} s ({now.detail})")
                )
            line.update(Text(f"{service.name}: {now.detail}"))
            time.sleep(0.1)
    elapsed = time.monotonic() - began
    if elapsed > 0.1:
        console.print(Text(f"{service.name}: ready after {elapsed:.1f} s"))


def status(service: Service) -> Status:
    """Ask the server how it is."""
    pid = pid_of(service.name)
    if pid is None:
        return Status(False, None, "stopped")
    try:
        service.ready()
    except (NotReady, OSError) as reason:
        return Status(False, pid, str(reason) or "not answering yet")
    return Status(True, pid, "ready")


def wait_until(ready: Callable[[], None], *, timeout: float, what: str) -> None:
    """Wait until `ready` returns, as a service's does; LocalError, naming `what`, if that takes too long."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return ready()
        except (NotReady, OSError) as reason:
            if time.monotonic() > deadline:
                raise LocalError(
                    f"{what} did not come about within {timeout:.0f} s ({reason}), so the platform is not "
                    "up; look into `make logs`, then run `make up` again."
                ) from None
        time.sleep(0.05)


def stop(name: str) -> None:
    """End the server: its stop signal, patience, then SIGKILL. Nothing happens if it does not run."""
    pid = pid_of(name)
    if pid is not None:
        _end(pid, signal.Signals(store.read(_record(name))["stop_signal"]))
    for pid in _left_over(name):
        _end(pid, signal.SIGKILL)
    _record(name).unlink(missing_ok=True)


def kill(name: str) -> None:
    """End the server at once, as a crash would."""
    for pid in filter(None, (pid_of(name), *_left_over(name))):
        _end(pid, signal.SIGKILL)
    _record(name).unlink(missing_ok=True)


def is_running(name: str) -> bool:
    """Tell whether the server's process exists."""
    return pid_of(name) is not None


def pid_of(name: str) -> int | None:
    """Return the pid of the server's process if it lives."""
    record = store.read(_record(name))
    return record["pid"] if record and record["born"] and record["born"] == _born(record["pid"]) else None


def carrying(variable: str, value: str) -> list[int]:
    """Return the living processes that were started with this in their environment."""
    mark = f"{variable}={value}".encode()
    return [pid for pid in _processes() if mark in _file(pid, "environ").split(b"\0") and _born(pid)]


def began(pid: int) -> float:
    """Return when a living process began, in seconds since the epoch; infinity for a dead one."""
    born = _born(pid)
    if born is None:
        return math.inf
    ticks = int(born.rpartition("/")[2])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def program(pid: int) -> str:
    """Return the name of the program that a process runs; empty for a dead one."""
    return _file(pid, "comm").decode(errors="replace").strip()


def check_disk() -> None:
    """LocalError if the disk is too full for the servers to write their data."""
    free = shutil.disk_usage(store.private_folder(DATA)).free
    if free < _LEAST_FREE_DISK:
        raise LocalError(
            f"{DATA}: only {free / 2**20:.0f} MiB of disk are free and the servers need at least "
            f"{_LEAST_FREE_DISK / 2**20:.0f} MiB, so nothing was started; make room, or set "
            "AGENT_PLATFORM_DATA to a folder on another disk."
        )


def check_ports(service: Service) -> None:
    """LocalError if another program holds a port of this server, unless the server itself already runs."""
    if is_running(service.name):
        return
    leftovers = set(_left_over(service.name))
    for number in service.ports:
        if _released(number):
            continue
        holder = _listener(number)
        if holder in leftovers:
            continue
        who = f"process {holder} ({_command_line(holder)})" if holder else "a process of another user"
        raise LocalError(
            f"{service.name}: port {number} on 127.0.0.1 is held by {who}, so it cannot start; stop that "
            f"process, or take {number} out of {RUN / 'ports.json'} to be given another port."
        )


@contextlib.contextmanager
def exclusive() -> Iterator[None]:
    """Hold the platform for one command: meanwhile a second one is refused with LocalError."""
    with (store.private_folder(RUN) / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise LocalError(
                f"{DATA}: another command (process {lock.read().strip() or 'unknown'}) is changing this "
                "platform, so nothing was done; wait until it ends and try again."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _record(name: str) -> Path:
    return RUN / f"{name}.json"


def _log(name: str) -> Path:
    return store.private_folder(LOGS) / f"{name}.log"


def _opening(name: str) -> str:
    return f"=== starting {name} ===\n"


def _born(pid: int) -> str | None:
    """Name a living process for good: when the machine booted and the process began; None for a dead one."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if state in "ZX":
        return None
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}/{fields[18]}"


def _left_over(name: str) -> list[int]:
    """Return the processes that carry the server's mark: itself, its children, one without a record."""
    return carrying(_MARK, str(_record(name)))


def _end(pid: int, gently: signal.Signals) -> None:
    born = _born(pid)
    for number, patience in ((gently, _GRACE), (signal.SIGKILL, _GRACE)):
        with contextlib.suppress(ProcessLookupError):
            if _born(pid) == born:
                os.kill(pid, number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if _born(pid) != born or born is None:
                return
            time.sleep(0.02)
    raise LocalError(
        f"process {pid} ({_command_line(pid)}) does not end even on SIGKILL, so the platform is not stopped; "
        "it waits for the disk or the kernel: try again once that is well, or restart the machine."
    )


def _obituary(service: Service, what: str) -> str:
    log = _log(service.name)
    lines = log.read_text(errors="replace").rpartition(_opening(service.name))[2].splitlines()[-15:]
    tail = "\n".join(f"  {line[:300]}" for line in lines) or "  (it wrote nothing)"
    return (
        f"{service.name} {what}, so the platform is not up. The last lines of {log}:\n{tail}\n"
        "Mend that and run `make up` again; it goes on from here."
    )


def _released(port: int) -> bool:
    """Tell whether a port is free, giving the kernel a moment to let go of a killed server's."""
    deadline = time.monotonic() + _RELEASE
    while not ports.is_free(port):
        if _listener(port) is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _listener(port: int) -> int | None:
    """Return the process that listens on a TCP port, if it may be seen."""
    sockets = set()
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = row.split()
            if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                sockets.add(f"socket:[{rest[5]}]")
    for pid in _processes():
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(descriptor.readlink()) in sockets:
                        return pid
    return None


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _command_line(pid: int) -> str:
    return _file(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()[:120] or "ended"


def _file(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
