"""Envoy and the gateway together: what is decided, held and told, whichever of the two is away."""

import asyncio
import base64
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, ResponseReceived, StreamEnded
from h2.settings import SettingCodes

from services.gateway.in_flight import Asked
from tests.services.gateway import harness
from tests.services.gateway.harness import DOMAIN, Gateway, token, until
from tests.services.gateway.test_auth import COOKIE, ask
from tests.services.gateway.test_proxy import client
from tests.services.valkey import Valkey


@pytest.fixture
def gateway(tmp_path: Path, redis_server: Valkey) -> Iterator[Gateway]:
    with harness.gateway(tmp_path, redis_server) as running:
        yield running


def holders(server: Valkey, tenant: str = "acme") -> set[str]:
    return {str(holder) for holder in server.operator().zrange(f"activity:{tenant}:holds", 0, -1)}


@asynccontextmanager
async def answering(answer: bytes, *, first: bytes | None = None) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Run an agent that says `answer` and closes; to the first connection it says `first`, if given."""
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer if first is None or len(received) > 1 else first)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", received


def through(
    gateway: Gateway, answer: bytes, method: str = "GET", first: bytes | None = None
) -> tuple[int, int]:
    """Return the status that comes of an agent's answer, and how often it was asked."""

    async def run() -> tuple[int, int]:
        async with answering(answer, first=first) as (address, received):
            gateway.places.found["acme"] = address
            with client(gateway) as session:
                told = await asyncio.to_thread(session.request, method, "/")
            return told.status_code, len(received)

    return asyncio.run(run())


@pytest.mark.parametrize("status", ["000", "099", "1000", "abc", "-20"])
def test_a_status_that_is_none_is_not_passed_on(gateway: Gateway, status: str) -> None:
    answer = f"HTTP/1.1 {status} Odd\r\nContent-Length: 0\r\n\r\n".encode()
    assert through(gateway, answer, "POST") == (502, 1)


@pytest.mark.parametrize(
    "answer",
    [
        b"no HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    ],
)
def test_an_answer_that_is_no_clean_one_is_the_agents_fault(gateway: Gateway, answer: bytes) -> None:
    assert through(gateway, answer, "POST") == (502, 1)


def test_a_repeatable_request_is_asked_again_once_and_no_other(gateway: Gateway) -> None:
    good = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    assert through(gateway, good, first=b"") == (200, 2)
    assert through(gateway, b"") == (502, 2)
    assert through(gateway, good, "POST", first=b"") == (502, 1)
    assert through(gateway, good, "DELETE", first=b"") == (502, 1)


@pytest.mark.parametrize("http2", [False, True])
@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 10\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", b"\r\nhalf"],
)
def test_what_an_agent_breaks_off_is_broken_off_for_the_client(
    gateway: Gateway, head: bytes, http2: bool
) -> None:
    async def run() -> None:
        async with answering(b"HTTP/1.1 200 OK\r\n" + head) as (address, _):
            gateway.places.found["acme"] = address
            with client(gateway, http2=http2) as session:
                await asyncio.to_thread(session.get, "/")

    if head == b"\r\nhalf":  # it ends with its connection, as HTTP/1.1 allows
        asyncio.run(run())
    else:
        with pytest.raises(httpx.RemoteProtocolError):
            asyncio.run(run())


def test_agents_headers_that_reach_beyond_their_host_are_dropped(gateway: Gateway) -> None:
    answer = (
        b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nAlt-Svc: h3=":1"\r\nClear-Site-Data: "cookies"\r\n'
        b"Set-Cookie: a=1; Domain=agents.localhost; Secure\r\nSet-Cookie: b=2;DOMAIN = .x; Path=/\r\n"
        b"Set-Cookie: __Host-Agent-Platform=stolen; Path=/\r\nSet-Cookie: plain\r\n"
        b"Content-Security-Policy: default-src 'none'\r\nX-Frame-Options: ALLOWALL\r\n\r\n"
    )

    async def run() -> httpx.Response:
        async with answering(answer) as (address, _):
            gateway.places.found["acme"] = address
            with client(gateway) as session:
                return await asyncio.to_thread(session.get, "/")

    told = asyncio.run(run()).headers
    assert not {"alt-svc", "clear-site-data"} & set(told)
    assert told.get_list("set-cookie") == ["a=1; Secure", "b=2; Path=/", "plain"]
    assert told.get_list("content-security-policy") == ["default-src 'none'", "frame-ancestors 'self'"]
    assert told["x-frame-options"] == "SAMEORIGIN"
    assert told["strict-transport-security"] == "max-age=31536000"


