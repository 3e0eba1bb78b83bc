"""What is no clean request is refused or cleaned over HTTP/1.1 and HTTP/2; each case says which."""

import contextlib
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError

from tests.services.gateway import harness
from tests.services.gateway.harness import DOMAIN, Gateway, token
from tests.services.valkey import Valkey

HOST = f"acme.{DOMAIN}"


@dataclass
class RawAgent:
    """An agent that answers whatever comes, and keeps what came byte by byte."""

    received: list[bytes] = field(default_factory=list)
    address: str = ""

    @property
    def heads(self) -> list[bytes]:
        """Return the first line of each request received."""
        return [line for data in self.received for line in data.split(b"\r\n") if line.endswith(b" HTTP/1.1")]


@pytest.fixture(scope="module")
def agent() -> Iterator[RawAgent]:
    found = RawAgent()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            data = b""
            self.request.settimeout(1)
            with contextlib.suppress(OSError):
                while piece := self.request.recv(65536):
                    data += piece
                    if b"\r\n\r\n" in data:
                        break
            with contextlib.suppress(OSError):
                while b"content-length" in data.lower() or b"chunked" in data.lower():
                    piece = self.request.recv(65536)
                    data += piece
                    if not piece or data.endswith((b"0\r\n\r\n", b"hello")):
                        break
            found.received.append(data)
            with contextlib.suppress(OSError):
                self.request.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nanswer"
                )

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        found.address = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found
        server.shutdown()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, server: Valkey, agent: RawAgent) -> Iterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp("gateway")
    server.set_clock(time.time())
    # Refused clients are waited for a second, which here is most of the time.
    shorter = {'"delayed_close_timeout": "1s"': '"delayed_close_timeout": "0.02s"'}
    with harness.gateway(folder, server, replaced=shorter) as running:
        running.places.found["acme"] = running.places.found["globex"] = agent.address
        yield running


@pytest.fixture(autouse=True)
def _nothing_received(agent: RawAgent) -> None:
    agent.received.clear()


def request(line: str = "GET / HTTP/1.1", *headers: str, tenant: str = "acme") -> bytes:
    common = (f"Host: {tenant}.{DOMAIN}", f"Authorization: Bearer {token(tenant)}")
    return "\r\n".join((line, *common, *headers, "", "")).encode("latin-1")


def talk(gateway: Gateway, data: bytes) -> bytes:
    """Send over HTTP/1.1; return all that comes until the edge closes the connection."""
    answer = b""
    with gateway.tls("http/1.1") as connection, contextlib.suppress(ConnectionError, ssl.SSLError):
        connection.sendall(data)
        while piece := connection.recv(65536):
            answer += piece
    return answer


CHUNKED = "Transfer-Encoding: chunked"
POST = "POST / HTTP/1.1"
END = b"0\r\n\r\n"
SMUGGLED = request("GET /smuggled HTTP/1.1", "Connection: close")

