"""Shows the build of an image: a line for each step, with what it took and what is left."""

import contextlib
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from rich.console import Console


class Progress:
    """A context in which the steps of one image are shown."""

    def __init__(self, console: Console, name: str, seconds: int) -> None:
        """Show the steps of `name`, which take `seconds` in all on two cores."""
        self._console = console
        self._seconds = seconds
        self._left = 1.0
        self._began = time.monotonic()
        console.print(f"Building the image {name}: about {seconds} s.")

    def __enter__(self) -> Self:
        """Begin to show."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say how long all of it took, if it went well."""
        if error is None:
            self._console.print(f"  built in {time.monotonic() - self._began:.0f} s")

    @contextlib.contextmanager
    def step(self, name: str, share: float) -> Iterator[None]:
        """Show one step, which is a share of the whole."""
        self._console.print(f"  {name} …  (about {self._left * self._seconds:.0f} s left)")
        yield
        self._left -= share
