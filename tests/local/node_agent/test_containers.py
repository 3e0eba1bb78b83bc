import os
import queue
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local.node_agent.containers import LOST, Attempt, Command, Containers

UID = "0d6f"
LABEL = "ns_pod"


@pytest.fixture
def ended() -> "queue.Queue[str]":
    return queue.Queue()


@pytest.fixture
def containers(tmp_path: Path, ended: "queue.Queue[str]") -> Iterator[Containers]:
    made = Containers(tmp_path / "pods", tmp_path / "logs", ended.put)
    yield made
    for uid in made.known():
        made.remove(uid)


def start(containers: Containers, *arguments: str, number: int = 0, **environment: str) -> None:
    path = {"PATH": os.defpath, **environment}
    containers.start(UID, "main", number, Command(arguments=arguments, environment=path), label=LABEL)


def last(containers: Containers) -> Attempt:
    attempt = containers.last(UID, "main")
    assert attempt is not None
    return attempt


def output(tmp_path: Path, number: int = 0) -> str:
    """What it said; the first line is the agent's own."""
    lines = (tmp_path / "logs" / f"{LABEL}_{UID}" / "main" / f"{number}.log").read_text().splitlines(True)
    assert lines[0].endswith(f" {LABEL} {UID}: main starts\n")
    return "".join(lines[1:])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_runs_and_its_exit_code_is_kept(
    containers: Containers, ended: "queue.Queue[str]", tmp_path: Path
) -> None:
    assert containers.last(UID, "main") is None
    start(containers, sys.executable, "-c", "import os; print(os.environ['A']); raise SystemExit(3)", A="b")
    assert ended.get(timeout=10) == UID
    attempt = last(containers)
    assert (attempt.number, attempt.exit_code) == (0, 3)
    assert attempt.finished >= attempt.started
    assert output(tmp_path) == "b\n"


def test_nothing_of_our_own_environment_is_inherited(
    containers: Containers, ended: "queue.Queue[str]", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "secret")
    start(containers, "env")
    ended.get(timeout=10)
    assert "PGPASSWORD" not in output(tmp_path)


def test_another_agent_finds_the_process_and_sees_it_end(
    containers: Containers, ended: "queue.Queue[str]", tmp_path: Path
) -> None:
    started = tmp_path / "started"
    os.mkfifo(started)
    start(containers, "sh", "-c", f"echo >{started}; exec sleep 60")
    started.read_text()
    later: queue.Queue[str] = queue.Queue()
    second = Containers(tmp_path / "pods", tmp_path / "logs", later.put)
    assert last(second).exit_code is None
    second.signal(UID, "main", signal.SIGTERM)
    assert later.get(timeout=10) == UID
    assert last(second).exit_code == 128 + signal.SIGTERM


def test_no_attempt_runs_twice(containers: Containers, tmp_path: Path) -> None:
    start(containers, "sleep", "60")
    start(containers, "sh", "-c", "echo again")
    assert last(containers).exit_code is None
    assert output(tmp_path).count("again") == 0


def test_what_a_container_leaves_running_ends_with_it(
    containers: Containers, ended: "queue.Queue[str]", tmp_path: Path
) -> None:
    start(containers, "sh", "-c", "sleep 60 & echo $!")
    ended.get(timeout=10)
    child = int(output(tmp_path))
    until(lambda: not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text())
    assert last(containers).exit_code == 0


def test_an_end_that_nobody_saw_counts_as_killed(containers: Containers, ended: "queue.Queue[str]") -> None:
    start(containers, "sleep", "60")
    containers.signal(UID, "main", signal.SIGKILL)
    ended.get(timeout=10)
    assert last(containers).exit_code == LOST
    start(containers, "true", number=1)
    ended.get(timeout=10)
    assert (last(containers).number, last(containers).exit_code) == (1, 0)


def test_remove_kills_and_leaves_no_file(containers: Containers, tmp_path: Path) -> None:
    start(containers, "sh", "-c", "trap '' TERM; sleep 60")
    containers.remove(UID)
    assert containers.known() == set()
    assert list((tmp_path / "logs").iterdir()) == []


def test_a_program_that_is_not_there_is_said_in_the_output(
    containers: Containers, ended: "queue.Queue[str]", tmp_path: Path
) -> None:
    start(containers, "/no/such/program")
    ended.get(timeout=10)
    assert last(containers).exit_code == 127
    assert "/no/such/program" in output(tmp_path)
