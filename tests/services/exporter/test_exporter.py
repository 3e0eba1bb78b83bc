"""What the exporter tells of tenants, and what becomes of it while a server is away."""

import asyncio
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import httpx
import psycopg
import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from services.activity.store import Activity
from services.exporter import __main__ as program
from services.exporter import figures, tenants
from services.exporter.backups import Backups
from services.exporter.drills import Drills
from services.exporter.figures import gauge
from services.exporter.tenants import Tenants, Terms
from services.gateway import routes
from tests.services.gateway import api
from tests.services.gateway.test_routes import declared
from tests.services.valkey import Valkey

BACKUPS = "/apis/longhorn.io/v1beta2/namespaces/longhorn-system/backups"
TERMS = {"availability": 0.999, "wakeSeconds": 30.0, "listPriceChf": 799.2}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def of(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def config_map(tenant: str, terms: Any = TERMS, **fields: Any) -> dict[str, Any]:
    found = declared(tenant, **fields)
    found["data"]["terms.json"] = terms if isinstance(terms, str) else json.dumps(terms)
    return found


def backup(namespace: str, at: str, state: str = "Completed") -> dict[str, Any]:
    claim = json.dumps({"namespace": namespace, "pvcName": "workspace"})
    return {"status": {"state": state, "backupCreatedAt": at, "labels": {"KubernetesStatus": claim}}}


async def no_database() -> Iterable[Metric]:
    raise psycopg.OperationalError("connection refused")


async def scraped(cluster: api.Cluster, client: Any, server: Valkey) -> Samples:
    """What one scrape tells, while PostgreSQL is away."""
    known, backups, drills = Tenants(client, "gateway"), Backups(client), Drills(client, "gateway")
    following = [asyncio.create_task(each.follow()) for each in (known, backups, drills)]
    redis = server.client("exporter")
    try:
        async with asyncio.timeout(10):
            await known.synced.wait()
            await backups._watched.synced.wait()
            await drills._watched.synced.wait()
        asked = {**program.sources(known, backups, drills, redis), "postgresql": no_database}
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(program.application(asked, known)), base_url="http://exporter"
        ) as web:
            assert (await web.get("/readyz")).status_code == 200
            return samples((await web.get("/metrics")).text)
    finally:
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        await redis.aclose()


def scrape(server: Valkey, *config_maps: dict[str, Any], backups: Iterable[dict[str, Any]] = ()) -> Samples:
    async def check() -> Samples:
        async with api.serve() as (cluster, client):
            for found in config_maps:
                cluster.put(api.CONFIG_MAPS, found["metadata"]["name"], found)
            for number, found in enumerate(backups):
                cluster.put(BACKUPS, f"backup-{number}", found)
            return await scraped(cluster, client, server)

    return asyncio.run(check())


def test_a_tenants_state_terms_and_sleep(redis_server: Valkey) -> None:
    operator = redis_server.operator()
    verdict: dict[Any, Any] = {"decision": "suspended", "reason": "idle 17 min", "at": "1"}
    operator.hset("suspension:acme:verdict", mapping=verdict)
    operator.hset("suspension::sweep", mapping={"at": "1800000000", "suspended": "1"})
    month = datetime.now(UTC).strftime("%Y-%m")
    operator.hset(f"usage:acme:{month}", mapping={"1": "7200", "until": "1799999000"})

    told = scrape(redis_server, config_map("acme"))

    labels = {"tenant": "acme", "tier": "enterprise", "state": "active", "served_by": "machine"}
    assert told[of("agent_platform_tenant", **labels)] == 1
    assert told[of("agent_platform_availability_objective_ratio", tenant="acme")] == 0.999
    assert told[of("agent_platform_wake_objective_seconds", tenant="acme")] == 30
    assert told[of("agent_platform_list_price_chf", tenant="acme")] == 799.2
    assert of("agent_platform_budget_chf", tenant="acme") not in told
    assert told[of("idle_suspender_verdict", tenant="acme", decision="suspended")] == 1
    assert told[of("idle_suspender_last_sweep", figure="at")] == 1_800_000_000
    assert told[of("agent_platform_awake_seconds_total", tenant="acme")] == 7200
    assert told[of("agent_platform_last_awake_timestamp_seconds", tenant="acme")] == 1_799_999_000
    assert told[of("agent_platform_redis_memory_bytes")] > 0


def test_a_server_that_is_away_costs_its_own_figures_alone(redis_server: Valkey) -> None:
    told = scrape(redis_server, config_map("acme"))
    up = {source: told[of("agent_platform_source_up", source=source)] for source in ("kubernetes", "redis")}
    assert up == {"kubernetes": 1, "redis": 1}
    assert told[of("agent_platform_source_up", source="postgresql")] == 0
    assert not [name for name, _ in told if name.startswith("agent_platform_database")]


