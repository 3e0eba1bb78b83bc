"""Shows a build: a live line for each program on a terminal, plain lines elsewhere."""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars


class Progress:
    """A context in which steps are shown, each with the seconds it has taken and is expected to take."""

    def __init__(self, console: Console, seconds: Mapping[str, int], place: Path) -> None:
        """Show the steps in `seconds`, which says how long each takes on two cores."""
        self._console = console
        cores = len(os.sched_getaffinity(0))
        self._expected = {name: max(1, round(2 * value / cores)) for name, value in seconds.items()}
        total = _duration(sum(self._expected.values()))
        console.print(
            f"Building {len(seconds)} tools, about {total} in all; once only, they are kept in {place}.",
        )
        self._bars = Bars(
            TextColumn("  {task.description:<24}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("of about {task.fields[expected]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        """Begin to show."""
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave what is shown as it is."""
        self._bars.stop()

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show one step while it runs."""
        expected = _duration(self._expected[name])
        if not self._console.is_terminal:
            self._console.print(f"  {name}: building, about {expected} …")
        task = self._bars.add_task(name, total=None, expected=expected)
        began = time.monotonic()
        yield
        self._bars.update(task, total=1, completed=1)
        self._bars.stop_task(task)
        if not self._console.is_terminal:
            self._console.print(f"  {name}: built in {_duration(round(time.monotonic() - began))}")


def _duration(seconds: int) -> str:
    return f"{seconds // 60}:{seconds % 60:02} min" if seconds >= 60 else f"{seconds} s"
