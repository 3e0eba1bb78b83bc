"""The runtime's server, with a Vault that answers as the real one does."""

import dataclasses
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from services.agent_runtime import public
from services.agent_runtime.server import Server
from services.agent_runtime.settings import Settings
from services.agent_runtime.tenants import Tenants
from tests.services.agent_runtime.answering import Answering, serving


class _Vault(Answering):
    """Lets `tenant-acme` in and nobody else, and has no secret but a model."""

    model: Any = None

    def post(self, asked: Any) -> tuple[int, Any]:
        known = asked["role"] == "tenant-acme"
        return 200 if known else 403, {"auth": {"client_token": "t", "lease_duration": 60}}

    def get(self) -> tuple[int, Any]:
        return (200, {"data": {"data": self.model}}) if self.model else (404, {"errors": []})


@pytest.fixture
def vault() -> Iterator[str]:
    yield from serving(ThreadingHTTPServer(("127.0.0.1", 0), _Vault))


def _settings(folder: Path, vault: str) -> Settings:
    (folder / "token").write_text("token")
    said = {"VAULT_TOKEN_FILE": str(folder / "token"), "VAULT_ADDR": vault, "TMPDIR": str(folder)}
    return dataclasses.replace(Settings.read(said), identity=folder / "identity.json")


@pytest.fixture
def shared(tmp_path: Path, vault: str) -> Iterator[str]:
    yield from serving(Server(("127.0.0.1", 0), Tenants(_settings(tmp_path, vault))))


def _ask(method: str, url: str, tenant: str | None = "acme", body: bytes | None = None) -> tuple[int, bytes]:
    request = urllib.request.Request(url, data=body, method=method)
    if tenant:
        request.add_header("X-Tenant", tenant)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_is_alive_before_anything_else(shared: str) -> None:
    assert _ask("GET", f"{shared}/livez", None)[0] == 200


def test_keeps_a_file_for_its_tenant(shared: str) -> None:
    assert _ask("PUT", f"{shared}/v1/files/notes/a.txt", body=b"kept")[0] == 201
    assert _ask("GET", f"{shared}/v1/files/notes/a.txt") == (200, b"kept")
    assert _ask("DELETE", f"{shared}/v1/files/notes")[0] == 200
    assert _ask("GET", f"{shared}/v1/files/notes/a.txt")[0] == 404


def test_lets_nothing_out_of_the_workspace(shared: str) -> None:
    status, said = _ask("GET", f"{shared}/v1/files/..%2F..%2Ftoken")
    assert (status, b"leads out of the workspace" in said) == (404, True)


def test_serves_whom_vault_lets_in(shared: str) -> None:
    assert _ask("GET", f"{shared}/", "acme")[0] == 200
    status, said = _ask("GET", f"{shared}/", "globex")
    assert (status, b"Vault refuses globex (403)" in said) == (503, True)


@pytest.mark.parametrize("tenant", [None, "../acme", "A"])
def test_serves_nobody_without_a_name(shared: str, tenant: str | None) -> None:
    assert _ask("GET", f"{shared}/", tenant)[0] == 421


def _own(folder: Path, vault: str, **told: Any) -> Iterator[str]:
    """The runtime of acme and of nobody else."""
    settings = _settings(folder, vault)
    settings.identity.write_text(
        json.dumps(
            {
                "tenant": "acme",
                "tier": "professional",
                "vault": {
                    "address": vault,
                    "authentication": {"path": "auth/kubernetes", "role": "tenant-acme"},
                    "secrets": "tenants/acme",
                },
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


@pytest.mark.parametrize("body", [b"", b"no json", b"{}", b'{"prompt": " "}', b'{"prompt": 1}'])
def test_says_what_a_prompt_has_to_be(shared: str, body: bytes) -> None:
    status, said = _ask("POST", f"{shared}/v1/agent", body=body)
    assert (status, b"The body has to be" in said) == (400, True)


def test_an_agent_works_in_the_workspace(shared: str) -> None:
    prompt = json.dumps({"prompt": "write plan.txt: sleep well"}).encode()
    status, said = _ask("POST", f"{shared}/v1/agent", body=prompt)
    assert (status, b"event: tool" in said, b"event: done" in said) == (200, True, True)
    assert _ask("GET", f"{shared}/v1/files/plan.txt") == (200, b"sleep well")


def _with_servers(runtime: str, servers: Any) -> tuple[int, bytes]:
    """Name MCP servers in the workspace and ask the agent something; what is answered."""
    written = json.dumps({"mcpServers": servers}).encode()
    assert _ask("PUT", f"{runtime}/v1/files/.agent/mcp.json", body=written)[0] == 201
    return _ask("POST", f"{runtime}/v1/agent", body=b'{"prompt": "hello"}')


def _leaving(mark: Path) -> dict[str, Any]:
    """A command that leaves a mark."""
    return {"x": {"command": "/bin/sh", "args": ["-c", f"touch {mark}"]}}


def test_no_command_of_a_tenants_runs_in_the_shared_runtime(shared: str, tmp_path: Path) -> None:
    status, said = _with_servers(shared, _leaving(tmp_path / "mark"))

    assert not (tmp_path / "mark").exists()
    assert (status, b"no command runs" in said) == (503, True)


@pytest.mark.parametrize("commands", [True, False, None, "yes"])
def test_commands_run_where_the_platform_says_so_and_nowhere_else(
    tmp_path: Path, vault: str, commands: Any
) -> None:
    told = {} if commands is None else {"commands": commands}
    for own in _own(tmp_path, vault, **told):
        status, _ = _with_servers(own, _leaving(tmp_path / "mark"))

    assert (tmp_path / "mark").exists() == (commands is True)
    assert status == 503


def test_an_mcp_server_over_stdio_works_in_a_tenants_own_runtime(tmp_path: Path, vault: str) -> None:
    clock = {
        "command": sys.executable,
        "args": ["-m", "services.agent_runtime.clock"],
        "env": {"PYTHONPATH": str(Path.cwd())},
    }
    for own in _own(tmp_path, vault, commands=True):
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
    shared: str, server: Any, why: bytes
) -> None:
    status, said = _with_servers(shared, {"x": server})

    assert (status, why in said) == (503, True)


def test_the_model_of_the_shared_runtime_is_one_on_the_internet(
    shared: str, vault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(public, "PORT", int(vault.rpartition(":")[2]))
    monkeypatch.setattr(_Vault, "model", {"base_url": f"{vault}/v1", "api_key": "k", "model": "m"})

    status, said = _ask("POST", f"{shared}/v1/agent", body=b'{"prompt": "hello"}')

    assert (status, b"127.0.0.1 is refused" in said) == (200, True)
