"""Run one sweep: `python -m services.idle_suspender`. Exit status 1: not all machines were got to."""

import asyncio
import logging
import sys

from redis.exceptions import RedisError

from services import kube, logs
from services.activity import connection
from services.activity.store import Activity
from services.idle_suspender.sweep import Sweep

log = logging.getLogger("idle_suspender")


async def _sweep() -> int:
    api = kube.Api(kube.Access.find())
    try:
        async with connection.connect() as redis:
            counts = await Sweep(api, Activity(redis)).run()
    except RedisError as error:
        log.error("left running: Redis does not answer: %s", error)
        return 1
    except (kube.ApiError, *kube.UNREACHABLE) as error:
        log.error("left running: the Kubernetes API does not answer: %s", error or "timeout")
        return 1
    finally:
        await api.close()
    log.info("%s", ", ".join(f"{count} {decision}" for decision, count in counts.items()))
    return 0


if __name__ == "__main__":
    logs.to_stdout()
    sys.exit(asyncio.run(_sweep()))