REFUSED: dict[str, bytes] = {
    "a length and chunks": request(POST, "Content-Length: 5", CHUNKED) + END,
    "chunks and a length": request(POST, CHUNKED, "Content-Length: 5") + END,
    "two lengths": request(POST, "Content-Length: 5", "Content-Length: 6") + b"hello",
    "a length with a sign": request(POST, "Content-Length: +5") + b"hello",
    "a negative length": request(POST, "Content-Length: -5") + b"hello",
    "a length in hexadecimal": request(POST, "Content-Length: 0x5") + b"hello",
    "a length with a fraction": request(POST, "Content-Length: 5.0") + b"hello",
    "a length that is no number": request(POST, "Content-Length: five") + b"hello",
    "a length of twenty digits": request(POST, "Content-Length: 99999999999999999999") + b"hello",
    "a list of two lengths": request(POST, "Content-Length: 5, 6") + b"hello",
    "a length with a space within": request(POST, "Content-Length: 5 5") + b"hello",
    "another coding first": request(POST, "Transfer-Encoding: gzip, chunked") + END,
    "another coding last": request(POST, "Transfer-Encoding: chunked, gzip") + END,
    "a coding like chunked": request(POST, "Transfer-Encoding: xchunked") + END,
    "a coding in quotes": request(POST, 'Transfer-Encoding: "chunked"') + END,
    "identity": request(POST, "Transfer-Encoding: identity", "Content-Length: 5") + b"hello",
    "a space before the colon": request(POST, "Transfer-Encoding : chunked") + END,
    "a tab before the colon": request(POST, "Transfer-Encoding\t: chunked") + END,
    "a vertical tab in a coding": request(POST, "Transfer-Encoding: \x0bchunked") + END,
    "two codings": request(POST, CHUNKED, CHUNKED) + END,
    "chunks in HTTP/1.0": request("POST / HTTP/1.0", CHUNKED) + END,
    "HTTP/1.0": request("GET / HTTP/1.0"),
    "a zero byte in a value": request("GET / HTTP/1.1", "X: a\0b"),
    "a control character in a name": request("GET / HTTP/1.1", "X\x01: a"),
    "a space in a name": request("GET / HTTP/1.1", "X Y: a"),
    "a name that is empty": request("GET / HTTP/1.1", ": a"),
    "a line without a colon": request("GET / HTTP/1.1", "X"),
    "a header before the first line": b"X: a\r\n" + request(),
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "CONNECT": request("CONNECT 10.0.0.1:80 HTTP/1.1"),
    "TRACE": request("TRACE / HTTP/1.1"),
    "an unknown method": request("SMUGGLE / HTTP/1.1"),
    "a method of other letters": request("G\xc9T / HTTP/1.1"),
    "a lower-case method": request("get / HTTP/1.1"),
    "a target without a slash": request("GET 10.0.0.1 HTTP/1.1"),
    "a target with a fragment": request("GET /a#b HTTP/1.1"),
    "a target with a space": request("GET /a b HTTP/1.1"),
    "a target with a tab": request("GET /a\tb HTTP/1.1"),
    "a target with a control character": request("GET /a\x01b HTTP/1.1"),
    "a target of other letters": request("GET /\xe9 HTTP/1.1"),
    "no version": request("GET /"),
    "a version to come": request("GET / HTTP/3.0"),
    "a version of two digits": request("GET / HTTP/1.10"),
    "another protocol": b"\x16\x03\x01 no HTTP at all\r\n\r\n",
    "a large header": request("GET / HTTP/1.1", f"X: {'a' * 40_000}"),
    "many headers": request("GET / HTTP/1.1", *(f"X-{number}: a" for number in range(150))),
    "a long target": request(f"GET /{'a' * 40_000} HTTP/1.1"),
}
"""Over HTTP/1.1: nobody can say for sure where the request ends, so nothing after it is read."""


@pytest.mark.parametrize("case", REFUSED)
def test_over_http1_it_is_refused_and_nothing_after_it_is_read(
    gateway: Gateway, agent: RawAgent, case: str
) -> None:
    answer = talk(gateway, REFUSED[case] + SMUGGLED)

    assert b"HTTP/1.1 200" not in answer
    assert agent.received == []


ANSWERED: dict[str, bytes] = {
    "two hosts": request("GET / HTTP/1.1", f"Host: globex.{DOMAIN}"),
    "an empty host": request().replace(HOST.encode(), b""),
    "a host of another's in the target": request(f"GET http://globex.{DOMAIN}/ HTTP/1.1"),
    "a target that is a star": request("OPTIONS * HTTP/1.1"),
}
"""Over HTTP/1.1: a whole request, but for nobody; it is refused, and the next one is another."""


@pytest.mark.parametrize("case", ANSWERED)
def test_over_http1_what_is_for_nobody_reaches_nobody(gateway: Gateway, agent: RawAgent, case: str) -> None:
    answer = talk(gateway, ANSWERED[case] + SMUGGLED)

    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 401", b"HTTP/1.1 404"))
    assert agent.heads == [b"GET /smuggled HTTP/1.1"]


