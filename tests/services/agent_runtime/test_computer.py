"""The tools of an agent that has a computer: what they do, and what ends them."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from strands.sandbox.errors import SandboxTimeoutError

from services.agent_runtime import computer
from services.agent_runtime.computer import Computer


class Told(list[tuple[str, Any]]):
    """The events of a run."""

    def __call__(self, event: str, data: Any) -> None:
        self.append((event, data))


def run(folder: Path, command: str, told: Told | None = None, **options: Any) -> Any:
    return asyncio.run(Computer(folder, told if told is not None else Told()).execute(command, **options))


def test_a_command_works_in_the_workspace_which_is_its_home(tmp_path: Path) -> None:
    told = Told()
    done = run(tmp_path, "echo kept > ~/a.txt; pwd; exit 3", told)

    assert (done.exit_code, done.stdout) == (3, f"{tmp_path}\n")
    assert (tmp_path / "a.txt").read_text() == "kept\n"
    assert told == [("output", f"{tmp_path}\n")]


def test_python_runs_as_a_program_of_its_own(tmp_path: Path) -> None:
    done = asyncio.run(Computer(tmp_path, Told()).execute_code("print('it\\'s', 6 * 7)", "python3"))
    assert (done.exit_code, done.stdout) == (0, "it's 42\n")


def test_a_command_has_so_much_time_and_what_it_started_ends_with_it(tmp_path: Path) -> None:
    with pytest.raises(SandboxTimeoutError):
        run(tmp_path, "(sleep 2; touch late) & echo begun; wait", timeout=0.5)
    time.sleep(2)
    assert not (tmp_path / "late").exists()


def test_nothing_gives_a_command_more_time_than_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(computer, "_LONGEST", 0.5)
    for asked in (None, 10**9):
        with pytest.raises(SandboxTimeoutError):
            run(tmp_path, "sleep 20", timeout=asked)


def test_a_command_that_prints_without_end_is_ended(tmp_path: Path) -> None:
    told = Told()
    with pytest.raises(RuntimeError, match="printed more than"):
        run(tmp_path, "yes", told)
    assert sum(len(data) for _, data in told) == 2**16


def test_a_run_that_is_cancelled_ends_its_command(tmp_path: Path) -> None:
    async def cancelled() -> None:
        task = asyncio.create_task(Computer(tmp_path, Told()).execute("sleep 1; touch late"))
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(cancelled())
    time.sleep(1)
    assert not (tmp_path / "late").exists()
