"""What Prometheus is told."""

from http import HTTPStatus
from typing import Any

import httpx
import pytest
from envoy.data.accesslog.v3 import accesslog_pb2  # type: ignore[import-untyped]
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from services.activity.store import Activity
from services.gateway import metrics
from services.gateway.routes import Route
from tests.services.gateway.api import route
from tests.services.gateway.test_wake import gateway, run
from tests.services.valkey import Valkey

PHASES = {"queued", "start", "boot", "ready"}


class Known:
    """Routes that a test chooses."""

    def __init__(self, *routes: Route) -> None:
        self._routes = list(routes)

    def all(self) -> list[Route]:
        return self._routes


async def ask(activity: Activity, path: str, *, ready: bool = True, silence: float = 0) -> httpx.Response:
    known: Any = Known(route("acme"))
    application = metrics.application(known, activity, lambda: ready, lambda: {"routes": silence})
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
            before = samples(await ask(here.activity, "/metrics"))
            await here.get("measured")
            after = samples(await ask(here.activity, "/metrics"))
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
        metrics.ended("counted", entry)
    metrics.WAKE_SECONDS.labels("counted").observe(1)
    metrics.STARTS.labels("counted").inc()
    told = generate_latest().decode()

    series = [line for line in told.splitlines() if 'tenant="counted"' in line]

    assert len(series) == 14
    assert {line.partition("{")[0] for line in series} == {
        "gateway_requests_total",
        "gateway_received_bytes_total",
        "gateway_sent_bytes_total",
        *(f"gateway_request_seconds_{part}" for part in ("bucket", "count", "sum")),
        *(f"gateway_wake_seconds_{part}" for part in ("count", "sum")),
        "gateway_starts_total",
    }


def test_what_the_suspender_decided_is_told_on_its_behalf(server: Valkey) -> None:
    async def check() -> None:
        async with gateway(server) as here:
            server.operator().hset(
                "suspension:acme:verdict",
                mapping={"decision": "suspended", "reason": "idle 17 min", "at": "1"},
            )
            server.operator().hset("suspension::sweep", mapping={"at": "1800000000", "suspended": "1"})
            told = samples(await ask(here.activity, "/metrics"))
        assert told[of("idle_suspender_verdict", tenant="acme", decision="suspended")] == 1
        assert told[of("idle_suspender_last_sweep", figure="at")] == 1_800_000_000

    run(check())


@pytest.mark.parametrize("odd", ["of another type", {"decision": "left"}, {"decision": "odd", "at": "nan"}])
def test_a_verdict_that_cannot_be_read_is_one_to_leave_the_machine_running(
    server: Valkey, odd: dict[Any, Any] | str
) -> None:
    async def check() -> None:
        async with gateway(server) as here:
            for key in ("suspension:acme:verdict", "suspension::sweep"):
                if isinstance(odd, str):
                    server.operator().set(key, odd)
                else:
                    server.operator().hset(key, mapping=odd)
            answer = await ask(here.activity, "/metrics")
        assert answer.status_code == HTTPStatus.OK
        assert samples(answer)[of("idle_suspender_verdict", tenant="acme", decision="left")] == 1

    run(check())


def test_without_redis_the_gateways_own_metrics_are_told() -> None:
    async def check() -> None:
        away = Activity(Redis(port=1, decode_responses=True))
        told = samples(await ask(away, "/metrics"))
        assert of("gateway_waiting_requests") in told
        assert not [name for name, _ in told if name.startswith("idle_suspender")]

    run(check())


def test_it_is_ready_once_routes_and_machines_are_known() -> None:
    async def check() -> None:
        away = Activity(Redis(port=1, decode_responses=True))
        assert (await ask(away, "/livez", ready=False)).status_code == HTTPStatus.OK
        assert (await ask(away, "/readyz", ready=False)).status_code == HTTPStatus.SERVICE_UNAVAILABLE
        assert (await ask(away, "/readyz")).text == "ok\n"

    run(check())


def test_it_tells_for_how_long_it_has_heard_nothing_and_serves_what_it_knows() -> None:
    async def check() -> None:
        away = Activity(Redis(port=1, decode_responses=True))
        answer = await ask(away, "/readyz", silence=200)
        assert (answer.status_code, answer.text) == (HTTPStatus.OK, "ok, but nothing is heard of routes\n")
        told = samples(await ask(away, "/metrics", silence=200))
        assert told[of("gateway_watch_silence_seconds", collection="routes")] == 200

    run(check())