@pytest.mark.parametrize(
    "cookie",
    ["a" + " " * 55_000 + "x", "a=1;" + " " * 55_000 + "x", "a=1" + ";" * 55_000, " " * 55_000 + "=="],
)
def test_no_cookie_of_an_agents_keeps_envoy_busy(gateway: Gateway, cookie: str) -> None:
    """By backtracking over it: both of Envoy's workers would be out of service for everybody."""
    answer = f"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSet-Cookie: {cookie}\r\n\r\n".encode()
    for _ in range(3):
        assert through(gateway, answer)[0] == 200


@pytest.mark.parametrize(
    "cookie",
    [
        "__Host-agent-platform=x",
        " __HOST-agent-platform =x; Path=/",
        "=__Host-agent-platform=x",
        "= =__Host-agent-platform=x",
        "__Host-agent-platform",
    ],
)
def test_no_agent_sets_the_gateways_cookie(gateway: Gateway, cookie: str) -> None:
    answer = f"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSet-Cookie: {cookie}\r\n\r\n".encode()

    async def run() -> httpx.Response:
        async with answering(answer) as (address, _):
            gateway.places.found["acme"] = address
            with client(gateway) as session:
                return await asyncio.to_thread(session.get, "/")

    assert "set-cookie" not in asyncio.run(run()).headers


def test_an_upgrade_that_nobody_has_asked_for_is_the_agents_fault(gateway: Gateway) -> None:
    answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nbytes"
    assert through(gateway, answer, "POST") == (502, 1)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "POST"])
@pytest.mark.parametrize("path", ["/.gateway/sign-in", "/.gateway/x", "/.gateway/"])
def test_below_our_own_paths_nobody_finds_the_console(gateway: Gateway, method: str, path: str) -> None:
    for host in (gateway.authority(), gateway.authority("console"), "nobody"):
        answer = ask(gateway, path, method=method, host=host)
        assert "the operators' page" not in answer.text
        assert answer.status_code in (303, 401, 404)


def test_a_strangers_odd_words_are_refused_without_a_trace(gateway: Gateway) -> None:
    form = {"token": token("acme"), "target": "//["}
    assert ask(gateway, "/.gateway/sign-in", method="POST", data=form).headers["location"] == "/"
    head = {"alg": "EdDSA", "kid": "acme", "crit": ["\ud800"]}
    odd = ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (head, {}, "x")
    )
    answer = ask(gateway, headers={"Authorization": f"Bearer {odd}"})
    assert (answer.status_code, answer.text[:23]) == (401, "The token is not valid:")


def test_a_cookie_that_was_joined_to_another_is_not_shown_to_agents(gateway: Gateway) -> None:
    with client(gateway) as session:
        told = session.get("/", headers=[("Cookie", "a=1"), ("Cookie", f"{COOKIE}={token('acme')}")]).json()
    assert COOKIE not in str(told)


def test_a_browser_signs_out(gateway: Gateway) -> None:
    page = ask(gateway, "/.gateway/sign-out")
    assert page.status_code == 200 and "<form" in page.text
    own, theirs = (f"https://{gateway.authority(name)}" for name in ("acme", "globex"))
    out = ask(gateway, "/.gateway/sign-out", method="POST", headers={"Origin": own})
    assert out.status_code == 303
    assert out.headers["set-cookie"].startswith(f'{COOKIE}=""; ') and "Max-Age=0" in out.headers["set-cookie"]
    assert ask(gateway, "/.gateway/sign-out", method="POST", headers={"Origin": theirs}).status_code == 403


def test_our_own_pages_are_for_no_frame_and_plain_connections_for_nobody(gateway: Gateway) -> None:
    page = ask(gateway, headers={"Accept": "text/html"})
    assert page.headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["strict-transport-security"] == "max-age=31536000"


def test_a_token_that_lasts_for_ever_is_refused(gateway: Gateway) -> None:
    for expires in (10**2000, -(10**2000), 1e308):
        headers = {"Authorization": f"Bearer {token('acme', exp=expires)}"}
        assert ask(gateway, headers=headers).status_code == 401


def test_while_the_gateway_is_away_nobody_is_let_in(gateway: Gateway) -> None:
    gateway.run(gateway.servers.stop())
    with client(gateway) as session:
        answer = session.get("/")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.text == "Nobody can be let in right now; ask again.\n"
    assert gateway.agent.requests == []
    page = ask(gateway, "/.gateway/sign-in")
    assert (page.status_code, page.text) == (503, "The gateway is away right now; ask again.\n")
    gateway.run(gateway.servers.start())
    with client(gateway) as session:
        until(lambda: session.get("/").status_code == 200)


