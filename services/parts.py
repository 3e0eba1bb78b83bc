"""The parts of a process that work side by side for as long as it lives."""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any


class EndedError(Exception):
    """A part has come to an end, which none should."""


async def together(parts: Mapping[str, Coroutine[Any, Any, None]]) -> None:
    """Do the work of all parts; if one fails or ends, end all: what it kept in step is so no more."""
    async with asyncio.TaskGroup() as group:
        for name, work in parts.items():
            group.create_task(_endless(name, work))


async def _endless(name: str, work: Coroutine[Any, Any, None]) -> None:
    await work
    raise EndedError(f"{name}: has ended")
