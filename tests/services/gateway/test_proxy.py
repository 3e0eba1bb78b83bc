"""What goes through the gateway, and how it comes out."""

import asyncio
import ipaddress
import resource
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import jwt
import pytest
from cryptography import x509
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from services.activity.store import Standing
from services.gateway import envoy
from services.gateway.assertions import OverError
from services.gateway.states import CannotWake, StillWaking
from tests.services.gateway import harness
from tests.services.gateway.harness import KEYS, Gateway, make_certificate, token, until
from tests.services.valkey import Valkey

MIB = 2**20


@pytest.fixture
def gateway(tmp_path: Path, redis_server: Valkey) -> Iterator[Gateway]:
    with harness.gateway(tmp_path, redis_server) as running:
        yield running


def client(gateway: Gateway, *, http2: bool = False, tenant: str = "acme") -> httpx.Client:
    return httpx.Client(
        http1=not http2,
        http2=http2,
        verify=gateway.trust(),
        base_url=gateway.base,
        headers={"Authorization": f"Bearer {token(tenant)}", "Host": gateway.authority(tenant)},
        timeout=20,
        trust_env=False,
    )


def socket(gateway: Gateway) -> ClientConnection:
    address = gateway.authority()
    return connect(
        f"wss://{address}/socket?room=1",
        ssl=gateway.trust(),
        additional_headers={"Authorization": f"Bearer {token('acme')}"},
        subprotocols=["chat"],  # type: ignore[list-item]
        proxy=None,
        sock=gateway.tcp(),
    )


@pytest.mark.parametrize("http2", [False, True])
def test_headers_that_only_the_gateway_may_say(gateway: Gateway, http2: bool) -> None:
    theirs = {
        "X-Tenant": "globex",
        "x_subject": "root",
        "X-Forwarded-For": "1.2.3.4",
        "Forwarded": "for=1.2.3.4",
        "X-Request-Id": "theirs",
        "X-Assertion": "theirs",
        "x_gateway": "https://theirs",
        "Cookie": "a=1; __Host-agent-platform=secret; b=2",
        "X-Kept": "yes",
    }
    with client(gateway, http2=http2) as session:
        answer = session.get("/some%2Fpath/x?q=%20", headers=theirs)
    assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
    told = answer.json()
    headers = {name.lower(): value for name, value in told["headers"]}
    assert len(headers) == len(told["headers"])
    assert told["target"] == "/some%2Fpath/x?q=%20"
    assert headers["x-tenant"] == "acme" and headers["x-subject"] == "ada"
    assert ipaddress.ip_address(headers["x-forwarded-for"]) != ipaddress.ip_address("1.2.3.4")
    assert headers["x-forwarded-proto"] == "https"
    assert headers["host"] == headers["x-forwarded-host"] == gateway.authority()
    assert headers["x-request-id"] != "theirs" and headers["x-kept"] == "yes"
    assert headers["cookie"] == "a=1; b=2"
    assert not {"authorization", "forwarded", "x_subject", "connection"} & set(headers)
    # It has a machine, which enters Vault with an account of its own.
    assert not {"x-assertion", "x-gateway", "x_gateway"} & set(headers)
    assert answer.headers["set-cookie"] == "a=b; Path=/"
    # All that is for one connection only, but for what an agent says is: Envoy passes that on.
    assert not {"connection", "keep-alive", "transfer-encoding"} & set(answer.headers) or not http2


@pytest.mark.parametrize("http2", [False, True])
def test_the_shared_runtime_gets_a_word_for_the_one_request(gateway: Gateway, http2: bool) -> None:
    with client(gateway, tenant="robin", http2=http2) as session:
        theirs = {"X-Assertion": "theirs", "x_assertion": "theirs", "X-Gateway": "https://theirs"}
        told = [session.get("/", headers=theirs).json()["headers"] for _ in range(2)]
    first, second = ({name.lower(): value for name, value in headers} for headers in told)
    assert [len(headers) for headers in told] == [len(first), len(second)]
    assert "x_assertion" not in first
    assert first["x-gateway"] == "https://192.0.2.7:8444"
    claims = jwt.decode(
        first["x-assertion"],
        KEYS["assertions"].public_key(),
        algorithms=["EdDSA"],
        audience="vault",
        issuer="gateway",
        options={"require": ["exp", "nbf", "iat", "jti", "sub"]},
    )
    assert (claims["tenant"], claims["sub"]) == ("robin", "ada")
    assert claims["exp"] - claims["iat"] == 60
    assert first["x-assertion"] != second["x-assertion"]
    until(lambda: gateway.in_flight.count("robin") == 0)
    for headers in (first, second):
        with pytest.raises(OverError, match="is over"):
            gateway.assertions.renewed(headers["x-assertion"])


