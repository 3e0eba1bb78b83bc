"""The tour's visitor, before a TLS server in the gateway's place."""

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from local.demo.visitor import Visitor
from local.servers import certificates, load_balancer

ASKED: list[dict[str, str]] = []
OVER = threading.Event()


class Gateway(BaseHTTPRequestHandler):
    """Says that it is waking at first, and nothing at all to `/silence`."""

    def do_GET(self) -> None:
        ASKED.append({name.lower(): value for name, value in self.headers.items()})
        if self.path == "/silence":
            OVER.wait(10)
            return
        waking = self.path == "/waking" and len(ASKED) == 1
        self.send_response(503 if waking else 200)
        if waking:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(b"<title>\n Waking acme </title>")

    def log_message(self, *_arguments: Any) -> None:
        pass


@pytest.fixture(scope="module", autouse=True)
def _gateway() -> Iterator[None]:
    certificates.keep("gateway", load_balancer.DOMAIN, hosts=[f"*.{load_balancer.DOMAIN}"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.path("gateway"))
    with ThreadingHTTPServer(("127.0.0.1", load_balancer.port()), Gateway) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        OVER.set()
        server.shutdown()


@pytest.fixture(autouse=True)
def _nothing_asked() -> None:
    ASKED.clear()


def test_a_browser_names_host_and_token_and_reads_the_title() -> None:
    answer = Visitor("acme", "a-token").browse("/")

    assert answer
    assert (answer.status, answer.title) == (200, "Waking acme")
    [asked] = ASKED
    assert asked["host"] == f"acme.agents.localhost:{load_balancer.port()}"
    assert asked["authorization"] == "Bearer a-token"
    assert asked["accept"].startswith("text/html")


def test_a_stranger_shows_no_token() -> None:
    assert Visitor("acme").browse("/")
    assert "authorization" not in ASKED[0]


def test_a_program_asks_again_when_it_is_told_to() -> None:
    answer = Visitor("acme").call("/waking", 20)

    assert answer
    assert (answer.status, len(ASKED)) == (200, 2)
    assert answer.seconds >= 1


def test_silence_is_no_answer() -> None:
    assert Visitor("acme").call("/silence", 0.5) is None