def held(gateway: Gateway, count: int, then: Callable[[], None]) -> list[httpx.Response]:
    """Have so many requests held, do something, and return their answers."""
    gateway.places.asleep.add("acme")

    async def run() -> list[httpx.Response]:
        headers = {"Authorization": f"Bearer {token('acme')}", "Host": gateway.authority()}
        limits = httpx.Limits(max_connections=count)
        async with httpx.AsyncClient(
            verify=gateway.trust(), headers=headers, trust_env=False, limits=limits, timeout=30
        ) as session:
            tasks = [asyncio.create_task(session.get(f"{gateway.base}/")) for _ in range(count)]
            while gateway.in_flight.count("acme") < count:
                await asyncio.sleep(0.02)
            await asyncio.to_thread(then)
            return await asyncio.gather(*tasks)

    return asyncio.run(run())


def test_who_is_held_when_the_gateway_ends_is_told_to_ask_again(gateway: Gateway) -> None:
    def stop() -> None:
        gateway.loop.call_soon_threadsafe(gateway.authorizer.stop)

    answers = held(gateway, 40, stop)
    assert {(each.status_code, each.headers["retry-after"]) for each in answers} == {(503, "2")}
    until(lambda: gateway.in_flight.count("acme") == 0)


def test_who_is_held_when_the_gateway_is_killed_is_told_to_ask_again(gateway: Gateway) -> None:
    answers = held(gateway, 40, lambda: gateway.run(gateway.servers.stop()))
    assert {(each.status_code, each.headers["retry-after"]) for each in answers} == {(503, "2")}


def test_a_body_of_nothing_that_ends_while_its_tenant_wakes_is_whole_for_the_agent(gateway: Gateway) -> None:
    gateway.places.asleep.add("acme")
    h2 = H2Connection(H2Configuration())
    h2.initiate_connection()
    headers = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", "/upload"),
        (":authority", f"acme.{DOMAIN}"),
        ("authorization", f"Bearer {token('acme')}"),
    ]
    h2.send_headers(1, headers)
    with gateway.tls("h2") as connection:
        connection.sendall(h2.data_to_send())
        until(lambda: gateway.in_flight.count("acme") == 1)
        h2.send_data(1, b"", end_stream=True)
        connection.sendall(h2.data_to_send())
        time.sleep(0.1)
        gateway.loop.call_soon_threadsafe(gateway.places.woken.set)
        events = _until_the_end(h2, connection, 1)
    assert b"".join(event.data for event in events if isinstance(event, DataReceived)) == b'{"body": 0}'
    gateway.places.asleep.clear()
    with client(gateway) as session:
        assert session.post("/upload", content=b"xyz").json() == {"body": 3}


def _until_the_end(h2: H2Connection, connection: socket.socket, stream: int) -> list[Event]:
    events: list[Event] = []
    while not any(isinstance(event, StreamEnded) and event.stream_id == stream for event in events):
        events += h2.receive_data(connection.recv(65536))
    return events


def test_a_websocket_over_http2_carries_both_ways(gateway: Gateway, redis_server: Valkey) -> None:
    h2 = H2Connection(H2Configuration())
    h2.initiate_connection()
    headers = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":path", "/socket"),
        (":authority", f"acme.{DOMAIN}"),
        ("authorization", f"Bearer {token('acme')}"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "chat"),
    ]
    with gateway.tls("h2") as connection:
        connection.sendall(h2.data_to_send())
        while not h2.remote_settings.get(SettingCodes.ENABLE_CONNECT_PROTOCOL):
            h2.receive_data(connection.recv(65536))
        h2.send_headers(1, headers)
        # A text frame with a mask of zeros.
        h2.send_data(1, b"\x81\x82\0\0\0\0hi")
        connection.sendall(h2.data_to_send())
        events: list[Event] = []
        while not any(isinstance(event, DataReceived) for event in events):
            events += h2.receive_data(connection.recv(65536))
        (head,) = (event for event in events if isinstance(event, ResponseReceived))
        assert dict(head.headers)[b":status"] == b"200"
        assert (
            b"".join(event.data for event in events if isinstance(event, DataReceived)) == b"\x81\x07ada: hi"
        )
        assert holders(redis_server) == {"gateway-7f/stream"}