@pytest.mark.parametrize("http2", [False, True])
def test_bodies_with_and_without_a_length(gateway: Gateway, http2: bool) -> None:
    with client(gateway, http2=http2) as session:
        assert session.post("/upload", content=b"x" * 300_000).json() == {"body": 300_000}
        assert session.post("/upload", content=iter([b"x" * 200_000] * 3)).json() == {"body": 600_000}
        assert session.post("/upload").json() == {"body": 0}
        assert session.head("/download?mib=1").status_code == 200
        assert session.request("DELETE", "/x", content=b"y").json()["body"] == 1
        assert len(session.get("/download?mib=3").content) == 3 * MIB


@pytest.mark.parametrize("http2", [False, True])
def test_a_large_upload_and_download_leave_no_trace_in_memory(gateway: Gateway, http2: bool) -> None:
    def pieces() -> Iterator[bytes]:
        piece = b"x" * MIB
        for _ in range(200):
            yield piece

    with client(gateway, http2=http2) as session:
        session.get("/")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answer = session.post("/upload", content=pieces(), headers={"Content-Length": str(200 * MIB)})
        assert answer.json() == {"body": 200 * MIB}
        size = 0
        with session.stream("GET", "/download?mib=50") as stream:
            for piece in stream.iter_raw():
                size += len(piece)
        assert size == 50 * MIB
        # Client, gateway and agent together: all of them are in this process.
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 48 * 1024


@pytest.mark.parametrize("http2", [False, True])
def test_a_slow_reader_slows_the_agent(gateway: Gateway, http2: bool) -> None:
    with client(gateway, http2=http2) as session, session.stream("GET", "/download?mib=100") as stream:
        next(stream.iter_raw(1024))
        written = -1
        while gateway.agent.connections != written:
            written = gateway.agent.connections
            gateway.run(asyncio.sleep(0.3))
        assert written < 100 * 16 / 2


@pytest.mark.parametrize("http2", [False, True])
def test_server_sent_events_come_one_by_one(gateway: Gateway, http2: bool) -> None:
    with client(gateway, http2=http2) as session, session.stream("GET", "/events") as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        seen = []
        for line in stream.iter_lines():
            if line:
                seen.append(line)
                gateway.loop.call_soon_threadsafe(gateway.agent.cut.set)
    assert seen == ["data: 0", "data: 1", "data: 2"]


@pytest.mark.parametrize("http2", [False, True])
def test_an_answer_that_breaks_off_does_not_look_whole(gateway: Gateway, http2: bool) -> None:
    with client(gateway, http2=http2) as session, pytest.raises(httpx.RemoteProtocolError):
        session.get("/broken")


def test_an_early_answer_reaches_who_is_still_sending(gateway: Gateway) -> None:
    with client(gateway) as session:
        answer = session.post("/early", content=b"x" * 3_000_000)
        assert (answer.status_code, answer.text) == (422, "no")
        assert session.get("/").status_code == 200


def test_redirects_are_the_clients_to_follow(gateway: Gateway) -> None:
    with client(gateway) as session:
        answer = session.get("/elsewhere")
    assert answer.status_code == 302
    assert answer.headers["location"] == "http://169.254.169.254/"
    assert "alt-svc" not in answer.headers


def test_many_requests_share_one_http2_connection(gateway: Gateway) -> None:
    async def run() -> list[int]:
        headers = {"Authorization": f"Bearer {token('acme')}", "Host": gateway.authority()}
        async with httpx.AsyncClient(
            http1=False, http2=True, verify=gateway.trust(), headers=headers, trust_env=False
        ) as session:
            url = f"{gateway.base}/upload"
            answers = await asyncio.gather(*(session.post(url, content=b"x" * 5000) for _ in range(100)))
        return [answer.json()["body"] for answer in answers]

    assert asyncio.run(run()) == [5000] * 100
    assert gateway.connections <= 1