CLEANED: dict[str, tuple[bytes, bytes, bytes]] = {
    "a folded header": (request("GET / HTTP/1.1", "X: a\r\n folded"), b"\r\nx: a folded\r\n", b"\n folded"),
    "a folded length": (
        request(POST, "Content-Length:\r\n 5") + b"hello",
        b"\r\ncontent-length: 5\r\n",
        b"\n 5",
    ),
    "a bare line feed in a value": (
        request("GET / HTTP/1.1", "X: a\nY: b"),
        b"\r\nx: a\r\ny: b\r\n",
        b"a\ny",
    ),
    "a bare carriage return in a value": (
        request("GET / HTTP/1.1", "X: a\rY: b"),
        b"\r\nx: aY: b\r\n",
        b"a\ry",
    ),
    "a chunk longer than it says": (
        request(POST, CHUNKED) + b"5\r\nhelloX\r\n" + END,
        b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"hellox",
    ),
    "bytes after a body": (
        request(POST, "Content-Length: 5") + b"helloXX\r\n\r\n",
        b"content-length: 5",
        b"XX",
    ),
    "an absolute target": (request(f"GET http://{HOST}/x?y HTTP/1.1"), b"GET /x?y HTTP/1.1", b"http://"),
    "a path with dots": (request("GET /a/../b/./c HTTP/1.1"), b"GET /b/c HTTP/1.1", b".."),
    "a path with encoded dots": (request("GET /a/%2e%2e/b HTTP/1.1"), b"GET /b HTTP/1.1", b"%2e"),
    "an encoded slash": (request("GET /a%2Fb HTTP/1.1"), b"GET /a%2Fb HTTP/1.1", b"GET /a/b"),
    "an underscore in a name": (request("GET / HTTP/1.1", "x_tenant: globex"), b"x-tenant: acme", b"globex"),
    "a tenant of its own": (request("GET / HTTP/1.1", "X-Tenant: globex"), b"x-tenant: acme", b"globex"),
    "a subject of its own": (request("GET / HTTP/1.1", "X-Subject: root"), b"x-subject: ada", b"root"),
    "an address of its own": (
        request("GET / HTTP/1.1", "X-Envoy-Original-Dst-Host: 127.0.0.1:1"),
        b"x-envoy-original-dst-host: 127.0.0.1:",
        b"127.0.0.1:1\r\n",
    ),
    "our cookie": (
        request("GET / HTTP/1.1", "Cookie: __Host-agent-platform=x; a=b"),
        b"cookie: a=b",
        b"__Host",
    ),
    "only our cookie": (request("GET / HTTP/1.1", "Cookie: __Host-agent-platform=x"), b"GET /", b"cookie"),
    "a token": (request(), b"GET / HTTP/1.1", b"authorization"),
    "a proxy's credentials": (request("GET / HTTP/1.1", "Proxy-Authorization: x"), b"GET /", b"proxy-auth"),
    "headers named in Connection": (
        request("GET / HTTP/1.1", "Connection: x-tenant, x-subject"),
        b"x-tenant: acme",
        b"connection:",
    ),
    "an upgrade to HTTP/2": (
        request(
            "GET / HTTP/1.1", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMA"
        ),
        b"GET / HTTP/1.1",
        b"h2c",
    ),
    "an expectation in capitals": (
        request(POST, "Expect: 100-CONTINUE", "Content-Length: 5") + b"hello",
        b"content-length: 5",
        b"100-",
    ),
    "a forwarded header": (request("GET / HTTP/1.1", "Forwarded: for=1.2.3.4"), b"GET /", b"1.2.3.4"),
    "a forwarded address": (request("GET / HTTP/1.1", "X-Forwarded-For: 1.2.3.4"), b"GET /", b"1.2.3.4"),
    "a forwarded protocol": (
        request("GET / HTTP/1.1", "X-Forwarded-Proto: http"),
        b"x-forwarded-proto: https",
        b"proto: http\r\n",
    ),
    "a request's id": (request("GET / HTTP/1.1", "X-Request-Id: theirs"), b"x-request-id: ", b"theirs"),
    "chunks": (
        request(POST, CHUNKED) + b"5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"content-length",
    ),
    "trailers": (
        request(POST, CHUNKED) + b"5\r\nhello\r\n0\r\nX-Tenant: globex\r\n\r\n",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"globex",
    ),
    "an extension of a chunk": (
        request(POST, CHUNKED) + b"5;x=y\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"x=y",
    ),
}
"""Over HTTP/1.1: what is sent, what the agent receives, and what it does not."""


@pytest.mark.parametrize("case", CLEANED)
def test_over_http1_the_agent_receives_one_clean_request(
    gateway: Gateway, agent: RawAgent, case: str
) -> None:
    sent, has, lacks = CLEANED[case]

    talk(gateway, sent + SMUGGLED)

    received, *others = agent.received
    assert has in received
    assert lacks.lower() not in received.lower()
    assert [data.partition(b"\r\n")[0] for data in others] in ([], [b"GET /smuggled HTTP/1.1"])


BROKEN: dict[str, bytes] = {
    "a chunk without its length": request(POST, CHUNKED) + b"\r\nhello\r\n" + END,
    "a chunk's length that is none": request(POST, CHUNKED) + b"x\r\nhello\r\n" + END,
    "a chunk that ends in a line feed": request(POST, CHUNKED) + b"5\nhello\r\n" + END,
    "a chunk of a negative length": request(POST, CHUNKED) + b"-5\r\nhello\r\n" + END,
    "a chunk of seventeen digits": request(POST, CHUNKED) + b"1" + b"0" * 16 + b"\r\nhello\r\n" + END,
}
"""Over HTTP/1.1: the head is clean, what follows is not."""


