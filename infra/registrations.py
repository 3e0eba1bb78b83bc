"""The end of the program: what failed for one tenant keeps nothing of another's from being registered."""

import asyncio

from pulumi.runtime.settings import _get_rpc_manager


async def all_registered() -> None:
    """Wait until every resource is registered, or cannot be because one that it depends on failed.

    In an update that continues on errors, the SDK ends the program at the first resource that depends on a
    failed one, in the midst of what is registered for others. It does so now after all others, and it has to:
    the engine deletes, after a program that ended well, each resource that the program did not register.
    """
    known = _get_rpc_manager()
    await asyncio.sleep(0)  # what was declared last has yet to begin
    while pending := [each for each in map(asyncio.ensure_future, known.rpcs) if not each.done()]:
        await asyncio.wait(pending)
