"""`python -m services.gateway`: serves until SIGTERM, then lets what is under way end."""

import asyncio
import contextlib
import json
import logging
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path

import uvloop
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services import kube, logs, parts
from services.activity import connection
from services.activity.holds import Holds
from services.activity.store import Activity
from services.gateway import access_log, console, envoy, internal, metrics, own
from services.gateway.access_log import AccessLog
from services.gateway.assertions import Assertions, signing_key
from services.gateway.auth import Keys, SignedTokens
from services.gateway.authorizer import Authorizer
from services.gateway.cluster import Cluster
from services.gateway.in_flight import InFlight
from services.gateway.routes import RouteError, Routes, public_keys
from services.gateway.servers import server
from services.gateway.settings import HEALTH_PORT, Settings, SettingsError
from services.gateway.wake import Wakes

log = logging.getLogger("gateway")

_LAST_SECONDS = 1
"""For those who are held to hear that they are to ask again."""


async def serve(settings: Settings) -> None:
    """Run the gateway."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    operator_keys, key = _operator_keys(settings.operator_keys), _signing_key(settings.assertion_key)
    limits, sockets = settings.limits, settings.sockets
    api = kube.Api(kube.Access.find())
    routes, cluster = Routes(api, settings.routes_namespace), Cluster(api)
    redis = connection.connect()
    activity = Activity(redis)
    holds = Holds(activity, settings.pod_name)
    in_flight = InFlight(holds, routes)
    assertions = Assertions(key, in_flight)
    wakes = Wakes(cluster, activity, routes)
    authenticator = SignedTokens()
    authorizer = Authorizer(
        domain=settings.domain,
        limits=limits,
        routes=routes,
        in_flight=in_flight,
        wakes=wakes,
        authenticator=authenticator,
        operator_keys=operator_keys,
        assertions=assertions,
        agents_at=settings.agents_at,
    )

    def ready() -> bool:
        return routes.synced.is_set() and cluster.synced and not stop.is_set()

    def silence() -> dict[str, float]:
        return {"routes": routes.silence, "machines and pods": cluster.silence}

    pages = own.application(
        domain=settings.domain,
        routes=routes,
        authenticator=authenticator,
        operator_keys=operator_keys,
        console=console.application(routes, wakes, activity),
        ready=ready,
    )
    health = metrics.application(routes, ready, silence)
    agents = internal.application(cluster, activity, routes, assertions)
    served = {
        "authoriser": server(authorizer, path=sockets / "authorizer.sock"),
        "pages": server(pages, path=sockets / "pages.sock"),
        "API for agents": server(agents, path=sockets / "agents-api.sock"),
        "health": server(health, address=settings.address, port=HEALTH_PORT),
    }
    log_server = access_log.server(AccessLog(in_flight, wakes, settings.domain, routes), sockets / "log.sock")
    background = {
        "routes": routes.follow(),
        "machines and pods": cluster.follow(),
        "holds": holds.run(),
        "requests in flight": in_flight.run(),
        **{name: found.serve() for name, found in served.items()},
    }
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(api.close)
        stack.push_async_callback(redis.aclose)
        stack.push_async_callback(wakes.close)
        await log_server.start()
        stack.push_async_callback(log_server.stop, 0)
        async with _meanwhile(parts.together(background)):
            log.info("serving %s in %s", settings.domain, sockets)
            await stop.wait()
            log.info("draining for %.0f s at most", limits.drain_seconds)
            await envoy.drain(sockets / "admin.sock")
            await in_flight.drained(limits.drain_seconds)
            authorizer.stop()
            await in_flight.drained(_LAST_SECONDS)


@contextlib.asynccontextmanager
async def _meanwhile(work: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Do some work in the background; if it fails, so does the whole."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        yield
        await parts.end([task])


def _operator_keys(file: Path) -> Keys:
    try:
        return public_keys(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, RouteError) as error:
        raise SettingsError(
            f"{file} (OPERATOR_KEYS) holds no JWK set of the operators' public keys, so the gateway does not "
            f"start ({error}); the program makes them"
        ) from None


def _signing_key(file: Path) -> Ed25519PrivateKey:
    try:
        return signing_key(file)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(
            f"{file} (ASSERTION_KEY) holds no private Ed25519 key in PEM, so the gateway does not start "
            f"({error}); the program makes it"
        ) from None


def main() -> None:
    """Read the environment and serve."""
    logs.to_stdout()
    try:
        uvloop.run(serve(Settings.read()))
    except SettingsError as error:
        sys.exit(f"{error}.")
    except OSError as error:
        sys.exit(f"the gateway does not start: {error}.")
    except BaseExceptionGroup as failed:
        log.critical("the gateway ends, as a part of it has failed", exc_info=failed)
        sys.exit(1)


if __name__ == "__main__":
    main()
