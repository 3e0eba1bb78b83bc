"""`python -m services.accounting`: keeps the ledger until it is told to end."""

import asyncio
import os
import signal
import sys

import uvloop
from prometheus_client import disable_created_metrics, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from services import kube, logs, object_storage, parts
from services.accounting import objects
from services.accounting.accounting import Accounting
from services.accounting.backups import Backups
from services.accounting.gateways import Gateways
from services.accounting.ledger import Ledger
from services.accounting.machines import Machines
from services.accounting.tenants import tenants
from services.activity import connection
from services.activity.store import Activity
from services.gateway.servers import server
from services.gateway.settings import HEALTH_PORT

_REQUIRED = (
    *("POD_IP", "GATEWAY_NAMESPACE", "REDIS_URL", "REDIS_PASSWORD_FILE", "PGHOST", "PGPASSWORD_FILE"),
    *("OBJECT_STORAGE_ENDPOINT", "OBJECT_STORAGE_REGION", "OBJECT_STORAGE_BUCKET"),
    "AWS_SHARED_CREDENTIALS_FILE",
)


def application(ready: asyncio.Event) -> Starlette:
    """Return the ASGI application with `/livez`, `/readyz` and `/metrics`."""

    async def livez(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        return PlainTextResponse("ok\n") if ready.is_set() else PlainTextResponse("no tenants yet\n", 503)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    paths = {"/livez": livez, "/readyz": readyz, "/metrics": metrics}
    return Starlette(routes=[Route(path, answer) for path, answer in paths.items()])


async def serve() -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    api, redis = kube.Api(kube.Access.find()), connection.connect()
    namespace = os.environ["GATEWAY_NAMESPACE"]
    known, machines, gateways = tenants(api, namespace), Machines(api), Gateways(api, namespace)
    measured = objects.Objects(
        object_storage.client(
            os.environ["OBJECT_STORAGE_ENDPOINT"], os.environ["OBJECT_STORAGE_REGION"], attempts=3
        ),
        os.environ["OBJECT_STORAGE_BUCKET"],
        lambda: [tenant.route.tenant for _, tenant in known.items()],
    )
    backups = Backups(api)
    accounting = Accounting(known, machines, gateways, measured, backups, Ledger(), Activity(redis))
    web = server(application(known.synced), address=os.environ["POD_IP"], port=HEALTH_PORT)
    work = asyncio.create_task(
        parts.together(
            {
                "tenants": known.follow(),
                "machines": machines.follow(),
                "gateways": gateways.follow(),
                "objects": measured.follow(),
                "backups": backups.follow(),
                "ledger": accounting.run(),
                "metrics": web.serve(),
            }
        )
    )
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((work, stopping), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
        await accounting.once()
    finally:
        await parts.end((work, stopping))
        await redis.aclose()
        await api.close()


def main() -> None:
    """Read the environment and serve."""
    logs.to_stdout()
    if missing := [name for name in _REQUIRED if not os.environ.get(name)]:
        sys.exit(
            f"the environment lacks {', '.join(missing)}, so the accounting does not start; its Deployment "
            "in the namespace `platform-system` sets them."
        )
    disable_created_metrics()  # type: ignore[no-untyped-call]
    try:
        uvloop.run(serve())
    except OSError as error:
        sys.exit(f"the accounting does not start: {error}.")


if __name__ == "__main__":
    main()
