"""What the accounting sees of tenants, and what it tells the ledger, which has tests of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, ProcessCollector, generate_latest

from services.accounting import accounting as program
from services.accounting import gateways
from services.accounting.accounting import Accounting
from services.accounting.backups import Backups
from services.accounting.gateways import Gateways, counted
from services.accounting.machines import Machines
from services.accounting.tenants import tenants as declared_tenants
from services.activity.store import Activity, Usage
from services.kube import Api
from tests.services.gateway import api
from tests.services.gateway.test_routes import declared
from tests.services.valkey import Valkey, free_port

NINE, TEN, ELEVEN = (f"2026-01-05T{hour}:00:00Z" for hour in ("09", "10", "11"))
BACKUP_VOLUMES = "/apis/longhorn.io/v1beta2/namespaces/longhorn-system/backupvolumes"
PODS = "/api/v1/namespaces/gateway/pods"

Row = dict[str, Any]


@dataclass
class Told:
    """A ledger that keeps what it is told, or does not answer."""

    rows: list[Row] = field(default_factory=list)
    counts: list[Row] = field(default_factory=list)
    at: list[datetime] = field(default_factory=list)
    asked: list[datetime] = field(default_factory=list)
    away: bool = False

    async def count(self, at: datetime, tenants: Sequence[Row], counts: Sequence[Row]) -> None:
        if self.away:
            raise psycopg.OperationalError("connection refused\nIs the server running?")
        self.at.append(at)
        self.rows, self.counts = list(tenants), list(counts)

    async def usage(
        self, since: datetime, until: datetime, tenants: Collection[str]
    ) -> dict[str, dict[str, Usage]]:
        self.asked.append(since)
        told = {tenant: Usage(awake_seconds={5: 60.0}, last_awake=7.0) for tenant in tenants}
        return {f"{until:%Y-%m}": told}


class Measured:
    """Objects of which only acme's are measured."""

    def bytes(self, tenant: str) -> int | None:
        return 1000 if tenant == "acme" else None


@dataclass(frozen=True)
class Place:
    """An accounting in a cluster."""

    cluster: api.Cluster
    client: Api
    ledger: Told
    accounting: Accounting

    async def row(self) -> Row:
        """Count, and return what the ledger is told of acme."""
        await self.accounting.once()
        (row,) = [row for row in self.ledger.rows if row["tenant"] == "acme"]
        return row


def machine(cluster: api.Cluster, tenant: str, since: str, *, ready: bool, namespace: str = "") -> None:
    ready_condition = {"type": "Ready", "status": str(ready), "lastTransitionTime": since}
    labelled = {"metadata": {"labels": {"tenant-id": tenant}}, "status": {"conditions": [ready_condition]}}
    cluster.put(api.MACHINES, namespace or f"tenant-{tenant}", labelled)


def declare(cluster: api.Cluster, tenant: str, **fields: Any) -> None:
    found = declared(tenant, **fields)
    found["metadata"]["creationTimestamp"] = NINE
    cluster.put(api.CONFIG_MAPS, f"route-{tenant}", found)


def at(server: Valkey, test: Callable[[Place], Awaitable[None]], *tenants: str) -> None:
    """Run a test where these tenants have a machine that has run since nine."""

    async def run() -> None:
        async with api.serve() as (cluster, client), server.client("accounting") as redis:
            for tenant in tenants:
                declare(cluster, tenant)
                machine(cluster, tenant, NINE, ready=True)
            told: Any = Told()
            measured: Any = Measured()
            known, machines, backups = declared_tenants(client, "gateway"), Machines(client), Backups(client)
            pods = Gateways(client, "gateway")
            following = [asyncio.create_task(each.follow()) for each in (known, machines, backups, pods)]
            done = Accounting(known, machines, pods, measured, backups, told, Activity(redis))
            try:
                async with asyncio.timeout(20):
                    for each in (known, machines, backups._watched, pods._watched):
                        await getattr(each, "synced").wait()  # noqa: B009
                    while cluster.watches < len(following):
                        await asyncio.sleep(0.01)
                    await test(Place(cluster, client, told, done))
            finally:
                for task in following:
                    task.cancel()
                await asyncio.gather(*following, return_exceptions=True)

    asyncio.run(run())


