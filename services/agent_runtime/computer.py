"""The tenant's own computer, as its agents use it: commands and code, with limits on time and output.

The tools themselves are Strands' own. There is no other wall around a command than the one around the machine
or pod, which is its tenant's.
"""

import asyncio
import codecs
import contextlib
import os
import signal
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

from strands.sandbox.errors import SandboxTimeoutError
from strands.sandbox.not_a_sandbox_local_environment import NotASandboxLocalEnvironment
from strands.sandbox.types import ExecutionResult, StreamChunk
from strands.vended_tools.python_repl import python_repl
from strands.vended_tools.shell import shell
from strands.vended_tools.web_fetch import make_web_fetch

_LONGEST = 3600.0
"""Seconds of one command."""
_MOST = 8 * 2**20
"""Characters that one command prints."""
_TOLD = 2**16
"""Characters of them that whoever follows the run is told."""
_BLOCK = 2**16
_ENDING = 1.0
"""Seconds for what was killed to let go of its output."""


class Computer(NotASandboxLocalEnvironment):
    """The commands of one run: started in the workspace, with limits on each.

    Strands' own way to start them keeps all that they print, and gives them the runtime's input to read.
    """

    def __init__(self, folder: Path, tell: Callable[[str, Any], None]) -> None:
        """Start them in `folder`; `tell` gets what they print, as the event `output`."""
        self._folder = str(folder)
        self._tell = tell

    async def execute_streaming(
        self,
        command: str,
        *,
        timeout: float | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        **_: Any,
    ) -> AsyncGenerator[StreamChunk | ExecutionResult, None]:
        """Run a command; what it prints, errors among it, and at last how it ended.

        Raises SandboxTimeoutError, and RuntimeError if it prints too much. Those that it started end with it
        then; otherwise they may go on.
        """
        seconds = min(timeout or _LONGEST, _LONGEST)
        until = time.monotonic() + seconds
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", command),
            cwd=cwd or self._folder,
            env={**os.environ, "HOME": self._folder, **(env or {})},
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            start_new_session=True,
        )
        assert process.stdout  # noqa: S101 - it is a pipe
        decoder, said, printed = codecs.getincrementaldecoder("utf-8")("replace"), [], 0
        try:
            while data := await asyncio.wait_for(process.stdout.read(_BLOCK), until - time.monotonic()):
                said.append(text := decoder.decode(data))
                if told := text[: max(0, _TOLD - printed)]:
                    self._tell("output", told)
                printed += len(text)
                if printed > _MOST:
                    raise RuntimeError(
                        f"It printed more than {_MOST} characters and was ended; have it write into a file."
                    )
                yield StreamChunk(text)
            code = await asyncio.wait_for(process.wait(), until - time.monotonic())
            code = code if code >= 0 else 128 - code
            yield ExecutionResult(exit_code=code, stdout="".join(said), stderr="")
        except TimeoutError:
            raise SandboxTimeoutError(seconds, "".join(said), "") from None
        finally:
            if process.returncode is None:
                await _end(process)


async def _end(process: Process) -> None:
    """Kill a command and all that it started, and wait until it lets go of its output."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.communicate(), _ENDING)


def tools() -> list[Any]:
    """The tools that need a computer."""
    return [shell, python_repl, make_web_fetch(mode="markdown")]
