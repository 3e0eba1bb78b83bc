import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from local import ports, store, supervisor
from local.errors import LocalError
from local.paths import LOGS, ROOT, RUN
from local.supervisor import NotReady, Service

NAME = "sample"
RECORD = RUN / f"{NAME}.json"
SERVER = (
    "import http.server, sys; http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), None).serve_forever()"
)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def service(script: str = SERVER, ready: Callable[[], None] | None = None, timeout: float = 10) -> Service:
    number = ports.port(NAME)

    def connects() -> None:
        socket.create_connection(("127.0.0.1", number), timeout=1).close()

    return Service(
        name=NAME,
        command=[sys.executable, "-c", script, str(number)],
        ports=[number],
        ready=ready or connects,
        timeout=timeout,
    )


def started(console: Console) -> int:
    supervisor.start(service(), console)
    pid = supervisor.status(service()).pid
    assert pid is not None
    return pid


@pytest.fixture(autouse=True)
def _stopped() -> Iterator[None]:
    yield
    supervisor.stop(NAME)
    assert not RECORD.exists()


@contextlib.contextmanager
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_a_server_starts_once_and_stops(console: Console) -> None:
    assert supervisor.status(service()) == supervisor.Status(False, None, "stopped")
    pid = started(console)
    assert supervisor.status(service()) == supervisor.Status(True, pid, "ready")
    assert started(console) == pid
    supervisor.stop(NAME)
    assert not alive(pid)
    assert supervisor.status(service()).pid is None
    supervisor.stop(NAME)