async def heard(place: Place, expected: Any) -> None:
    """Wait until acme's runs are as expected."""
    while sorted(map(str, (await place.row())["runs"])) != sorted(map(str, expected)):
        await asyncio.sleep(0.02)


def test_what_a_tenant_pays_for_is_told_with_its_run(redis_server: Valkey) -> None:
    async def test(place: Place) -> None:
        row = await place.row()
        assert (row["since"], row["tier"], row["cpu"], row["memory_gib"]) == (NINE, "enterprise", 2, 4)
        assert {type(row[name]) for name in ("cpu", "memory_gib", "workspace_gib")} == {int}
        assert (row["workspace_gib"], row["object_bytes"], row["backup_bytes"]) == (20, 1000, 0)
        assert row["runs"] == [(NINE, None)]
        assert 0 <= (datetime.now().astimezone() - place.ledger.at[0]).total_seconds() < 20

    at(redis_server, test, "acme")


def test_a_run_is_told_until_it_is_counted_and_then_only_its_end(redis_server: Valkey) -> None:
    async def test(place: Place) -> None:
        place.ledger.away = True
        machine(place.cluster, "acme", TEN, ready=False)
        await asyncio.sleep(0.1)
        machine(place.cluster, "acme", ELEVEN, ready=True)
        await asyncio.sleep(0.1)
        await place.accounting.once()
        place.ledger.away = False
        await heard(place, [(NINE, TEN), (ELEVEN, None)])
        assert (await place.row())["runs"] == [(ELEVEN, None)]
        machine(place.cluster, "acme", "2026-01-05T12:00:00Z", ready=False)
        await heard(place, [(ELEVEN, "2026-01-05T12:00:00Z"), (None, "2026-01-05T12:00:00Z")])
        assert (await place.row())["runs"] == [(None, "2026-01-05T12:00:00Z")]

    at(redis_server, test, "acme")


def test_a_machine_that_is_deleted_ran_until_then(redis_server: Valkey) -> None:
    async def test(place: Place) -> None:
        place.cluster.delete(api.MACHINES, "tenant-acme")
        while (runs := (await place.row())["runs"]) == [(NINE, None)]:
            await asyncio.sleep(0.02)
        ((begun, ended),) = runs
        assert begun == NINE
        assert abs(datetime.fromisoformat(ended).timestamp() - datetime.now().timestamp()) < 20

    at(redis_server, test, "acme")


def test_a_machine_elsewhere_is_nobodys(redis_server: Valkey) -> None:
    """Whoever labels a machine of its own with another tenant's id adds nothing to that one's account."""

    async def test(place: Place) -> None:
        machine(place.cluster, "acme", NINE, ready=True, namespace="tenant-bluebird")
        await asyncio.sleep(0.2)
        assert (await place.row())["runs"] == [(NINE, None)]

    at(redis_server, test, "acme")


@pytest.mark.parametrize(("state", "runs"), [("active", 1), ("suspended", 0)])
def test_a_pod_runs_for_as_long_as_its_tenant_is_active(redis_server: Valkey, state: str, runs: int) -> None:
    async def test(place: Place) -> None:
        declare(place.cluster, "acme", servedBy="deployment", tier="professional", state=state)
        while (row := await place.row())["tier"] != "professional":
            await asyncio.sleep(0.02)
        assert len(row["runs"]) == runs

    at(redis_server, test, "acme")


def test_what_longhorn_keeps_is_the_tenants_whose_claim_it_was(redis_server: Valkey) -> None:
    async def test(place: Place) -> None:
        for name, namespace, size in (("pvc-1", "tenant-acme", "500"), ("pvc-2", "databases", "7")):
            labels = {"KubernetesStatus": f'{{"namespace": "{namespace}"}}'}
            volume = {"status": {"dataStored": size, "labels": labels}}
            place.cluster.put(BACKUP_VOLUMES, name, volume)
        while (await place.row())["backup_bytes"] != 500:
            await asyncio.sleep(0.02)

    at(redis_server, test, "acme")


