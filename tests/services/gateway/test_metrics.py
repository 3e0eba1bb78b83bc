"""What Prometheus is told."""

from http import HTTPStatus

import httpx
import pytest
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


async def ask(activity: Activity, path: str, *, ready: bool = True) -> httpx.Response:
    application = metrics.application(Known(route("acme")), activity, lambda: ready)  # type: ignore[arg-type]
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


def test_a_wake_is_in_the_histograms_of_its_tenant_as_a_whole_and_by_phase(server: Valkey) -> None:
    async def check() -> None:
        async with gateway(server, "measured") as here:
            before = samples(await ask(here.activity, "/metrics"))
            await here.get("measured")
            after = samples(await ask(here.activity, "/metrics"))
        assert of("gateway_wake_seconds_count", tenant="measured") not in before
        assert after[of("gateway_wake_seconds_count", tenant="measured")] == 1
        whole = after[of("gateway_wake_seconds_sum", tenant="measured")]
        phases = {
            phase: after[of("gateway_wake_phase_seconds_sum", tenant="measured", phase=phase)]
            for phase in PHASES
        }
        assert 0 < whole == pytest.approx(sum(phases.values()), abs=0.1)
        assert after[of("gateway_starts_total", tenant="measured")] == 1

    run(check())


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
        assert (await ask(away, "/readyz")).status_code == HTTPStatus.OK

    run(check())
