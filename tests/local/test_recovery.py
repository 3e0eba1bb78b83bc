"""An engine's lock is taken away once the engine is gone, and only then."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local import recovery
from local.errors import LocalError

Started = Callable[[str, Path | None], int]


@pytest.fixture
def backend(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    """Processes of a given name, as an engine's, with or without a backend in their environment."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(name: str, backend: Path | None) -> int:
        program = tmp_path / name
        if not program.exists():
            shutil.copy(shutil.which("sleep") or "", program)
        carried = {"PULUMI_BACKEND_URL": backend.as_uri()} if backend else {}
        processes.append(subprocess.Popen([program, "600"], env=carried))
        return processes[-1].pid

    yield start
    for process in processes:
        process.kill()
        process.wait()


def locked(backend: Path, content: str | dict[str, Any], *, age: float = 0) -> Path:
    """A lock that was written `age` seconds ago."""
    lock = backend / ".pulumi/locks/organization/agent-platform/local/1.json"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text(content if isinstance(content, str) else json.dumps(content))
    os.utime(lock, (time.time() - age, time.time() - age))
    return lock


def holder(pid: int, hostname: str | None = None) -> dict[str, Any]:
    """A state as the engine writes it."""
    host = hostname or socket.gethostname()
    return {"pid": pid, "username": "me", "hostname": host, "timestamp": "2026-11-28T12:00:00Z"}


@pytest.mark.parametrize("content", ["", '{"pid": 12', "[]", "null", "{}", '{"pid": "x", "hostname": 1}'])
def test_a_lock_that_was_not_written_whole_is_released(backend: Path, content: str) -> None:
    lock = locked(backend, content)
    recovery.release_dead_locks(backend)
    assert not lock.exists()


def test_a_lock_of_a_machine_that_has_another_name_now_is_released(backend: Path) -> None:
    lock = locked(backend, holder(os.getpid(), "the-name-before"))
    recovery.release_dead_locks(backend)
    assert not lock.exists()


def test_a_lock_whose_process_ended_is_released(backend: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    lock = locked(backend, holder(ended.pid))
    recovery.release_dead_locks(backend)
    assert not lock.exists()


@pytest.mark.parametrize(("name", "age"), [("editor", 0), ("pulumi", 3600)])
def test_a_lock_whose_number_is_another_process_by_now_is_released(
    backend: Path, started: Started, name: str, age: float
) -> None:
    lock = locked(backend, holder(started(name, None)), age=age)
    recovery.release_dead_locks(backend)
    assert not lock.exists()


def test_the_lock_of_a_living_engine_is_kept(backend: Path, started: Started) -> None:
    pid = started("pulumi", None)
    lock = locked(backend, holder(pid))

    with pytest.raises(LocalError, match=rf"process {pid}\).*nothing was changed"):
        recovery.release_dead_locks(backend)

    assert lock.exists()


@pytest.mark.parametrize("content", ["", holder(1, "the-name-before")])
def test_no_lock_is_released_while_an_engine_works_on_the_backend(
    backend: Path, started: Started, content: str | dict[str, Any]
) -> None:
    elsewhere = started("pulumi", backend.parent / "another")
    lock = locked(backend, content)
    recovery.release_dead_locks(backend)
    assert not lock.exists()

    pid, lock = started("pulumi", backend), locked(backend, content)
    assert pid != elsewhere
    with pytest.raises(LocalError, match=rf"process {pid}\)"):
        recovery.release_dead_locks(backend)
    assert lock.exists()
