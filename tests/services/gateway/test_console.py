"""The operators' page over real HTTP, with a real Valkey and a cluster nobody has seen yet."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from services.activity.store import Activity, Published
from services.gateway import console, pages
from services.gateway.cluster import Cluster
from services.gateway.routes import Price, Route, Routes
from services.gateway.states import CannotWake, Kind, State, StillWaking
from services.gateway.wake import Wakes
from services.kube import Access, Api
from tests.services.gateway.api import route
from tests.services.gateway.harness import served
from tests.services.valkey import Valkey

MONTH = datetime.now(UTC).strftime("%Y-%m")
PRICE = Price.model_validate({"awakeHourChf": 0.5, "monthChf": 100.0})


class Known(Routes):
    """Routes without a cluster to declare them in."""

    def __init__(self, *routes: Route) -> None:
        self._known = list(routes)

    def all(self) -> list[Route]:
        return self._known


@asynccontextmanager
async def serving(redis: Redis, *routes: Route) -> AsyncIterator[str]:
    activity = Activity(redis)
    api = Api(Access(server="https://127.0.0.1:1", tls=ssl.create_default_context()))
    known = Known(*routes)
    wakes = Wakes(Cluster(api), activity, known)
    application = console.application(known, wakes, activity)
    try:
        async with served(application) as base:
            yield base
    finally:
        await wakes.close()
        await api.close()
        await redis.aclose()


async def get(url: str) -> tuple[int, str, dict[str, str]]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text(), dict(response.headers)


def test_every_tenant_is_shown_and_why(redis_server: Valkey) -> None:
    async def check() -> None:
        redis = redis_server.client("idle-suspender")
        await Activity(redis).publish(
            [Published(tenant="acme", decision="suspended", reason="idle <17> min")]
        )
        redis_server.operator().hset(f"usage:acme:{MONTH}", "1", 7200)
        redis_server.operator().hset("activity:acme:wake", mapping={"at": 1, "seconds": 6.5, "boot": 4})
        await redis.aclose()
        tenants = (
            route("acme", price=PRICE),
            route("globex", price=PRICE, state="suspended"),
            route("paused", served_by="deployment"),
        )
        async with serving(redis_server.client("gateway"), *tenants) as url:
            _, text, headers = await get(url + "/")
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert "idle &lt;17&gt; min" in text
            assert "<17>" not in text
            found = await _json(url)
            assert found["acme"]["state"] == "asleep"
            assert found["acme"]["costChf"] == 101
            assert found["acme"]["awakeHoursByDay"][0] == 2
            assert "-01: 2.0 h awake" in text
            assert found["acme"]["lastWake"]["seconds"] == 6.5
            assert found["globex"]["state"] == "off"
            assert found["paused"]["costChf"] is None
            assert (await get(url + "/elsewhere"))[0] == 404

    asyncio.run(check())


@pytest.mark.parametrize("odd", ["nan", "inf", "soon", None])
def test_what_redis_keeps_of_one_tenant_hides_no_other(redis_server: Valkey, odd: str | None) -> None:
    async def check() -> None:
        operator = redis_server.operator()
        for key in (
            "suspension:acme:verdict",
            f"usage:acme:{MONTH}",
            "activity:acme:wake",
            "suspension::sweep",
        ):
            if odd is None:
                operator.set(key, "of another type")
            else:
                fields = ("decision", "at", "seconds", "boot", "1")
                operator.hset(key, mapping=dict.fromkeys(fields, odd))
        operator.hset(f"usage:globex:{MONTH}", "1", 7200)
        tenants = (route("acme", price=PRICE), route("globex", price=PRICE))
        async with serving(redis_server.client("gateway"), *tenants) as url:
            status, text, _ = await get(url + "/")
            assert status == 200
            assert "left running: its last verdict cannot be read" in text
            found = await _json(url)
            assert found["acme"]["costChf"] is None
            assert found["globex"]["costChf"] == 101

    asyncio.run(check())


def test_without_redis_it_says_so_and_shows_the_rest() -> None:
    async def check() -> None:
        async with serving(Redis(port=1, decode_responses=True), route("acme", price=PRICE)) as url:
            status, text, _ = await get(url + "/")
            assert status == 200
            assert "Redis does not answer" in text
            assert (await _json(url))["acme"]["costChf"] is None

    asyncio.run(check())


async def _json(url: str) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(url + "/tenants.json") as response:
        return {each["tenant"]: each for each in (await response.json())["tenants"]}


def test_the_waiting_page_goes_on_by_itself() -> None:
    response = pages.waiting(route("acme"), StillWaking("boot", 4.4, 2))
    text = bytes(response.body).decode()
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "2"
    assert '<meta http-equiv="refresh" content="2">' in text
    assert '<li class="now" aria-current="step">Booting the system</li>' in text
    assert "4 s so far" in text


@pytest.mark.parametrize("kind", ["no-capacity", "image", "crash-loop", "volume", "not-ready", "unknown"])
def test_a_failure_is_told_without_the_clusters_words(kind: Kind) -> None:
    response = pages.failed(route("acme"), CannotWake(kind, "0/3 nodes are available", 20))
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "20"
    assert kind in bytes(response.body).decode()
    assert "nodes" not in bytes(response.body).decode()


def test_a_tenant_that_is_not_active_need_not_ask_again() -> None:
    response = pages.failed(route("acme"), CannotWake("not-active", "the tenant is suspended", 60))
    assert response.status_code == 403
    assert "http-equiv" not in bytes(response.body).decode()


def test_what_a_client_sends_is_escaped() -> None:
    text = bytes(pages.sign_in("acme", "no <script>", '/"><script>').body).decode()
    assert "<script>" not in text


def test_a_tenant_that_wakes_is_said_to() -> None:
    assert console.standing(route("acme"), State(phase="boot")) == "waking"
    assert console.standing(route("acme"), State(phase="stopping")) == "stopping"