def test_a_websocket_carries_both_ways(gateway: Gateway) -> None:
    with socket(gateway) as ours:
        assert ours.subprotocol == "chat"
        ours.send("hello")
        assert ours.recv() == "ada: hello"
        ours.send(b"\0" * 500_000)
        assert ours.recv() == b"\0" * 500_000
        held = gateway.run(gateway.holds.activity.enter([("acme", "test/request")]))
        assert held == [Standing(generation=0, claim=None)]
        ours.send("close")
        with pytest.raises(ConnectionClosedError) as closed:
            ours.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "enough")


def test_the_code_a_client_closes_a_websocket_with_reaches_the_agent(gateway: Gateway) -> None:
    with socket(gateway) as ours:
        ours.send("hello")
        ours.recv()
        ours.close(4321, "done")
    until(lambda: gateway.agent.closed_with == [4321])


def test_a_websocket_is_refused_without_a_token(gateway: Gateway) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(f"wss://{gateway.authority()}/socket", ssl=gateway.trust(), sock=gateway.tcp())
    assert refused.value.response.status_code == 401
    assert gateway.agent.requests == []


def test_a_program_is_held_and_then_told_when_to_ask_again(gateway: Gateway) -> None:
    gateway.places.found["acme"] = StillWaking("boot", 60, 3)
    with client(gateway) as session:
        answer = session.get("/")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
        assert gateway.places.asked == [("acme", 60)]
        gateway.places.found["acme"] = CannotWake("no-capacity", "no node has room", 20)
        answer = session.get("/")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "20")
        assert "no-capacity" in answer.text


def test_a_browser_is_shown_a_page_instead(gateway: Gateway) -> None:
    gateway.places.found["acme"] = StillWaking("boot", 3, 2)
    with client(gateway) as session:
        answer = session.get("/", headers={"Accept": "text/html,*/*"})
    assert answer.status_code == 503
    assert answer.headers["content-type"].startswith("text/html")
    assert gateway.places.asked[0][1] < 1


def test_a_suspended_tenant_is_never_woken(gateway: Gateway) -> None:
    with client(gateway, tenant="paused") as session:
        assert session.get("/").status_code == 403
    assert gateway.places.asked == []


def test_an_agent_that_takes_no_connection_is_looked_for_anew(gateway: Gateway) -> None:
    gateway.places.found["acme"] = "http://127.0.0.1:9"
    with client(gateway) as session:
        answer = session.get("/")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.text == "acme takes no connections right now; ask again.\n"
    until(lambda: gateway.places.invalidated == ["acme"])


def test_a_new_certificate_serves_from_the_next_handshake_on(gateway: Gateway) -> None:
    def serial() -> int:
        try:
            with gateway.tls() as connection:
                certificate = connection.getpeercert(binary_form=True)
        except ssl.SSLCertVerificationError:
            return 0  # the new one is on disk, and the one before is shown
        assert certificate is not None
        return x509.load_der_x509_certificate(certificate).serial_number

    assert serial() == 1
    make_certificate(gateway.folder, 2)
    until(lambda: serial() == 2)
    # As a certificate that does not fit its key: the one before stays in service.
    (gateway.folder / "new.key").write_text("half written")
    (gateway.folder / "new.key").replace(gateway.folder / "tls.key")
    until(lambda: "Failed to reload certificates" in (gateway.folder / "envoy.log").read_text())
    assert serial() == 2


def test_draining_lets_answers_end_and_keeps_no_connection(gateway: Gateway) -> None:
    with client(gateway) as session, session.stream("GET", "/events") as stream:
        lines = (line for line in stream.iter_lines() if line)
        assert next(lines) == "data: 0"
        gateway.run(envoy.drain(gateway.folder / "admin.sock"))
        seen = []
        gateway.loop.call_soon_threadsafe(gateway.agent.cut.set)
        for line in lines:
            seen.append(line)
            gateway.loop.call_soon_threadsafe(gateway.agent.cut.set)
        assert seen == ["data: 1", "data: 2"]
        # What is kept open ends with its next answer.
        assert session.get("/").headers["connection"] == "close"
    until(lambda: gateway.in_flight.count("acme") == 0)
