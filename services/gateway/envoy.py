"""What the gateway asks of the Envoy beside it."""

import logging
from pathlib import Path

import aiohttp

log = logging.getLogger(__name__)

_SECONDS = 5


async def drain(admin: Path) -> None:
    """Have Envoy end kept connections after their next answer.

    An Envoy that is away has none; that is told, and no failure.
    """
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(admin)), timeout=aiohttp.ClientTimeout(total=_SECONDS)
            ) as session,
            # It goes on listening: if this process alone starts anew, its Envoy is still of use.
            session.post("http://envoy/drain_listeners?graceful&skip_exit") as answer,
        ):
            answer.raise_for_status()
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        log.warning("Envoy is not told to drain: %s", error or "no answer")
