"""The runtime's server, with a Vault that answers as the real one does, and the real object storage."""

import dataclasses
import http.client
import json
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

import pytest

from services.agent_runtime import pace, public, runs, tenants
from services.agent_runtime.identity import NotReadyError
from services.agent_runtime.server import Server
from services.agent_runtime.settings import Settings
from services.agent_runtime.tenants import Asked, Tenants
from tests.services.agent_runtime import runtimes
from tests.services.agent_runtime.answering import Answering, serving
from tests.services.agent_runtime.conftest import Storage, Tables
from tests.services.agent_runtime.runtimes import NO_DATABASE


class _Vault(Answering):
    """Lets whoever shows `word of TENANT`, or an account's token, in as that tenant; acme is the only one.

    It has a model and the key to object storage, for whoever has a token that was not given back.
    """

    model: Any = None
    storage: Any = None
    login: Any = None
    """To PostgreSQL."""
    lasts: ClassVar[float] = 60
    live: ClassVar[set[str]] = set()
    shown: ClassVar[list[str]] = []

    def post(self, asked: Any) -> tuple[int, Any]:
        if self.path == "/v1/auth/token/revoke-self":
            self.live.remove(self.headers["X-Vault-Token"])
            return 200, {}
        if self.path == "/v1/auth/token/renew-self":
            return 403, {"errors": ["permission denied"]}
        method = self.path.removeprefix("/v1/auth/").removesuffix("/login")
        word = {"jwt": "word of acme", "kubernetes": "token"}[method]
        if asked["role"] != "tenant-acme" or not asked["jwt"].startswith(word):
            return 403, {"errors": ["permission denied"]}
        self.shown.append(asked["jwt"])
        self.live.add(f"login {len(self.shown)}")
        return 200, {"auth": {"client_token": f"login {len(self.shown)}", "lease_duration": self.lasts}}

    def get(self) -> tuple[int, Any]:
        if self.headers["X-Vault-Token"] not in self.live:
            return 403, {"errors": ["permission denied"]}
        if self.path == "/v1/database/creds/tenant-acme" and self.login:
            return 200, {"data": self.login, "lease_id": "lease", "lease_duration": 3600}
        found = {"model": self.model, "object-storage": self.storage}.get(self.path.rpartition("/")[2])
        return (200, {"data": {"data": found}}) if found else (404, {"errors": []})


class _Gateway(Answering):
    """Renews acme's word, as long as its request is in flight."""

    in_flight: ClassVar[bool] = True

    def post(self, _: Any) -> tuple[int, Any]:
        if self.path != "/v1/assertions" or not self.headers["Authorization"].startswith(
            "Bearer word of acme"
        ):
            return 404, {}
        if not self.in_flight:
            return 401, {"error": "the request that this assertion was given for is over"}
        return 200, {"assertion": "word of acme, renewed"}


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch, storage: Storage) -> Iterator[str]:
    for name, value in (("live", set()), ("shown", []), ("storage", storage.secret("acme"))):
        monkeypatch.setattr(_Vault, name, value)
    yield from serving(ThreadingHTTPServer(("127.0.0.1", 0), _Vault))