@pytest.mark.parametrize("case", BROKEN)
def test_over_http1_a_broken_body_is_broken_off_for_the_agent(
    gateway: Gateway, agent: RawAgent, case: str
) -> None:
    answer = talk(gateway, BROKEN[case] + SMUGGLED)

    assert not answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 502"))
    time.sleep(0.1)
    assert not any(b"smuggled" in data or data.endswith(END) for data in agent.received)


def test_requests_sent_at_once_are_answered_in_order(gateway: Gateway, agent: RawAgent) -> None:
    answer = talk(gateway, request("GET /1 HTTP/1.1") + request("GET /2 HTTP/1.1", "Connection: close"))

    assert answer.count(b"HTTP/1.1 200") == 2
    assert agent.heads == [b"GET /1 HTTP/1.1", b"GET /2 HTTP/1.1"]


Headers = Sequence[tuple[str, str]]


def ask(gateway: Gateway, *headers: tuple[str, str], body: bytes | None = None, **pseudo: str) -> int:
    """Ask over HTTP/2, whatever the headers; return the status, 0 if the stream or connection was ended."""
    lines = {
        ":method": "GET" if body is None else "POST",
        ":scheme": "https",
        ":path": "/",
        ":authority": HOST,
        **{f":{name}": value for name, value in pseudo.items()},
    }
    plain = (("authorization", f"Bearer {token('acme')}"), *headers)
    return exchange(gateway, [*((k, v) for k, v in lines.items() if v != "-"), *plain], body)


def exchange(gateway: Gateway, headers: Headers, body: bytes | None) -> int:
    unchecked = H2Configuration(
        validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding=None
    )
    h2 = H2Connection(unchecked)
    h2.initiate_connection()
    h2.send_headers(1, headers, end_stream=body is None)
    if body is not None:
        h2.send_data(1, body, end_stream=True)
    with gateway.tls("h2") as connection:
        connection.settimeout(5)
        with contextlib.suppress(OSError, ProtocolError, ssl.SSLError):
            connection.sendall(h2.data_to_send())
            status = 0
            while data := connection.recv(65536):
                for event in h2.receive_data(data):
                    if isinstance(event, ResponseReceived):
                        status = int(dict(event.headers)[b":status"])
                    elif isinstance(event, StreamEnded | StreamReset):
                        return status if isinstance(event, StreamEnded) else 0
                    elif isinstance(event, DataReceived):
                        h2.acknowledge_received_data(event.flow_controlled_length, 1)
                connection.sendall(h2.data_to_send())
    return 0


REFUSED2: dict[str, tuple[Headers, dict[str, str], bytes | None]] = {
    "a length that is too long": ([("content-length", "6")], {}, b"hello"),
    "a length that is too short": ([("content-length", "4")], {}, b"hello"),
    "two lengths": ([("content-length", "5"), ("content-length", "6")], {}, b"hello"),
    "a length that is no number": ([("content-length", "five")], {}, b"hello"),
    "a length with a sign": ([("content-length", "+5")], {}, b"hello"),
    "Transfer-Encoding": ([("transfer-encoding", "chunked")], {}, b"hello"),
    "Connection": ([("connection", "close")], {}, None),
    "Keep-Alive": ([("keep-alive", "1")], {}, None),
    "Proxy-Connection": ([("proxy-connection", "close")], {}, None),
    "Upgrade": ([("upgrade", "websocket")], {}, None),
    "TE of something else": ([("te", "gzip")], {}, None),
    "a capital in a name": ([("X-Capital", "a")], {}, None),
    "a line feed in a value": ([("x", "a\nb: c")], {}, None),
    "a carriage return in a value": ([("x", "a\rb")], {}, None),
    "a line's end in a value": ([("x", "a\r\nhost: globex")], {}, None),
    "a zero byte in a value": ([("x", "a\0b")], {}, None),
    "a line's end in a name": ([("x\r\ny", "a")], {}, None),
    "a colon in a name": ([("x:y", "a")], {}, None),
    "a space in a name": ([("x y", "a")], {}, None),
    "an empty name": ([("", "a")], {}, None),
    "a second path": ([(":path", "/b")], {}, None),
    "a pseudo-header after the others": ([(":method", "GET")], {}, None),
    "an unknown pseudo-header": ([(":x", "a")], {}, None),
    "a status": ([(":status", "200")], {}, None),
    "no method": ([], {"method": "-"}, None),
    "no scheme": ([], {"scheme": "-"}, None),
    "no path": ([], {"path": "-"}, None),
    "no host at all": ([], {"authority": "-"}, None),
    "an empty path": ([], {"path": ""}, None),
    "a path without a slash": ([], {"path": "a"}, None),
    "a star": ([], {"path": "*", "method": "OPTIONS"}, None),
    "a path with a space": ([], {"path": "/a b"}, None),
    "a request in the path": ([], {"path": "/ HTTP/1.1\r\nhost: globex\r\n\r\n"}, None),
    "a path with a line feed": ([], {"path": "/a\nb"}, None),
    "a path with a control character": ([], {"path": "/a\x01b"}, None),
    "a path with DEL": ([], {"path": "/a\x7fb"}, None),
    "a path with a fragment": ([], {"path": "/a#b"}, None),
    "a method with a space": ([], {"method": "GET /x"}, None),
    "a method with a line's end": ([], {"method": "GET / HTTP/1.1\r\nx: y"}, None),
    "a method of other letters": ([], {"method": "\xe9"}, None),
    "an unknown method": ([], {"method": "SMUGGLE"}, None),
    "CONNECT": ([], {"method": "CONNECT", "scheme": "-", "path": "-"}, None),
    "TRACE": ([], {"method": "TRACE"}, None),
    "a host with a path": ([], {"authority": f"{HOST}/x"}, None),
    "a host with credentials": ([], {"authority": f"x@{HOST}"}, None),
    "a host with a space": ([], {"authority": f"{HOST} x"}, None),
    "two hosts in one": ([], {"authority": f"{HOST},globex.{DOMAIN}"}, None),
    "a large header": ([("x", "a" * 40_000)], {}, None),
    "many headers": ([(f"x-{number}", "a") for number in range(150)], {}, None),
    "a long path": ([], {"path": f"/{'a' * 40_000}"}, None),
}
"""Over HTTP/2: refused, and no agent hears of it."""