def test_a_source_that_does_not_answer_in_time_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_SECONDS", 0.05)

    async def hangs() -> Iterable[Metric]:
        await asyncio.sleep(60)
        return []

    async def answers() -> Iterable[Metric]:
        return [gauge("answered", "It did.", [], [((), 1)])]

    told = samples(asyncio.run(figures.collect({"slow": hangs, "quick": answers})).decode())
    assert told[of("agent_platform_source_up", source="slow")] == 0
    assert told[of("agent_platform_source_up", source="quick")] == 1
    assert told[of("answered")] == 1


@pytest.mark.parametrize("terms", ["{", {"availability": 2}, {}, "[1]"])
def test_terms_that_make_no_sense_cost_that_tenants_figures_alone(redis_server: Valkey, terms: Any) -> None:
    told = scrape(redis_server, config_map("acme", terms), config_map("globex"))
    assert {dict(labels)["tenant"] for name, labels in told if name == "agent_platform_tenant"} == {"globex"}


def test_the_last_complete_backup_of_each_workspace(redis_server: Valkey) -> None:
    made = [
        backup("tenant-acme", "2026-11-28T01:30:00Z"),
        backup("tenant-acme", "2026-11-29T01:30:00Z"),
        backup("tenant-acme", "2026-11-30T01:30:00Z", state="Error"),
        backup("monitoring", "2026-11-30T01:30:00Z"),
        {"status": {"state": "Completed", "labels": {"KubernetesStatus": "{"}}},
        {},
    ]
    told = scrape(redis_server, config_map("acme"), backups=made)
    found = {labels: value for (name, labels), value in told.items() if "backup_timestamp" in name}
    assert found == {frozenset({("tenant", "acme")}): datetime(2026, 11, 29, 1, 30, tzinfo=UTC).timestamp()}


@pytest.mark.parametrize(
    ("now", "awake", "so_far", "forecast"),
    [
        # Half of a month of 30 days has passed: half of the fixed part, and all hours awake.
        (datetime(2026, 11, 16, tzinfo=UTC), 36_000, 10 + 1, 20 + 2),
        # After an hour, the forecast still reckons with three days.
        (datetime(2026, 11, 1, 1, tzinfo=UTC), 3600, 20 / 720 + 0.1, 20 + 1),
        (datetime(2026, 12, 31, 12, tzinfo=UTC), 0, 20 * 30.5 / 31, 20),
    ],
)
def test_what_a_tenant_costs(
    redis_server: Valkey, now: datetime, awake: int, so_far: float, forecast: float
) -> None:
    month = now.strftime("%Y-%m")
    redis_server.operator().hset(f"usage:acme:{month}", mapping={"1": str(awake)})
    tenant = tenants.Tenant(route=routes.parse(declared("acme")), terms=Terms.model_validate(TERMS))

    async def check() -> list[Metric]:
        async with redis_server.client("exporter") as redis:
            return list(await tenants.activity([tenant], Activity(redis), now))

    told = {family.name: family.samples[0].value for family in asyncio.run(check()) if family.samples}
    assert told["agent_platform_cost_chf"] == pytest.approx(so_far)
    assert told["agent_platform_cost_forecast_chf"] == pytest.approx(forecast)


def test_ten_thousand_tenants_have_few_series_each(redis_server: Valkey) -> None:
    told = scrape(redis_server, config_map("acme"))
    # With what PostgreSQL adds: seven more.
    assert len([1 for _, labels in told if ("tenant", "acme") in labels]) <= 11


def record(text: str | None) -> dict[str, Any]:
    metadata = {"name": "last-drill", "namespace": "gateway", "labels": {"agent-platform/drill": "last"}}
    return {"metadata": metadata, "data": {"drill.json": text}} if text else {"metadata": metadata}


def drill(*differences: str, completed: bool = True) -> str:
    disaster = {
        "disaster": "Vault's disk gone",
        "lost_seconds": 1.5,
        "seconds": 20,
        "differences": differences,
    }
    return json.dumps({"at": "2026-11-28T03:50:00+00:00", "completed": completed, "disasters": [disaster]})


@pytest.mark.parametrize(
    ("text", "success"),
    [(drill(), 1), (drill("a: gone"), 0), (drill(completed=False), 0)],
    ids=["well", "different", "ended early"],
)
def test_the_outcome_of_the_last_drill(redis_server: Valkey, text: str, success: int) -> None:
    told = scrape(redis_server, record(text))
    assert told[of("agent_platform_drill_success")] == success
    assert told[of("agent_platform_drill_timestamp_seconds")] == 1_795_837_800
    assert told[of("agent_platform_drill_lost_seconds", disaster="Vault's disk gone")] == 1.5
    assert told[of("agent_platform_drill_recovery_seconds", disaster="Vault's disk gone")] == 20


@pytest.mark.parametrize("text", [None, "{", "[]", drill()[:-1], '{"at": "2026-11-28T03:50Z"}'])
def test_what_is_no_record_of_a_drill_tells_nothing_of_one(redis_server: Valkey, text: str | None) -> None:
    told = scrape(redis_server, config_map("acme"), record(text))
    assert not [name for name, _ in told if name.startswith("agent_platform_drill")]
    assert of("agent_platform_list_price_chf", tenant="acme") in told
