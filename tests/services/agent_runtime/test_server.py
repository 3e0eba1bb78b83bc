"""The runtime's server, with a Vault that answers as the real one does."""

import dataclasses
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from services.agent_runtime.server import Server
from services.agent_runtime.settings import Settings
from services.agent_runtime.tenants import Tenants
from tests.services.agent_runtime.answering import Answering, serving


class _Vault(Answering):
    """Lets `tenant-acme` in and nobody else, and has no secret."""

    def post(self, asked: Any) -> tuple[int, Any]:
        known = asked["role"] == "tenant-acme"
        return 200 if known else 403, {"auth": {"client_token": "t", "lease_duration": 60}}

    def get(self) -> tuple[int, Any]:
        return 404, {"errors": []}


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


def test_a_tenants_own_runtime_takes_nobody_elses_request(tmp_path: Path, vault: str) -> None:
    settings = _settings(tmp_path, vault)
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
            }
        )
    )
    for own in serving(Server(("127.0.0.1", 0), Tenants(settings))):
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