@pytest.mark.parametrize("case", REFUSED2)
def test_over_http2_it_is_refused(gateway: Gateway, agent: RawAgent, case: str) -> None:
    headers, pseudo, body = REFUSED2[case]

    status = ask(gateway, *headers, body=body, **pseudo)

    assert status != 200
    assert not any(b"hello" in data and data.endswith((b"hello", END)) for data in agent.received)
    assert body is not None or agent.received == []


CLEANED2: dict[str, tuple[Headers, dict[str, str], bytes | None, bytes, bytes]] = {
    "a body": ([("content-length", "5")], {}, b"hello", b"content-length: 5", b"chunked"),
    "a body without a length": ([], {}, b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"content-length"),
    "a body of nothing": ([], {}, b"", b"POST / HTTP/1.1", b"smuggled"),
    "an underscore in a name": ([("x_tenant", "globex")], {}, None, b"x-tenant: acme", b"globex"),
    "a tenant of its own": ([("x-tenant", "globex")], {}, None, b"x-tenant: acme", b"globex"),
    "an address of its own": (
        [("x-envoy-original-dst-host", "127.0.0.1:1")],
        {},
        None,
        b"x-tenant: acme",
        b"127.0.0.1:1\r\n",
    ),
    "a cookie in pieces": (
        [("cookie", "a=1"), ("cookie", "b=2")],
        {},
        None,
        b"cookie: a=1; b=2\r\n",
        b"cookie: b",
    ),
    "our cookie in pieces": (
        [("cookie", "a=1"), ("cookie", "__Host-agent-platform=x")],
        {},
        None,
        b"cookie: a=1\r\n",
        b"__Host",
    ),
    "Host instead of :authority": ([("host", HOST)], {"authority": "-"}, None, b"x-tenant: acme", b"globex"),
    "another host in Host": (
        [("host", f"globex.{DOMAIN}")],
        {},
        None,
        b"\r\nhost: acme.",
        b"globex",
    ),
    "a path of other letters": ([], {"path": "/\xe9"}, None, b"GET /%C3%A9 HTTP/1.1", b"\xc3"),
    "a path with dots": ([], {"path": "/a/../b"}, None, b"GET /b HTTP/1.1", b".."),
    "TE of trailers": ([("te", "trailers")], {}, None, b"x-tenant: acme", b"gzip"),
    "a forwarded address": ([("x-forwarded-for", "1.2.3.4")], {}, None, b"x-forwarded-for: ", b"1.2.3.4"),
}
"""Over HTTP/2: what is sent, what the agent receives, and what it does not."""


@pytest.mark.parametrize("case", CLEANED2)
def test_over_http2_the_agent_receives_one_clean_request(
    gateway: Gateway, agent: RawAgent, case: str
) -> None:
    headers, pseudo, body, has, lacks = CLEANED2[case]

    assert ask(gateway, *headers, body=body, **pseudo) == 200

    (received,) = agent.received
    assert has in received
    assert lacks.lower() not in received.lower()
    assert len(agent.heads) == 1
