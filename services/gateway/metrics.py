"""The figures for Prometheus, on a port that only the cluster reaches, and whether this gateway is well."""

import functools
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

from prometheus_client import (
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

from services.gateway.pages import STATE_HEADER
from services.gateway.routes import Route, Routes
from services.kube import SILENT_SECONDS

_FAILED = "unavailable"
"""Of a request that the platform has failed."""
_BY_THE_AGENT = (
    "upstream_connection_termination",
    "upstream_protocol_error",
    "upstream_remote_reset",
    "upstream_request_timeout",
    "stream_idle_timeout",
)
"""Envoy's flags of an agent that took a request, and did not answer it as HTTP wants."""
_AGENTS_OWN = "via_upstream"
"""Envoy's word for an answer that is not its own."""
_PHASES = ("queued", "start", "boot", "ready")
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
WAKE_FAILURES = Counter("gateway_wake_failures_total", "Wakes that failed.", ["tenant"])
WAKE_FAILURE_KINDS = Counter("gateway_wake_failure_kinds_total", "Wakes that failed, by why.", ["kind"])
STARTS = Counter("gateway_starts_total", "Starts that KubeVirt took from this gateway.", ["tenant"])
WAKING = Gauge("gateway_wakes_in_progress", "Tenants that are being woken, queued ones included.")
WAITING = Gauge("gateway_waiting_requests", "Requests that wait for a tenant to wake.")
REQUESTS = Counter(
    "gateway_requests_total",
    "Requests by the class of the status that the agent answered, such as 2xx; 5xx, too, if it broke off. "
    "refused: by the gateway; waking: told to ask again while the machine starts; limited: more than one "
    "tenant may have; unavailable: failed by the platform; abandoned: by a client before an answer began; "
    "broken: an answer that the client did not get to its end.",
    ["tenant", "status"],
)
RECEIVED = Counter(
    "gateway_received_bytes_total", "Bytes of the bodies of requests that were let in.", ["tenant"]
)
SENT = Counter("gateway_sent_bytes_total", "Bytes of the bodies of answers to them.", ["tenant"])
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


def ended(tenant: str, entry: Any, *, let_in: bool) -> None:
    """Count a request by Envoy's log entry at its end (`envoy.data.accesslog.v3.HTTPAccessLogEntry`).

    Its bytes are the tenant's, and on its account, if it was let in: anybody can send others.
    """
    common, response = entry.common_properties, entry.response
    requests, received, sent, seconds = _of(tenant, _outcome(entry))
    requests.inc()
    if let_in:
        received.inc(entry.request.request_body_bytes)
        sent.inc(response.response_body_bytes)
    if common.HasField("time_to_first_upstream_rx_byte"):
        taken = common.time_to_first_upstream_rx_byte
        seconds.observe(taken.seconds + taken.nanos / 1e9)


def _outcome(entry: Any) -> str:
    common, response = entry.common_properties, entry.response
    flags, status = common.response_flags, response.response_code.value
    # An answer that broke off has a status that promised more.
    if not status or flags.downstream_connection_termination:
        return "broken" if common.HasField("time_to_first_upstream_rx_byte") else "abandoned"
    kind = f"{status // 100}xx"
    if kind not in ("4xx", "5xx") or response.response_code_details == _AGENTS_OWN:
        return kind
    if kind == "4xx":
        return "refused"
    if any(getattr(flags, flag) for flag in _BY_THE_AGENT):
        return kind
    return response.response_headers.get(STATE_HEADER) or _FAILED


@functools.lru_cache(maxsize=4096)
def _of(tenant: str, status: str) -> tuple[Counter, Counter, Counter, Histogram]:
    """Return a tenant's own series: to look them up takes longer than to count."""
    return (
        REQUESTS.labels(tenant, status),
        RECEIVED.labels(tenant),
        SENT.labels(tenant),
        REQUEST_SECONDS.labels(tenant),
    )


def _begin(routes: Iterable[Route]) -> None:
    """Have what seldom happens begin at 0: Prometheus sees no increase where a counter appears with 1."""
    for phase in _PHASES:
        WAKE_PHASE_SECONDS.labels(phase)
    for route in routes:
        REQUESTS.labels(route.tenant, _FAILED)
        if route.served_by == "machine":
            for seldom in (WAKE_SECONDS, WAKE_FAILURES, STARTS):
                seldom.labels(route.tenant)


def application(
    routes: Routes, ready: Callable[[], bool], silence: Callable[[], Mapping[str, float]]
) -> Starlette:
    """Return the ASGI application with `/livez`, `/readyz` and `/metrics`.

    A part that fails ends the process, so whoever answers here has all its parts. While the Kubernetes API
    is away, all gateways alike serve what they know: that is told, and takes none out of service.
    """

    async def livez(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        if ready():
            behind = [name for name, seconds in silence().items() if seconds > SILENT_SECONDS]
            told = f"ok, but nothing is heard of {', '.join(behind)}" if behind else "ok"
            return PlainTextResponse(f"{told}\n")
        return PlainTextResponse("routes and machines are not known yet\n", HTTPStatus.SERVICE_UNAVAILABLE)

    async def metrics(_: Request) -> Response:
        for collection, seconds in silence().items():
            SILENCE.labels(collection).set(seconds)
        _begin(routes.all())
        return Response(generate_latest(), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    return Starlette(
        routes=[Endpoint("/livez", livez), Endpoint("/readyz", readyz), Endpoint("/metrics", metrics)]
    )
