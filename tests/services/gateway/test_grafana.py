"""What operators see below the console's host is let in by the gateway, and nobody else gets there."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from infra.platform.envoy import Grafana
from tests.services.gateway import harness
from tests.services.gateway.harness import Gateway, token
from tests.services.valkey import Valkey

SEEN: list[dict[str, str]] = []
USER = "X-Webauth-User"


class Stand(BaseHTTPRequestHandler):
    """Stands in Grafana's place: notes what it is told."""

    def do_GET(self) -> None:
        SEEN.append({"path": self.path, **{name.lower(): value for name, value in self.headers.items()}})
        self.send_response(200)
        self.send_header("Content-Length", "7")
        self.end_headers()
        self.wfile.write(b"grafana")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def gateway(server: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    stand = ThreadingHTTPServer(("127.0.0.1", 0), Stand)
    threading.Thread(target=stand.serve_forever, daemon=True).start()
    grafana = Grafana(host="127.0.0.1", port=stand.server_port, path="/grafana/", user_header=USER)
    with harness.gateway(tmp_path_factory.mktemp("gateway"), server, grafana=grafana) as running:
        yield running
    stand.shutdown()
    stand.server_close()


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    SEEN.clear()


def get(gateway: Gateway, host: str, path: str, **headers: str) -> httpx.Response:
    with httpx.Client(verify=False, trust_env=False) as client:
        return client.get(f"{gateway.base}{path}", headers={"Host": gateway.authority(host), **headers})


def test_an_operator_gets_to_grafana_and_it_gets_none_of_their_secrets(gateway: Gateway) -> None:
    signed = f"Bearer {token('console')}"
    cookie = "__Host-agent-platform=a-secret; other=1"
    answer = get(
        gateway, "console", "/grafana/d/cost", Authorization=signed, Cookie=cookie, **{USER: "admin"}
    )
    assert (answer.status_code, answer.text) == (200, "grafana")
    (seen,) = SEEN
    assert (seen["path"], seen["x-webauth-user"]) == ("/grafana/d/cost", "operator")
    assert not {"authorization", "cookie"} & set(seen)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {USER: "admin"},
        {"Authorization": f"Bearer {token('acme')}"},
        {"Authorization": f"Bearer {token('console', key='acme')}"},
    ],
)
def test_nobody_else_does(gateway: Gateway, headers: dict[str, str]) -> None:
    assert get(gateway, "console", "/grafana/", **headers).status_code in (401, 403)
    assert SEEN == []


@pytest.mark.parametrize("path", ["/grafana/", "/grafana/api/users", "/.gateway/../grafana/"])
def test_a_tenants_host_has_no_way_there(gateway: Gateway, path: str) -> None:
    get(gateway, "acme", path, Authorization=f"Bearer {token('acme')}")
    assert SEEN == []


def test_what_is_beside_it_is_the_operators_page(gateway: Gateway) -> None:
    answer = get(gateway, "console", "/grafana", Authorization=f"Bearer {token('console')}")
    assert answer.text == "the operators' page"
