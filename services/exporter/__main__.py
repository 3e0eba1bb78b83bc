"""`python -m services.exporter`: answers Prometheus until it is told to end."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import uvloop
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from services import kube, logs, parts
from services.activity import connection
from services.activity.store import Activity
from services.exporter import database, figures, tenants
from services.exporter.backups import Backups
from services.exporter.drills import Drills
from services.exporter.figures import Source, gauge
from services.exporter.tenants import Tenants
from services.gateway.servers import server
from services.gateway.settings import HEALTH_PORT

_REQUIRED = ("POD_IP", "ROUTES_NAMESPACE", "REDIS_URL", "REDIS_PASSWORD_FILE", "PGHOST", "PGPASSWORD_FILE")


class SilentError(OSError):
    """The Kubernetes API has said nothing for a while."""


def sources(known: Tenants, backups: Backups, drills: Drills, redis: Redis) -> Mapping[str, Source]:
    """Return the servers that a scrape asks, by name."""

    async def kubernetes() -> Iterable[Metric]:
        _heard(known.silence)
        return [*tenants.declared(known.all()), *drills.figures()]

    async def longhorn() -> Iterable[Metric]:
        _heard(backups.silence)
        return backups.figures()

    async def activity() -> Iterable[Metric]:
        found = await redis.info("memory")
        memory = gauge(
            "agent_platform_redis_memory_bytes",
            "What Redis uses, in bytes.",
            [],
            [((), found["used_memory"])],
        )
        return [memory, *await tenants.activity(known.all(), Activity(redis), datetime.now(UTC))]

    return {
        "kubernetes": kubernetes,
        "longhorn": longhorn,
        "redis": activity,
        "postgresql": database.figures,
    }


def application(asked: Mapping[str, Source], known: Tenants) -> Starlette:
    """Return the ASGI application with `/livez`, `/readyz` and `/metrics`."""

    async def livez(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        if known.synced.is_set():
            return PlainTextResponse("ok\n")
        return PlainTextResponse("tenants are not known yet\n", 503)

    async def metrics(_: Request) -> Response:
        return Response(await figures.collect(asked), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    paths = {"/livez": livez, "/readyz": readyz, "/metrics": metrics}
    return Starlette(routes=[Route(path, answer) for path, answer in paths.items()])


async def serve() -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    api, redis = kube.Api(kube.Access.find()), connection.connect()
    namespace = os.environ["ROUTES_NAMESPACE"]
    known, backups, drills = Tenants(api, namespace), Backups(api), Drills(api, namespace)
    web = server(
        application(sources(known, backups, drills, redis), known),
        address=os.environ["POD_IP"],
        port=HEALTH_PORT,
    )
    work = asyncio.create_task(
        parts.together(
            {
                "tenants": known.follow(),
                "backups": backups.follow(),
                "drills": drills.follow(),
                "metrics": web.serve(),
            }
        )
    )
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((work, stopping), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
    finally:
        await parts.end((work, stopping))
        await redis.aclose()
        await api.close()


def _heard(silence: float) -> None:
    if silence > kube.SILENT_SECONDS:
        raise SilentError(f"the Kubernetes API has said nothing for {silence:.0f} s")


def main() -> None:
    """Read the environment and serve."""
    logs.to_stdout()
    if missing := [name for name in _REQUIRED if not os.environ.get(name)]:
        sys.exit(
            f"the environment lacks {', '.join(missing)}, so the exporter does not start; its Deployment in "
            "the namespace `platform-system` sets them."
        )
    try:
        uvloop.run(serve())
    except OSError as error:
        sys.exit(f"the exporter does not start: {error}.")


if __name__ == "__main__":
    main()
