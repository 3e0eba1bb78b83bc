"""The parts of a process that work side by side for as long as it lives."""

import asyncio
from collections.abc import Collection, Coroutine, Mapping
from typing import Any

_AGAIN = 0.5
"""Seconds after which what has been cancelled and has not ended is cancelled again."""


class EndedError(Exception):
    """A part has come to an end, which none should."""


async def together(parts: Mapping[str, Coroutine[Any, Any, None]]) -> None:
    """Do the work of all parts; if one fails or ends, end all: what it kept in step is so no more.

    Raises:
        BaseExceptionGroup: of what the parts failed with.
    """
    tasks = [asyncio.create_task(_endless(name, work)) for name, work in parts.items()]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(tasks)
    raise BaseExceptionGroup(
        "not all parts are at work", [error for task in tasks if (error := _failure(task))]
    )


async def end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended. Their exceptions are not raised here.

    Once is not enough: in Python 3.11 `asyncio.wait_for`, which the client of Redis uses, forgets a
    cancellation that comes in the moment of its success.
    """
    cancelled = False
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        try:
            await asyncio.wait(left, timeout=_AGAIN)
        except asyncio.CancelledError:
            cancelled = True
    await asyncio.gather(*tasks, return_exceptions=True)
    if cancelled:
        raise asyncio.CancelledError


async def _endless(name: str, work: Coroutine[Any, Any, None]) -> None:
    await work
    raise EndedError(f"{name}: has ended")


def _failure(task: asyncio.Task[Any]) -> BaseException | None:
    return None if task.cancelled() else task.exception()