@pytest.fixture
def database_url(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a database to which Vault has a login."""
    monkeypatch.setattr(_Vault, "login", tables.login)
    return tables.url


@pytest.fixture
def gateway() -> Iterator[str]:
    yield from serving(ThreadingHTTPServer(("127.0.0.1", 0), _Gateway))


def _settings(folder: Path, vault: str, **more: str) -> Settings:
    said = {"VAULT_ADDR": vault, "TMPDIR": str(folder), "DATABASE_URL": NO_DATABASE} | more
    return dataclasses.replace(Settings.read(said), identity=folder / "identity.json")


@pytest.fixture
def shared(tmp_path: Path, vault: str, gateway: str) -> Iterator[str]:
    yield from _shared(tmp_path, vault, gateway, NO_DATABASE)


@pytest.fixture
def with_tables(tmp_path: Path, vault: str, gateway: str, database_url: str) -> Iterator[str]:
    """A shared runtime whose agents can run: acme has its tables."""
    yield from _shared(tmp_path, vault, gateway, database_url)


def _shared(folder: Path, vault: str, gateway: str, database: str) -> Iterator[str]:
    settings = _settings(folder, vault, GATEWAY_ADDR="https://gateway.example:8444", DATABASE_URL=database)
    _SAID.update({"X-Assertion": "word of acme", "X-Gateway": gateway})
    yield from serving(Server(("127.0.0.1", 0), Tenants(settings)))
    _SAID.clear()


_SAID: dict[str, str] = {}
"""The headers of the gateway for each request."""


def _ask(
    method: str, url: str, tenant: str | None = "acme", body: bytes | None = None, said: Any = None
) -> tuple[int, bytes]:
    named = {"X-Tenant": tenant} if tenant else {}
    headers = {"Content-Type": "application/json", **_SAID, **named, **(said or {})}
    request = urllib.request.Request(url, data=body, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def _until(condition: Callable[[], bool]) -> None:
    """An answer ends before what is done after it."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_shared_runtime_is_ready_without_a_tenant(shared: str) -> None:
    status, said = _ask("GET", f"{shared}/readyz", None, said={"X-Assertion": ""})
    assert (status, json.loads(said)["status"]) == (200, "ok")
    assert _Vault.shown == []


def test_is_alive_before_anything_else(shared: str) -> None:
    assert _ask("GET", f"{shared}/livez", None)[0] == 200


def test_lets_nothing_out_of_the_workspace(shared: str) -> None:
    status, said = _ask("GET", f"{shared}/v1/files/..%2F..%2Ftoken")
    assert (status, b"leads out of the workspace" in said) == (400, True)


def test_serves_whom_vault_lets_in(shared: str) -> None:
    assert _ask("GET", f"{shared}/", "acme")[0] == 200
    status, said = _ask("GET", f"{shared}/", "globex")
    assert (status, b"Vault refuses globex (403)" in said) == (503, True)


def test_a_word_for_one_tenant_serves_no_other(shared: str) -> None:
    status, said = _ask("GET", f"{shared}/", "acme", said={"X-Assertion": "word of globex"})
    assert (status, b"Vault refuses acme (403)" in said) == (503, True)


@pytest.mark.parametrize("missing", ["X-Assertion", "X-Gateway"])
def test_serves_nobody_without_the_gateways_word(shared: str, missing: str) -> None:
    assert _ask("GET", f"{shared}/", "acme", said={missing: ""})[0] == 421
    assert _Vault.shown == []


def test_the_shared_runtime_keeps_no_login_that_is_not_used(
    shared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenants, "_KEPT", 0.2)
    for method, path, body in (
        ("GET", "/", None),
        ("PUT", "/v1/files/a", b"kept"),
        ("GET", "/v1/files/none", None),
        ("POST", "/v1/agent", b'{"prompt": "hello"}'),
        ("POST", "/v1/agent", b"no json"),
    ):
        _ask(method, f"{shared}{path}", body=body)
    _until(lambda: not _Vault.live)
    # Vault has decided on each of them.
    assert _Vault.shown == ["word of acme"] * 5


def test_a_login_of_one_request_lets_no_other_in_that_vault_does_not(shared: str) -> None:
    assert _ask("GET", f"{shared}/")[0] == 200
    assert len(_Vault.live) == 1

    status, said = _ask("GET", f"{shared}/", said={"X-Assertion": "word of globex"})

    assert (status, b"Vault refuses acme (403)" in said) == (503, True)


def test_requests_one_after_the_other_use_one_login(with_tables: str) -> None:
    for _ in range(5):
        assert _ask("GET", f"{with_tables}/v1/agents")[0] == 200
    assert len(_Vault.live) == 1


def test_a_login_that_was_revoked_gives_way_to_another(shared: str) -> None:
    assert _ask("GET", f"{shared}/v1/files/")[0] == 200
    _Vault.live.clear()

    assert _ask("GET", f"{shared}/v1/files/")[0] == 200


def test_a_long_run_is_let_in_again_while_its_request_is_in_flight(
    tmp_path: Path, vault: str, gateway: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Vault, "lasts", 0)
    settings = _settings(tmp_path, vault, GATEWAY_ADDR="https://gateway.example:8444")
    served = Tenants(settings)
    with served.of(Asked("acme", "word of acme", gateway)) as tenant:
        assert tenant.vault.secret("model") == {}
        assert _Vault.shown == ["word of acme", "word of acme, renewed"]
        monkeypatch.setattr(_Gateway, "in_flight", False)
        with pytest.raises(NotReadyError, match="does not renew"):
            tenant.vault.secret("model")
    with pytest.raises(NotReadyError, match="No request of acme's is in flight"):
        tenant.vault.secret("model")
    served.close(0)
    assert _Vault.live == set()
    with pytest.raises(NotReadyError, match="is over"):
        tenant.vault.log_in()


@pytest.mark.parametrize("tenant", [None, "../acme", "A"])
def test_serves_nobody_without_a_name(shared: str, tenant: str | None) -> None:
    assert _ask("GET", f"{shared}/", tenant)[0] == 421


def _own(folder: Path, vault: str, **told: Any) -> Iterator[str]:
    """The runtime of acme and of nobody else."""
    (folder / "token").write_text("token")
    settings = _settings(folder, vault, VAULT_TOKEN_FILE=str(folder / "token"))
    url = told.pop("database", NO_DATABASE)
    settings.identity.write_text(
        json.dumps(
            {
                "tenant": "acme",
                "tier": "professional",
                "vault": {
                    "address": vault,
                    "authentication": {"path": "auth/kubernetes", "role": "tenant-acme"},
                    "secrets": "tenants/acme",
                    "databaseLogin": "database/creds/tenant-acme",
                },
                "database": url,
                **told,
            }
        )
    )
    yield from serving(Server(("127.0.0.1", 0), Tenants(settings)))


def test_a_tenants_own_runtime_takes_nobody_elses_request(tmp_path: Path, vault: str) -> None:
    for own in _own(tmp_path, vault):
        assert _ask("GET", f"{own}/readyz", None)[0] == 200
        assert _ask("PUT", f"{own}/v1/files/a", "acme", b"kept")[0] == 201
        assert _ask("GET", f"{own}/v1/files/a", "globex")[0] == 421


def test_an_agent_works_in_the_workspace(with_tables: str) -> None:
    prompt = json.dumps({"prompt": "write plan.txt: sleep well"}).encode()
    status, said = _ask("POST", f"{with_tables}/v1/agent", body=prompt)
    assert (status, b"event: tool" in said, b"event: done" in said) == (200, True, True)
    assert _ask("GET", f"{with_tables}/v1/files/plan.txt") == (200, b"sleep well")


def _with_servers(runtime: str, servers: Any) -> tuple[int, bytes]:
    """Name MCP servers in the workspace and ask the agent something; what is answered."""
    written = json.dumps({"mcpServers": servers}).encode()
    assert _ask("PUT", f"{runtime}/v1/files/.agent/mcp.json", body=written)[0] == 201
    return _ask("POST", f"{runtime}/v1/agent", body=b'{"prompt": "hello"}')


def _leaving(mark: Path) -> dict[str, Any]:
    """A command that leaves a mark."""
    return {"x": {"command": "/bin/sh", "args": ["-c", f"touch {mark}"]}}


def test_no_command_of_a_tenants_runs_in_the_shared_runtime(with_tables: str, tmp_path: Path) -> None:
    status, said = _with_servers(with_tables, _leaving(tmp_path / "mark"))

    assert not (tmp_path / "mark").exists()
    assert (status, b"event: error" in said, b"no command runs" in said) == (200, True, True)


@pytest.mark.parametrize("commands", [True, False, None, "yes"])
def test_commands_run_where_the_platform_says_so_and_nowhere_else(
    tmp_path: Path, vault: str, database_url: str, commands: Any
) -> None:
    told = {} if commands is None else {"commands": commands}
    for own in _own(tmp_path, vault, database=database_url, **told):
        status, said = _with_servers(own, _leaving(tmp_path / "mark"))

    assert (tmp_path / "mark").exists() == (commands is True)
    assert (status, b"event: error" in said) == (200, True)


def test_an_mcp_server_over_stdio_works_in_a_tenants_own_runtime(
    tmp_path: Path, vault: str, database_url: str
) -> None:
    clock = {
        "command": sys.executable,
        "args": ["-m", "services.agent_runtime.clock"],
        "env": {"PYTHONPATH": str(Path.cwd())},
    }
    for own in _own(tmp_path, vault, database=database_url, commands=True):
        status, said = _with_servers(own, {"clock": clock})

    assert (status, b"event: done" in said) == (200, True)


@pytest.mark.parametrize(
    ("server", "why"),
    [
        ({"url": "https://localhost/mcp"}, b"localhost is refused"),
        ({"url": "https://169.254.169.254/mcp"}, b"169.254.169.254 is refused"),
        ({"url": "https://vault.example:8200/"}, b"only port 443 leads out"),
        ({"url": "http://one.example/mcp"}, b"no https:// url"),
        ({"url": "https://one.example/mcp", "type": "sse"}, b"no server with a url"),
        ({"url": "https://one.example/mcp", "command": "/bin/sh"}, b"no server with a url"),
        ({"url": 5}, b"no server with a url"),
        ("/bin/sh", b"has no url"),
    ],
)
def test_an_mcp_server_of_the_shared_runtime_is_one_on_the_internet(
    with_tables: str, server: Any, why: bytes
) -> None:
    status, said = _with_servers(with_tables, {"x": server})

    assert (status, b"event: error" in said, why in said) == (200, True, True)


def test_the_model_of_the_shared_runtime_is_one_on_the_internet(
    with_tables: str, vault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(public, "PORT", int(vault.rpartition(":")[2]))
    monkeypatch.setattr(_Vault, "model", {"base_url": f"{vault}/v1", "api_key": "k", "model": "m"})

    status, said = _ask("POST", f"{with_tables}/v1/agent", body=b'{"prompt": "hello"}')

    assert (status, b"127.0.0.1 is refused" in said) == (200, True)


class _Speechless(Answering):
    """A model that takes a prompt and says nothing; `gone` is set when it is no longer listened to."""

    asked: ClassVar[threading.Event]
    gone: ClassVar[threading.Event]

    def post(self, asked: Any) -> tuple[int, Any]:
        self.asked.set()
        if not self.connection.recv(1):
            self.gone.set()
        return 200, {}


@pytest.fixture
def speechless(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("asked", "gone"):
        monkeypatch.setattr(_Speechless, name, threading.Event(), raising=False)
    monkeypatch.setattr(runs, "_QUIET", 0.1)
    for model in serving(ThreadingHTTPServer(("127.0.0.1", 0), _Speechless)):
        monkeypatch.setattr(_Vault, "model", {"base_url": f"{model}/v1", "api_key": "k", "model": "m"})
        yield


@pytest.mark.usefixtures("speechless")
def test_a_run_goes_on_without_whoever_asked_and_ends_when_it_is_cancelled(
    tmp_path: Path, vault: str, database_url: str
) -> None:
    for own in _own(tmp_path, vault, database=database_url, commands=True):
        prompt = b'{"prompt": "hello"}'
        with _connected(own) as client:
            head = _head("POST", "/v1/agent", **{"Content-Length": str(len(prompt))})
            client.sendall(head + b"\r\n" + prompt)
            with client.makefile("rb") as answer:
                assert any(line == b": nothing new\n" for line in answer)
            assert _Speechless.asked.wait(30)
        assert not _Speechless.gone.wait(1)
        run = json.loads(_ask("GET", f"{own}/v1/runs")[1])["items"][0]
        assert run["status"] == "running"

        assert _ask("POST", f"{own}/v1/runs/{run['id']}/cancel")[0] == 200

        assert _Speechless.gone.wait(30)
        said = _ask("GET", f"{own}/v1/runs/{run['id']}/events")[1]
        assert said.endswith(b"event: cancelled\ndata: {}\n\n")
        assert json.loads(_ask("GET", f"{own}/v1/runs/{run['id']}")[1])["status"] == "cancelled"


def test_one_tenant_has_so_many_requests_in_hand_and_others_have_theirs(
    shared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenants, "_MOST_REQUESTS", 1)
    with _connected(shared) as held:
        held.sendall(_head("PUT", "/v1/files/a", **{"Content-Length": "3"}) + b"\r\n1")
        _until(lambda: len(_Vault.shown) == 1)  # it logs in once it is counted
        status, said = _ask("GET", f"{shared}/v1/files/")
        assert (status, b"acme has 1 requests in hand already" in said) == (
            HTTPStatus.TOO_MANY_REQUESTS,
            True,
        )
        assert _ask("GET", f"{shared}/v1/files/", tenant="globex")[0] == HTTPStatus.SERVICE_UNAVAILABLE
        held.sendall(b"23")
        assert held.recv(100).startswith(b"HTTP/1.1 201")

    _until(lambda: _ask("GET", f"{shared}/v1/files/")[0] == HTTPStatus.OK)


def test_a_vault_that_refuses_or_is_away_is_told(tmp_path: Path) -> None:
    prompt = json.dumps({"prompt": "list"}).encode()
    refusing = serving(runtimes.vault(None))
    for url in serving(runtimes.runtime("own", tmp_path, next(refusing))):
        for told in (b"Vault refuses acme", b"does not answer"):
            for method, path, body in (("GET", "v1/files/a", None), ("POST", "v1/agent", prompt)):
                status, said = _ask(method, f"{url}/{path}", body=body)
                assert (status, told in said) == (503, True)
            next(refusing, None)


def _connected(url: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=30)


def _head(method: str, path: str, **said: str) -> bytes:
    """The head of a request of acme's, to which its framing is added."""
    named = {**_SAID, "X-Tenant": "acme", **said}
    lines = [f"{method} {path} HTTP/1.1", "Host: a", *(f"{name}: {value}" for name, value in named.items())]
    return "\r\n".join((*lines, "")).encode()


def test_chunks_that_are_none_write_nothing(shared: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(shared).port, timeout=30)
    headers = {**_SAID, "X-Tenant": "acme", "Transfer-Encoding": "chunked"}
    connection.request("PUT", "/v1/files/a", body=b"-1\r\nkept", headers=headers)
    answer = connection.getresponse()
    assert (answer.status, b"without its size" in answer.read()) == (400, True)
    assert _ask("GET", f"{shared}/v1/files/a")[0] == 404


def test_a_body_that_nobody_reads_is_no_request_in_anothers_name(shared: str) -> None:
    hidden = _head("GET", "/", **{"X-Tenant": "globex"}) + b"\r\n"
    with _connected(shared) as client:
        client.sendall(_head("GET", "/") + f"Content-Length: {len(hidden)}\r\n\r\n".encode() + hidden)
        said = b"".join(iter(lambda: client.recv(1000), b""))
    assert said.count(b"HTTP/1.1 ") == 1


def test_a_request_that_is_refused_before_its_body_is_read_is_answered(shared: str) -> None:
    """Closed with the body unread, the connection would take the answer with it."""
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(shared).port, timeout=30)
    for _ in range(3):
        connection.request("POST", "/v1/agent", body=b"x" * 2**15, headers={"X-Tenant": "A"})
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["status"]) == (421, 421)
        assert answer.getheader("Connection") != "close"


def test_the_shared_runtime_begins_so_many_runs_of_a_tenant_and_asks_vault_for_no_more(
    with_tables: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "IN_A_ROW", 1)

    assert _ask("POST", f"{with_tables}/v1/agent", body=b'{"prompt": "hello"}')[0] == 200
    shown = len(_Vault.shown)
    status, said = _ask("POST", f"{with_tables}/v1/agent", body=b'{"prompt": "hello"}')

    assert (status, b"runs a minute" in said) == (429, True)
    # Nor does it help to wait until its logins are kept no longer.
    monkeypatch.setattr(tenants, "_KEPT", 0.0)
    time.sleep(2.5)
    assert _ask("POST", f"{with_tables}/v1/agent", body=b'{"prompt": "hello"}')[0] == 429
    assert len(_Vault.shown) == shown
    assert _ask("GET", f"{with_tables}/v1/runs")[0] == 200


def test_a_path_is_text(shared: str) -> None:
    assert _ask("PUT", f"{shared}/v1/files/%FF", body=b"lost")[0] == 400
    assert _ask("PUT", f"{shared}/v1/files/{quote('ü')}", body=b"kept")[0] == 201
    assert json.loads(_ask("GET", f"{shared}/v1/files/")[1])["files"] == ["ü"]