def test_a_stream_is_held_through_a_restart_of_the_gateway(gateway: Gateway, redis_server: Valkey) -> None:
    with client(gateway) as session, session.stream("GET", "/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        gateway.run(gateway.servers.stop())
        gateway.run(_forget(gateway))
        redis_server.operator().delete("activity:acme:holds")
        gateway.run(gateway.servers.start())
        # Envoy speaks of it within five seconds.
        until(lambda: gateway.in_flight.count("acme") == 1, 15)
        until(lambda: holders(redis_server) == {"gateway-7f/request"})
    until(lambda: gateway.in_flight.count("acme") == 0)
    assert not gateway.holds._open


async def _forget(gateway: Gateway) -> None:
    """Know as little as a new process does."""
    gateway.in_flight.let_go(float("inf"))
    gateway.holds._holds.clear()


def test_what_began_while_redis_was_away_is_held_once_it_is_back(
    gateway: Gateway, redis_server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter = gateway.holds.enter

    async def away(*_: object) -> None:
        raise ConnectionError("Redis is away")

    monkeypatch.setattr(gateway.holds, "enter", away)
    with client(gateway) as session, session.stream("GET", "/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        assert holders(redis_server) == set()
        monkeypatch.setattr(gateway.holds, "enter", enter)
        until(lambda: holders(redis_server) == {"gateway-7f/request"}, 15)
    until(lambda: gateway.in_flight.count("acme") == 0)
    assert not gateway.holds._open


def test_what_was_in_flight_when_envoy_died_is_let_go(gateway: Gateway) -> None:
    with client(gateway) as session, session.stream("GET", "/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        gateway.envoy.kill()
        gateway.envoy.wait(10)
        with pytest.raises(httpx.HTTPError):
            list(lines)
    assert gateway.in_flight.count("acme") == 1
    gateway.loop.call_soon_threadsafe(gateway.in_flight.let_go, time.monotonic())
    until(lambda: gateway.in_flight.count("acme") == 0)


def test_a_request_that_goes_on_is_spoken_of(gateway: Gateway) -> None:
    with client(gateway) as session, session.stream("GET", "/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        began = time.monotonic()
        (asked,) = gateway.in_flight._asked.values()
        until(lambda: asked.heard > began, 10)
        gateway.loop.call_soon_threadsafe(gateway.in_flight.let_go, began)
        time.sleep(0.1)
        assert gateway.in_flight.count("acme") == 1


def test_an_end_that_comes_before_the_word_to_go_on_leaves_nothing(gateway: Gateway) -> None:
    async def run() -> int:
        await gateway.in_flight.enter("a", Asked("acme", "ada", "request"))
        gateway.in_flight.leave("a")
        gateway.in_flight.begin("a")
        return gateway.in_flight.count("acme")

    assert gateway.run(run()) == 0


def test_an_end_that_comes_before_the_request_is_judged_leaves_nothing(gateway: Gateway) -> None:
    async def run() -> int:
        gateway.in_flight.end("a")
        await gateway.in_flight.enter("a", Asked("acme", "ada", "request"))
        gateway.in_flight.begin("a")
        return gateway.in_flight.count("acme")

    assert gateway.run(run()) == 0
    assert not gateway.holds._open


def test_no_end_is_lost_in_a_burst(gateway: Gateway) -> None:
    async def run() -> None:
        headers = {"Authorization": f"Bearer {token('acme')}", "Host": gateway.authority()}
        async with httpx.AsyncClient(
            http1=False, http2=True, verify=gateway.trust(), headers=headers, trust_env=False
        ) as session:
            await asyncio.gather(*(session.get(f"{gateway.base}/") for _ in range(1500)))

    asyncio.run(run())
    until(lambda: gateway.in_flight.count("acme") == 0)
    assert gateway.statistics()["access_logs.grpc_access_log.logs_dropped"] == 0


def test_tenants_at_one_address_share_no_connection(gateway: Gateway) -> None:
    """As starters do, at the shared runtime's."""
    peers: dict[str, set[tuple[str, int]]] = {"acme": set(), "globex": set()}

    async def run() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while head := await _head(reader):
                tenant = "acme" if b"x-tenant: acme" in head else "globex"
                peers[tenant].add(writer.get_extra_info("peername"))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            gateway.places.found |= {"acme": address, "globex": address}
            with client(gateway) as mine, client(gateway, tenant="globex") as yours:
                for _ in range(10):
                    for session in (mine, yours):
                        assert (await asyncio.to_thread(session.get, "/")).status_code == 200

    asyncio.run(run())
    assert peers["acme"] and peers["globex"]
    assert not peers["acme"] & peers["globex"]
    # Kept ones are used again.
    assert sum(map(len, peers.values())) < 20


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
