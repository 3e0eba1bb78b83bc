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

from services import kube, parts
from services.activity import connection
from services.activity.holds import Holds
from services.activity.store import Activity
from services.gateway import asgi, console, internal, metrics
from services.gateway.app import App
from services.gateway.assertions import Assertions
from services.gateway.auth import Keys, SignedTokens
from services.gateway.cluster import Cluster
from services.gateway.listener import Certificate, Handle, Listener
from services.gateway.proxy import Proxy
from services.gateway.routes import RouteError, Routes, public_keys
from services.gateway.settings import (
    AGENTS_PORT,
    HEALTH_PORT,
    PUBLIC_PORT,
    CertificateFiles,
    Settings,
    SettingsError,
)
from services.gateway.upstream import Upstreams
from services.gateway.wake import Wakes

log = logging.getLogger(__name__)


async def serve(settings: Settings) -> None:
    """Run the gateway."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    certificate, agents_certificate = _certificate(settings.public), _certificate(settings.agents)
    operator_keys = _operator_keys(settings.operator_keys)
    assertions = _assertions(settings.assertion_key)
    limits = settings.limits
    api = kube.Api(kube.Access.find())
    routes, cluster = Routes(api, settings.routes_namespace), Cluster(api)
    redis = connection.connect()
    activity = Activity(redis)
    holds = Holds(activity, settings.pod_name)
    wakes = Wakes(cluster, activity, routes)
    app = App(
        domain=settings.domain,
        limits=limits,
        routes=routes,
        holds=holds,
        wakes=wakes,
        proxy=Proxy(Upstreams(limits), limits),
        console=console.application(routes, wakes, activity),
        authenticator=SignedTokens(),
        operator_keys=operator_keys,
        assertions=assertions,
        agents_at=settings.agents_at,
    )
    public = Listener(app.handle, limits, certificate)
    to_agents = internal.application(cluster, activity, routes, assertions)
    agents = Listener(_applied(to_agents), limits, agents_certificate)

    def ready() -> bool:
        return routes.synced.is_set() and cluster.synced and not stop.is_set()

    def silence() -> dict[str, float]:
        return {"routes": routes.silence, "machines and pods": cluster.silence}

    health = Listener(_applied(metrics.application(routes, activity, ready, silence)), limits)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(api.close)
        stack.push_async_callback(redis.aclose)
        stack.push_async_callback(wakes.close)
        for listener, port in ((health, HEALTH_PORT), (public, PUBLIC_PORT), (agents, AGENTS_PORT)):
            await listener.listen(settings.address, port)
            stack.push_async_callback(listener.drain, 0)
        log.info(
            "serving %s on %s, ports %d and %d", settings.domain, settings.address, PUBLIC_PORT, AGENTS_PORT
        )
        background = {
            "routes": routes.follow(),
            "machines and pods": cluster.follow(),
            "holds": holds.run(),
            "certificate": certificate.follow(),
            "agents' certificate": agents_certificate.follow(),
        }
        async with _meanwhile(parts.together(background)):
            await stop.wait()
            log.info("draining for %.0f s at most", limits.drain_seconds)
            await asyncio.gather(public.drain(limits.drain_seconds), agents.drain(limits.drain_seconds))
            await health.drain(0)


def _applied(application: asgi.Application) -> Handle:
    return lambda exchange: asgi.run(application, exchange)


@contextlib.asynccontextmanager
async def _meanwhile(work: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Do some work in the background; if it fails, so does the whole."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        yield
        await parts.end([task])


def _certificate(files: CertificateFiles) -> Certificate:
    try:
        return Certificate(files.certificate, files.key)
    except OSError as error:
        raise SettingsError(
            f"{files.certificate} does not load with {files.key} ({error}), so the gateway does not start; "
            "both have to be PEM and to belong together"
        ) from None


def _operator_keys(file: Path) -> Keys:
    try:
        return public_keys(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, RouteError) as error:
        raise SettingsError(
            f"{file} (OPERATOR_KEYS) holds no JWK set of the operators' public keys, so the gateway does not "
            f"start ({error}); the program makes them"
        ) from None


def _assertions(file: Path) -> Assertions:
    try:
        return Assertions.signed_by(file)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(
            f"{file} (ASSERTION_KEY) holds no private Ed25519 key in PEM, so the gateway does not start "
            f"({error}); the program makes it"
        ) from None


def main() -> None:
    """Read the environment and serve."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, stream=sys.stdout)
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
