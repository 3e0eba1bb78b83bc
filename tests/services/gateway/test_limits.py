"""Raw sockets against the gateway: what is no clean request is refused, what takes too long is ended."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.gateway.settings import Limits
from tests.services.gateway import harness
from tests.services.gateway.harness import Gateway, token, until
from tests.services.valkey import Valkey

LIMITS = Limits(body=1000, head_seconds=0.5, keep_alive_seconds=0.5, stall_seconds=0.5, connections=20)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, server: Valkey) -> Iterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp("gateway")
    server.set_clock(time.time())
    with harness.gateway(folder, server, LIMITS) as running:
        yield running


def request(line: str = "GET / HTTP/1.1", *headers: str) -> bytes:
    common = ("Host: acme.agents.localhost", f"Authorization: Bearer {token('acme')}")
    return "\r\n".join((line, *common, *headers, "", "")).encode()


def talk(gateway: Gateway, *pieces: bytes) -> bytes:
    """Send, and return all that comes until the gateway closes."""
    answer = b""
    with gateway.tls("http/1.1") as connection:
        for piece in pieces:
            connection.sendall(piece)
        try:
            while data := connection.recv(65536):
                answer += data
        except OSError:
            pass
    return answer


CHUNKED = "Transfer-Encoding: chunked"
POST = "POST / HTTP/1.1"
END = b"0\r\n\r\n"


@pytest.mark.parametrize(
    "bad",
    [
        request(POST, "Content-Length: 5", CHUNKED) + END,
        request(POST, CHUNKED, "Content-Length: 5") + END,
        request(POST, "Content-Length: 5", "Content-Length: 6") + b"hello",
        request(POST, "Content-Length: +5") + b"hello",
        request(POST, "Content-Length: 5, 5") + b"hello",
        request(POST, "Transfer-Encoding: gzip, chunked") + END,
        request(POST, "Transfer-Encoding: xchunked") + END,
        request(POST, "Transfer-Encoding : chunked") + END,
        request(POST, CHUNKED, CHUNKED) + END,
        request("POST / HTTP/1.0", CHUNKED) + END,
        request("GET / HTTP/1.1", "X: a\r\n folded"),
        request("GET / HTTP/1.1", "X: a\nY: b"),
        request().replace(b"\r\n", b"\n"),
        request("GET / HTTP/1.1", "X: a\0b"),
        request("GET / HTTP/1.1", "Host: globex.agents.localhost"),
        b"GET / HTTP/1.1\r\n\r\n",
        request("GET http://globex.agents.localhost/ HTTP/1.1"),
        request("CONNECT 10.0.0.1:80 HTTP/1.1"),
        request("GET 10.0.0.1 HTTP/1.1"),
        request("OPTIONS * HTTP/1.1"),
        request("GET / HTTP/3.0"),
        request("POST / HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket", "Content-Length: 3") + b"abc",
        b"\x16\x03\x01 no HTTP at all\r\n\r\n",
    ],
)
def test_an_unclean_request_is_refused_and_nothing_after_it_is_read(gateway: Gateway, bad: bytes) -> None:
    gateway.agent.requests.clear()
    answer = talk(gateway, bad + request("GET /smuggled HTTP/1.1"))
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 405", b"HTTP/1.1 505"))
    assert answer.count(b"HTTP/1.1 ") == 1
    assert gateway.agent.requests == []


def test_a_broken_chunk_breaks_the_request_off(gateway: Gateway) -> None:
    gateway.agent.requests.clear()
    answer = talk(
        gateway, request(POST, CHUNKED) + b"5\nhello\r\n0\r\n\r\n" + request("GET /smuggled HTTP/1.1")
    )
    assert b"200" not in answer
    assert "GET /smuggled" not in gateway.agent.requests


def test_requests_sent_at_once_are_answered_in_order(gateway: Gateway) -> None:
    answer = talk(gateway, request("GET /1 HTTP/1.1") + request("GET /2 HTTP/1.1", "Connection: close"))
    assert answer.count(b"HTTP/1.1 200") == 2
    assert answer.index(b'"/1"') < answer.index(b'"/2"')


def test_the_host_of_an_absolute_target_is_taken_if_there_is_one_host_only(gateway: Gateway) -> None:
    line = "GET http://acme.agents.localhost/x?y HTTP/1.1"
    assert b'"/x?y"' in talk(gateway, request(line, "Connection: close"))


def test_a_large_head_is_refused(gateway: Gateway) -> None:
    assert talk(gateway, request("GET / HTTP/1.1", f"X: {'a' * 40_000}")).startswith(b"HTTP/1.1 431")
    many = (f"X-{number}: a" for number in range(150))
    assert talk(gateway, request("GET / HTTP/1.1", *many)).startswith(b"HTTP/1.1 431")
    assert talk(gateway, request(f"GET /{'a' * 40_000} HTTP/1.1")).startswith(b"HTTP/1.1 431")
    assert talk(gateway, b"GET / HTTP/1.1\r\nX: " + b"a" * 40_000).startswith(b"HTTP/1.1 431")


def test_a_large_body_is_refused(gateway: Gateway) -> None:
    gateway.agent.requests.clear()
    assert talk(gateway, request(POST, "Content-Length: 1001")).startswith(b"HTTP/1.1 413")
    assert gateway.agent.requests == []
    body = b"400\r\n" + b"x" * 1024 + b"\r\n"
    assert talk(gateway, request("POST /upload HTTP/1.1", CHUNKED) + body).startswith(b"HTTP/1.1 413")


def test_one_who_dawdles_is_not_waited_for(gateway: Gateway) -> None:
    began = time.monotonic()
    assert talk(gateway) == b""
    assert talk(gateway, b"GET / HTTP/1.1\r\nHost: ac").startswith(b"HTTP/1.1 408")
    assert talk(gateway, request("POST /upload HTTP/1.1", "Content-Length: 10") + b"x").startswith(
        b"HTTP/1.1 408"
    )
    assert talk(gateway, request()).startswith(b"HTTP/1.1 200")  # and is closed when it is idle
    assert time.monotonic() - began < 20


def test_connections_are_bounded(gateway: Gateway) -> None:
    until(lambda: gateway.listener.connections == 0)
    kept = [gateway.tcp() for _ in range(5)]
    secure = []
    try:
        refused = 0
        for _ in range(30):
            try:
                secure.append(gateway.tls("h2"))
            except OSError:
                refused += 1
        assert gateway.listener.connections <= 20
    finally:
        for connection in (*kept, *secure):
            connection.close()
