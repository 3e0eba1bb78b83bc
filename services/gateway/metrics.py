"""What Prometheus is told, on a port that only the cluster reaches, and whether this gateway is well.

Every gateway also tells what the idle suspender left in Redis: that one is gone before anybody can ask it.
"""

import functools
import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Summary,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route as Endpoint

from services.activity.connection import UNREACHABLE
from services.activity.store import Activity
from services.gateway.routes import Routes

log = logging.getLogger(__name__)

_SILENT_SECONDS = 180
"""Twice what a watch may be silent: all has been asked for again since, and there was no answer."""

_SECONDS = (0.5, 1, 2, 3, 5, 8, 13, 20, 30, 60, 120, 300)

# There may be ten thousand tenants: each has few series, and what is spread over buckets is all tenants'.
disable_created_metrics()  # type: ignore[no-untyped-call]

WAKE_SECONDS = Summary(
    "gateway_wake_seconds",
    "From the request that found the tenant asleep until its agents were ready.",
    ["tenant"],
)
WAKE_PHASE_SECONDS = Histogram(
    "gateway_wake_phase_seconds",
    "The phases of all wakes: queued for its turn, start of the machine, boot until it answers, ready.",
    ["phase"],
    buckets=_SECONDS,
)
WAKE_FAILURES = Counter("gateway_wake_failures_total", "Wakes that failed, by why.", ["tenant", "kind"])
STARTS = Counter("gateway_starts_total", "Starts that KubeVirt took from this gateway.", ["tenant"])
WAKING = Gauge("gateway_wakes_in_progress", "Tenants that are being woken, queued ones included.")
WAITING = Gauge("gateway_waiting_requests", "Requests that wait for a tenant to wake.")
REQUESTS = Counter(
    "gateway_requests_total",
    "Requests by the class of the status that was answered, such as 2xx; broken: by none.",
    ["tenant", "status"],
)
RECEIVED = Counter("gateway_received_bytes_total", "Bytes of requests' bodies.", ["tenant"])
SENT = Counter("gateway_sent_bytes_total", "Bytes of answers' bodies.", ["tenant"])
REQUEST_SECONDS = Histogram(
    "gateway_request_seconds",
    "From a request's first byte to the first byte of its agent's answer, wakes included.",
    ["tenant"],
    buckets=(0.1, 1, 10),
)
IN_FLIGHT = Gauge(
    "gateway_requests_in_flight", "Requests and streams that hold their tenant awake.", ["kind"]
)
SILENCE = Gauge(
    "gateway_watch_silence_seconds",
    "For how long the Kubernetes API has said nothing of routes, or of machines and pods.",
    ["collection"],
)


def ended(tenant: str, entry: Any) -> None:
    """Count a request by Envoy's log entry at its end (`envoy.data.accesslog.v3.HTTPAccessLogEntry`)."""
    common, response = entry.common_properties, entry.response
    status = response.response_code.value
    # An answer that broke off has a status that promised more.
    broken = not status or common.response_flags.downstream_connection_termination
    requests, received, sent, seconds = _of(tenant, "broken" if broken else f"{status // 100}xx")
    requests.inc()
    received.inc(entry.request.request_body_bytes)
    sent.inc(response.response_body_bytes)
    if common.HasField("time_to_first_upstream_rx_byte"):
        taken = common.time_to_first_upstream_rx_byte
        seconds.observe(taken.seconds + taken.nanos / 1e9)


@functools.lru_cache(maxsize=4096)
def _of(tenant: str, status: str) -> tuple[Counter, Counter, Counter, Histogram]:
    """Return a tenant's own series: to look them up takes longer than to count."""
    return (
        REQUESTS.labels(tenant, status),
        RECEIVED.labels(tenant),
        SENT.labels(tenant),
        REQUEST_SECONDS.labels(tenant),
    )


def application(
    routes: Routes, activity: Activity, ready: Callable[[], bool], silence: Callable[[], Mapping[str, float]]
) -> Starlette:
    """Return the ASGI application with `/livez`, `/readyz` and `/metrics`.

    A part that fails ends the process, so whoever answers here has all its parts. While the Kubernetes API
    is away, all gateways alike serve what they know: that is told, and takes none out of service.
    """

    async def livez(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        if ready():
            behind = [name for name, seconds in silence().items() if seconds > _SILENT_SECONDS]
            told = f"ok, but nothing is heard of {', '.join(behind)}" if behind else "ok"
            return PlainTextResponse(f"{told}\n")
        return PlainTextResponse("routes and machines are not known yet\n", HTTPStatus.SERVICE_UNAVAILABLE)

    async def metrics(_: Request) -> Response:
        for collection, seconds in silence().items():
            SILENCE.labels(collection).set(seconds)
        text = generate_latest() + await _suspender(routes, activity)
        return Response(text, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    return Starlette(
        routes=[Endpoint("/livez", livez), Endpoint("/readyz", readyz), Endpoint("/metrics", metrics)]
    )


async def _suspender(routes: Routes, activity: Activity) -> bytes:
    """Return what the suspender has published, nothing while Redis is away."""
    registry = CollectorRegistry()
    verdict = Gauge(
        "idle_suspender_verdict",
        "1 for what was last decided about the tenant's machine.",
        ["tenant", "decision"],
        registry=registry,
    )
    sweep = Gauge(
        "idle_suspender_last_sweep",
        "The last sweep: `at` in seconds since 1970, how long it took, how many it decided what about.",
        ["figure"],
        registry=registry,
    )
    try:
        verdicts = await activity.verdicts(
            [route.tenant for route in routes.all() if route.served_by == "machine"]
        )
        figures = await activity.last_sweep() or {}
    except UNREACHABLE as error:
        log.warning("no metrics of the idle suspender: %s", error)
        return b""
    for tenant, found in verdicts.items():
        verdict.labels(tenant, found.decision).set(1)
    for figure, value in figures.items():
        sweep.labels(figure).set(value)
    return generate_latest(registry)