def test_nothing_is_counted_while_nothing_is_heard(
    redis_server: Valkey, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(place: Place) -> None:
        monkeypatch.setattr(program, "SILENT_SECONDS", -1)
        await place.accounting.once()
        assert place.ledger.at == []
        assert "nothing is counted: the Kubernetes API has said nothing" in caplog.text

    at(redis_server, test, "acme")


def test_without_postgresql_it_says_so_and_goes_on(
    redis_server: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(place: Place) -> None:
        place.ledger.away = True
        await place.accounting.once()
        assert "nothing is counted: PostgreSQL: connection refused" in caplog.text
        assert "Is the server running" not in caplog.text
        place.ledger.away = False
        assert (await place.row())["runs"] == [(NINE, None)]

    at(redis_server, test, "acme")


def test_redis_is_told_the_whole_month_once_an_hour_and_today_otherwise(redis_server: Valkey) -> None:
    async def test(place: Place) -> None:
        await place.accounting.once()
        await place.accounting.once()
        first, second = place.ledger.asked
        assert (first.day, first.hour, second.hour) == (1, 0, 0)
        # Unless an hour has just begun.
        assert second.day == place.ledger.at[1].day or place.ledger.at[0].hour != place.ledger.at[1].hour
        async with redis_server.client("gateway") as redis:
            month = f"{place.ledger.at[0]:%Y-%m}"
            found = (await Activity(redis).usage(["acme"], month))["acme"]
        assert found == Usage(awake_seconds={5: 60.0}, last_awake=7.0)

    at(redis_server, test, "acme")


def test_the_last_minutes_of_a_month_are_shown_in_it(redis_server: Valkey) -> None:
    async def test(place: Place) -> None:
        last, next_one = datetime(2026, 1, 31, 23, 59, tzinfo=UTC), datetime(2026, 2, 1, 0, 0, 30, tzinfo=UTC)
        for at in (last, next_one, next_one):
            await place.accounting._show(at, ["acme"])
        assert [f"{since:%m-%d}" for since in place.ledger.asked] == ["01-01", "01-31", "02-01"]

    at(redis_server, test, "acme")


def figures(sent: int, received: int = 0) -> str:
    """What a gateway shows, by the library that it shows it with."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    sending = Counter("gateway_sent_bytes", "Sent.", ["tenant"], registry=registry)
    sending.labels("acme").inc(sent)
    sending.labels('odd"name\\').inc(1)
    Counter("gateway_received_bytes", "Received.", ["tenant"], registry=registry).labels("acme").inc(received)
    Counter("gateway_sent_bytes_by_envoy", "Another.", ["pod"], registry=registry).labels("x").inc(5)
    return generate_latest(registry).decode()


def test_a_gateways_figures_are_read_for_each_tenant() -> None:
    acme, odd = counted("gateway-7f", figures(2**40 + 1, received=3))
    assert (acme["tenant"], acme["sent_bytes"], acme["received_bytes"]) == ("acme", 2**40 + 1, 3)
    assert odd["tenant"] == 'odd"name\\'
    assert acme["source"].startswith("gateway-7f ")
    assert float(acme["source"].split()[1]) > 10**9, "a gateway that starts anew has another name"


@pytest.mark.parametrize("text", ["", "<html>", 'gateway_sent_bytes_total{tenant="acme"} many\n'])
def test_figures_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        counted("gateway-7f", text)


def test_a_gateway_that_does_not_answer_costs_its_own_counts_alone(
    redis_server: Valkey, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gateways, "HEALTH_PORT", port := free_port())

    async def show(_: web.Request) -> web.Response:
        return web.Response(text=figures(70))

    async def test(place: Place) -> None:
        shown = web.Application()
        shown.router.add_get("/metrics", show)
        runner = web.AppRunner(shown)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            for name, address in (("here", "127.0.0.1"), ("away", "127.0.0.2")):
                place.cluster.put(PODS, name, {"status": {"phase": "Running", "podIP": address}})
            while len({row["source"] for row in place.ledger.counts}) < 1 or "away" not in caplog.text:
                await place.accounting.once()
                await asyncio.sleep(0.02)
        finally:
            await runner.cleanup()
        assert {row["sent_bytes"] for row in place.ledger.counts if row["tenant"] == "acme"} == {70}
        assert caplog.text.count("away is not counted") == 1

    at(redis_server, test, "acme")
