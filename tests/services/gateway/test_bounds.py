"""What one client may use is bounded, and who takes too long is not waited for."""

import contextlib
import itertools
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from services.gateway.settings import Limits
from tests.services.gateway import harness
from tests.services.gateway.harness import DOMAIN, Gateway, token, until
from tests.services.gateway.test_parsing import request
from tests.services.valkey import Valkey

SHORTER = {
    '"request_headers_timeout": "10s"': '"request_headers_timeout": "0.5s"',
    '"stream_idle_timeout": "600s"': '"stream_idle_timeout": "3s"',
    '"idle_timeout": "75s"': '"idle_timeout": "0.5s"',
    '"transport_socket_connect_timeout": "10s"': '"transport_socket_connect_timeout": "0.5s"',
    '.public.connection_limit": 10000': '.public.connection_limit": 60',
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, server: Valkey) -> Iterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp("gateway")
    server.set_clock(time.time())
    limits = Limits(body=1000, tenant_requests=30, patience_seconds=30)
    with harness.gateway(folder, server, limits, replaced=SHORTER) as running:
        yield running


def talk(gateway: Gateway, data: bytes = b"", *protocols: str) -> bytes:
    """Send; return all that comes until the edge closes."""
    answer = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError), gateway.tls(*protocols) as connection:
        connection.sendall(data)
        while piece := connection.recv(65536):
            answer += piece
    return answer


def test_a_body_that_is_announced_too_large_is_refused(gateway: Gateway) -> None:
    gateway.agent.requests.clear()
    closing = request("POST / HTTP/1.1", "Content-Length: 1001", "Connection: close")
    assert talk(gateway, closing).startswith(b"HTTP/1.1 413")
    assert gateway.agent.requests == []


def test_one_who_dawdles_is_not_waited_for(gateway: Gateway) -> None:
    began = time.monotonic()
    with gateway.tcp() as silent:
        assert silent.recv(1) == b""
    assert talk(gateway) == b""
    assert talk(gateway, b"GET / HTTP/1.1\r\nHost: ac").startswith(b"HTTP/1.1 408")
    announced = request("POST /upload HTTP/1.1", "Content-Length: 10") + b"x"
    assert talk(gateway, announced).startswith(b"HTTP/1.1 408")
    assert talk(gateway, request()).startswith(b"HTTP/1.1 200")  # and is closed when it is idle
    assert time.monotonic() - began < 20


def test_connections_are_bounded(gateway: Gateway) -> None:
    until(lambda: gateway.connections == 0)
    opened = []
    try:
        for _ in range(80):
            with contextlib.suppress(OSError):
                opened.append(gateway.tls("h2"))
        assert gateway.connections <= 60
    finally:
        for connection in opened:
            connection.close()


def test_what_one_tenant_has_in_flight_is_bounded_and_no_others(gateway: Gateway) -> None:
    until(lambda: gateway.connections == 0)
    gateway.places.asleep.add("acme")
    held = [gateway.tls("http/1.1") for _ in range(33)]
    try:
        for connection in held:
            connection.sendall(request())
        until(lambda: gateway.in_flight.count("acme") == 30)
        refused = [connection for connection in held if _answered(connection)]
        assert len(refused) == 3
        other = request("GET / HTTP/1.1", "Connection: close", tenant="globex")
        assert talk(gateway, other, "http/1.1").startswith(b"HTTP/1.1 200")
    finally:
        for connection in held:
            connection.close()
        gateway.places.asleep.clear()
    # Whoever goes away while held is let go of.
    until(lambda: gateway.in_flight.count("acme") == 0)


def _answered(connection: ssl.SSLSocket) -> bool:
    connection.settimeout(0.05)
    try:
        answer = connection.recv(65536)
    except TimeoutError:
        return False
    assert answer.startswith(b"HTTP/1.1 503") and b"retry-after: 2" in answer
    return True


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


FLOODS: dict[str, Callable[[int], bytes]] = {
    "PING": lambda _: frame(6, b"\0" * 8),
    "SETTINGS": lambda _: frame(4, struct.pack(">HI", 4, 65535)),
    "PRIORITY": lambda number: frame(2, struct.pack(">IB", 0, 16), stream=2 * (number % 1000) + 3),
    "WINDOW_UPDATE": lambda _: frame(8, struct.pack(">I", 1)),
    "resets": lambda number: (
        frame(1, b"\x82\x87\x84", flags=0x4, stream=2 * number + 1)
        + frame(3, struct.pack(">I", 8), stream=2 * number + 1)
    ),
    "CONTINUATION": lambda number: (
        frame(1, b"\x82\x87\x84", stream=1) if not number else frame(9, b"", stream=1)
    ),
}
"""Frames that cost their sender nothing, the kind by which a single connection keeps a server busy."""


@pytest.mark.parametrize("kind", FLOODS)
def test_while_one_connection_floods_others_are_answered(gateway: Gateway, kind: str) -> None:
    """For how long is measured by `make bench NAME=floods`."""
    until(lambda: gateway.connections == 0)
    over = threading.Event()

    def flood() -> None:
        with gateway.tls("h2") as connection, contextlib.suppress(OSError):
            connection.settimeout(5)
            connection.sendall(PREFACE + frame(4))
            for number in itertools.count(0, 500):
                if over.is_set():
                    break
                connection.sendall(b"".join(FLOODS[kind](number + one) for one in range(500)))

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        with httpx.Client(verify=gateway.trust(), trust_env=False, timeout=20) as client:
            headers = {"Authorization": f"Bearer {token('acme')}", "Host": f"acme.{DOMAIN}"}
            statuses = [client.get(gateway.base, headers=headers).status_code for _ in range(20)]
    finally:
        over.set()
        flooding.join()
    assert statuses == [200] * 20
