"""The end of the program: what failed for one tenant keeps nothing of another's from being registered."""

import asyncio
from typing import Any

from pulumi.runtime.settings import _get_rpc_manager
from pulumi.runtime.stack import ResourceRegistrationFailed


async def all_registered() -> None:
    """Wait until every resource is registered, or cannot be because one that it depends on failed.

    In an update that continues on errors, the SDK passes over a resource that takes an output of one that
    failed. But one that names it in `depends_on` ends the program, in the midst of what is registered for
    others. Such resources are taken off the SDK's list here; the engine knows of the failure, and the update
    fails.
    """
    known = _get_rpc_manager()
    while pending := [each for each in map(asyncio.ensure_future, known.rpcs) if not each.done()]:
        await asyncio.wait(pending)
    known.rpcs = [each for each in map(asyncio.ensure_future, known.rpcs) if not _depends_on_a_failure(each)]
    if isinstance(known.unhandled_exception, ResourceRegistrationFailed):
        known.unhandled_exception = known.exception_traceback = None


def _depends_on_a_failure(registration: "asyncio.Future[Any]") -> bool:
    return not registration.cancelled() and isinstance(registration.exception(), ResourceRegistrationFailed)
