"""What Prometheus is told."""

import asyncio
from http import HTTPStatus
from typing import Any

import httpx
import pytest
from envoy.data.accesslog.v3 import accesslog_pb2  # type: ignore[import-untyped]
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from services.gateway import metrics
from services.gateway.routes import Route
from tests.services.gateway.api import route
from tests.services.gateway.test_wake import gateway, run
from tests.services.valkey import Valkey

PHASES = {"queued", "start", "boot", "ready"}


class Known:
    """Routes that a test chooses."""

    def all(self) -> list[Route]:
        return [route("unwoken"), route("unasked", served_by="shared runtime")]


async def ask(path: str, *, ready: bool = True, silence: float = 0) -> httpx.Response:
    known: Any = Known()
    application = metrics.application(known, lambda: ready, lambda: {"routes": silence})
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(application), base_url="http://gateway"
    ) as client:
        return await client.get(path)


def samples(answer: httpx.Response) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    assert answer.status_code == HTTPStatus.OK
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def of(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def test_a_wake_counts_for_its_tenant_and_its_phases_for_all(server: Valkey) -> None:
    async def check() -> None:
        async with gateway(server, "measured") as here:
            before = samples(await ask("/metrics"))
            await here.get("measured")
            after = samples(await ask("/metrics"))
        assert of("gateway_wake_seconds_count", tenant="measured") not in before
        assert after[of("gateway_wake_seconds_count", tenant="measured")] == 1
        whole = after[of("gateway_wake_seconds_sum", tenant="measured")]
        phases = {
            phase: after[of("gateway_wake_phase_seconds_sum", phase=phase)]
            - before.get(of("gateway_wake_phase_seconds_sum", phase=phase), 0)
            for phase in PHASES
        }
        assert 0 < whole == pytest.approx(sum(phases.values()), abs=0.1)
        assert after[of("gateway_starts_total", tenant="measured")] == 1

    run(check())


def test_a_tenant_has_few_enough_series_for_ten_thousand_of_them() -> None:
    """These are of one that is asked and woken; other classes of status and failed wakes come as they do."""
    for status in (200, 404, 502):
        entry = accesslog_pb2.HTTPAccessLogEntry()
        entry.response.response_code.value = status
        entry.common_properties.time_to_first_upstream_rx_byte.seconds = 1
        metrics.ended("counted", entry, let_in=True)
    metrics.WAKE_SECONDS.labels("counted").observe(1)
    metrics.STARTS.labels("counted").inc()
    metrics.WAKE_FAILURES.labels("counted").inc()
    told = generate_latest().decode()

    series = [line for line in told.splitlines() if 'tenant="counted"' in line]

    assert len(series) == 15
    assert {line.partition("{")[0] for line in series} == {
        "gateway_requests_total",
        "gateway_received_bytes_total",
        "gateway_sent_bytes_total",
        *(f"gateway_request_seconds_{part}" for part in ("bucket", "count", "sum")),
        *(f"gateway_wake_seconds_{part}" for part in ("count", "sum")),
        "gateway_starts_total",
        "gateway_wake_failures_total",
    }


def test_what_seldom_happens_to_a_machine_begins_at_nought() -> None:
    """Prometheus sees no increase where a counter appears with 1: the first wake would be lost."""
    told = samples(asyncio.run(ask("/metrics")))
    for name in ("wake_seconds_count", "wake_failures_total", "starts_total"):
        assert told[of(f"gateway_{name}", tenant="unwoken")] == 0
        assert of(f"gateway_{name}", tenant="unasked") not in told
    for tenant in ("unwoken", "unasked"):
        assert told[of("gateway_requests_total", tenant=tenant, status="unavailable")] == 0


def ended(status: int, details: str, state: str = "", *flags: str, begun: bool = False) -> Any:
    entry = accesslog_pb2.HTTPAccessLogEntry()
    entry.response.response_code.value = status
    entry.response.response_code_details = details
    for flag in flags:
        setattr(entry.common_properties.response_flags, flag, True)
    if begun:
        entry.common_properties.time_to_first_upstream_rx_byte.seconds = 1
    if state:
        entry.response.response_headers["x-gateway-state"] = state
    return entry


GONE = "downstream_connection_termination"


@pytest.mark.parametrize(
    ("entry", "outcome"),
    [
        (ended(200, "via_upstream"), "2xx"),
        (ended(404, "via_upstream"), "4xx"),
        (ended(401, "ext_authz_denied"), "refused"),
        (ended(413, "ext_authz_denied"), "refused"),
        (ended(500, "via_upstream"), "5xx"),
        # An agent cannot take its own failures for somebody else's.
        (ended(503, "via_upstream", "waking"), "5xx"),
        (ended(502, "upstream_reset_after_response_started", "", "upstream_connection_termination"), "5xx"),
        (ended(502, "upstream_reset_before_response_started", "", "upstream_protocol_error"), "5xx"),
        (ended(504, "stream_idle_timeout", "", "stream_idle_timeout"), "5xx"),
        (ended(503, "ext_authz_denied", "waking"), "waking"),
        (ended(503, "ext_authz_denied", "limited"), "limited"),
        (ended(503, "ext_authz_denied"), "unavailable"),
        (ended(503, "ext_authz_error"), "unavailable"),
        (
            ended(503, "upstream_reset_before_response_started", "", "upstream_connection_failure"),
            "unavailable",
        ),
        (ended(0, "", "", GONE), "abandoned"),
        (ended(0, ""), "abandoned"),
        (ended(200, "via_upstream", "", GONE, begun=True), "broken"),
    ],
)
def test_what_the_platform_fails_is_told_from_what_an_agent_fails(entry: Any, outcome: str) -> None:
    def count() -> float:
        return float(metrics.REQUESTS.labels("told-apart", outcome)._value.get())

    before = count()
    metrics.ended("told-apart", entry, let_in=True)
    assert count() == before + 1


def test_bytes_of_a_request_that_was_not_let_in_are_on_nobodys_account() -> None:
    entry = ended(401, "ext_authz_denied")
    entry.request.request_body_bytes = 2**40
    for let_in, expected in ((False, 0), (True, 2**40)):
        metrics.ended("named-by-anybody", entry, let_in=let_in)
        told = samples(asyncio.run(ask("/metrics")))
        assert told[of("gateway_received_bytes_total", tenant="named-by-anybody")] == expected


def test_it_is_ready_once_routes_and_machines_are_known() -> None:
    async def check() -> None:
        assert (await ask("/livez", ready=False)).status_code == HTTPStatus.OK
        assert (await ask("/readyz", ready=False)).status_code == HTTPStatus.SERVICE_UNAVAILABLE
        assert (await ask("/readyz")).text == "ok\n"

    run(check())


def test_it_tells_for_how_long_it_has_heard_nothing_and_serves_what_it_knows() -> None:
    async def check() -> None:
        answer = await ask("/readyz", silence=200)
        assert (answer.status_code, answer.text) == (HTTPStatus.OK, "ok, but nothing is heard of routes\n")
        told = samples(await ask("/metrics", silence=200))
        assert told[of("gateway_watch_silence_seconds", collection="routes")] == 200

    run(check())