def test_it_is_detached_and_inherits_no_secrets(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMEBODYS_TOKEN", "do-not-hand-on")
    pid = started(console)
    assert os.getsid(pid) == pid != os.getsid(0)
    assert b"do-not-hand-on" not in Path(f"/proc/{pid}/environ").read_bytes()
    assert RECORD.stat().st_mode & 0o777 == 0o600


def test_a_killed_server_starts_again(console: Console) -> None:
    pid = started(console)
    os.kill(pid, signal.SIGKILL)
    supervisor.wait_until(lambda: _gone(pid), timeout=5, what="its end")
    assert not supervisor.is_running(NAME)
    assert started(console) != pid


def _gone(pid: int) -> None:
    if alive(pid):
        raise NotReady("alive")


def test_a_pid_used_again_is_left_alone(console: Console) -> None:
    pid = started(console)
    record = store.read(RECORD)
    supervisor.stop(NAME)
    # Born after the server was: two processes of one clock tick (10 ms) cannot be told apart.
    with stranger() as other:
        store.write(RECORD, {**record, "pid": other.pid})
        assert not supervisor.is_running(NAME)
        supervisor.stop(NAME)
        assert other.poll() is None
        store.write(RECORD, {**record, "pid": other.pid})
        assert started(console) not in (pid, other.pid)
        assert other.poll() is None


def test_a_record_from_before_a_reboot_is_stale(console: Console) -> None:
    pid = started(console)
    record = store.read(RECORD)
    store.write(RECORD, {**record, "born": f"another-boot/{record['born'].rpartition('/')[2]}"})
    assert not supervisor.is_running(NAME)
    store.write(RECORD, record)
    assert supervisor.status(service()).pid == pid


def test_a_process_without_a_record_is_replaced(console: Console) -> None:
    pid = started(console)
    RECORD.unlink()
    assert started(console) != pid
    assert not alive(pid)


def test_a_process_without_a_record_is_stopped(console: Console) -> None:
    pid = started(console)
    RECORD.unlink()
    supervisor.stop(NAME)
    assert not alive(pid)


def test_children_of_a_killed_server_are_ended(console: Console) -> None:
    script = f"import subprocess; subprocess.Popen(['sleep', '60']); {SERVER}"
    supervisor.start(service(script), console)
    pid = supervisor.status(service()).pid
    assert pid is not None
    child = int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
    os.kill(pid, signal.SIGKILL)
    supervisor.wait_until(lambda: _gone(pid), timeout=5, what="its end")
    assert alive(child)
    started(console)
    assert not alive(child)


def test_death_at_the_start_is_told_with_the_last_words(console: Console) -> None:
    with pytest.raises(LocalError):
        supervisor.start(service("print('words of an earlier start')"), console)
    with pytest.raises(LocalError) as told:
        supervisor.start(service("import sys; print('no such table'); sys.exit(3)"), console)
    message = str(told.value)
    assert message.startswith("sample ended instead of becoming ready")
    assert str(LOGS / "sample.log") in message
    assert "no such table" in message
    assert "earlier" not in message


def test_a_server_that_never_gets_ready_is_told(console: Console) -> None:
    def never() -> None:
        raise NotReady("waiting for godot")

    with pytest.raises(LocalError, match=r"sample is not ready after 0 s \(waiting for godot\)"):
        supervisor.start(service(ready=never, timeout=0.3), console)


def test_a_missing_program_is_told(console: Console) -> None:
    missing = Service(name=NAME, command=["/no/such/program"], ready=lambda: None)
    with pytest.raises(LocalError, match=r"sample: /no/such/program cannot be run .*run `make up` again"):
        supervisor.start(missing, console)


def test_a_server_deaf_to_its_signal_is_killed(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_GRACE", 0.3)
    supervisor.start(service(f"import signal; signal.signal(15, signal.SIG_IGN); {SERVER}"), console)
    pid = supervisor.status(service()).pid
    assert pid is not None
    supervisor.stop(NAME)
    assert not alive(pid)


def test_a_taken_port_is_told_before_the_start(console: Console) -> None:
    number = ports.port(NAME)
    with subprocess.Popen([sys.executable, "-c", SERVER, str(number)]) as other:
        try:
            supervisor.wait_until(service().ready, timeout=5, what="the other server")
            expected = rf"sample: port {number} on 127.0.0.1 is held by process {other.pid} \(.*http.server"
            with pytest.raises(LocalError, match=expected):
                supervisor.check_ports(service())
            with pytest.raises(LocalError, match=expected):
                supervisor.start(service(), console)
        finally:
            other.kill()
    assert not RECORD.exists()


def test_its_own_port_is_not_called_taken(console: Console) -> None:
    started(console)
    supervisor.check_ports(service())
    RECORD.unlink()
    supervisor.check_ports(service())


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    supervisor.check_disk()
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(2**40, 2**40, 5 * 2**20))
    with pytest.raises(LocalError, match=r"only 5 MiB of disk are free .* nothing was started; make room"):
        supervisor.check_disk()


def test_a_second_command_is_refused_until_the_first_ends() -> None:
    with (
        supervisor.exclusive(),
        pytest.raises(LocalError, match=rf"another command \(process {os.getpid()}\)"),
        supervisor.exclusive(),
    ):
        pass
    with supervisor.exclusive():
        pass


def test_servers_do_not_hold_the_lock(console: Console) -> None:
    with supervisor.exclusive():
        started(console)
    with supervisor.exclusive():
        pass


def test_ctrl_c_leaves_a_state_to_go_on_from(console: Console) -> None:
    """The terminal's signal reaches the command, not the server, which the next command takes over."""
    script = f"""
import signal
from rich.console import Console
from local import supervisor
from local.supervisor import NotReady, Service
# As in a terminal: whoever runs the tests in the background has the signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
def never():
    raise NotReady("not yet")
supervisor.start(Service(name={NAME!r}, command={service().command!r}, ready=never), Console())
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True
    ) as command:
        supervisor.wait_until(service().ready, timeout=60, what="the server")
        os.killpg(command.pid, signal.SIGINT)
        assert command.wait(60) != 0
    pid = supervisor.status(service()).pid
    assert pid is not None
    assert started(console) == pid


def test_a_long_log_is_put_aside(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_LOG_LIMIT", 10)
    log = LOGS / f"{NAME}.log"
    log.write_text("x" * 100)
    started(console)
    assert (LOGS / f"{NAME}.log.old").read_text() == "x" * 100
    assert "x" * 100 not in log.read_text()


def test_a_half_finished_stop_is_finished(console: Console) -> None:
    script = f"import signal; signal.signal(15, signal.SIG_IGN); {SERVER}"
    supervisor.start(service(script), console)
    pid = supervisor.status(service()).pid
    assert pid is not None
    stopping = subprocess.Popen(
        [sys.executable, "-c", f"from local import supervisor; supervisor.stop({NAME!r})"], cwd=ROOT
    )
    time.sleep(0.5)
    stopping.kill()
    stopping.wait()
    assert alive(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    supervisor.stop(NAME)
    assert not supervisor.is_running(NAME)
