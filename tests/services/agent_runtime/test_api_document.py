"""The API and its document: whatever is asked, it answers as that says, and refuses in one form.

Nothing here needs tables of its own, so all of it is asked of one runtime.
"""

import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from services.agent_runtime.api import application
from tests.infra.tenants.conftest import Connect
from tests.services.agent_runtime import runtimes
from tests.services.agent_runtime.answering import serving
from tests.services.agent_runtime.conftest import Storage, acmes_tables
from tests.services.agent_runtime.test_api import Api


@pytest.fixture(scope="module")
def api(database: dict[str, Any], bucket: Storage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The API of acme's own runtime."""
    with acmes_tables(database) as tables:
        for vault in serving(runtimes.vault(bucket.secret("acme"), tables.login)):
            folder = tmp_path_factory.mktemp("runtime")
            for url in serving(runtimes.runtime("own", folder, vault, tables.url)):
                yield Api(url)


OPERATIONS = sorted(
    (path, method) for path, methods in application.openapi()["paths"].items() for method in methods
)


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_the_api_does_what_its_document_says_whatever_it_is_asked(api: Api, path: str, method: str) -> None:
    described = schemathesis.openapi.from_dict(api.told("GET", "/v1/openapi.json"))
    described.config.update(base_url=api.url)
    operation = described[path][method.upper()]
    checks = [
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_schema_conformance,
    ]

    @hypothesis.settings(
        max_examples=12,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy())
    def holds(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(checks=checks)

    holds()


def test_the_document_is_of_openapi_3_1_and_has_one_form_of_refusal(api: Api) -> None:
    document = api.told("GET", "/v1/openapi.json")

    assert document["openapi"].startswith("3.1")
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            refused = operation["responses"]["default"]["content"]
            assert list(refused) == ["application/problem+json"], (path, method)


def counted(connect: Connect) -> list[Any]:
    tables = ("execution_logs", "sessions", "agent_memory")
    counts = ", ".join(f"(SELECT count(*) FROM tenant_acme.{table})" for table in tables)
    return connect().execute(f"SELECT {counts}".encode()).fetchall()


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/runs", b"", 422),
        ("POST", "/v1/runs", b"no json", 422),
        ("POST", "/v1/runs", b"[" * 100_000, 400),
        ("POST", "/v1/runs", b'{"prompt": "a", "session": ' + b"9" * 5000 + b"}", 400),
        ("POST", "/v1/runs", b"{}", 422),
        ("POST", "/v1/runs", {"prompt": " "}, 422),
        ("POST", "/v1/runs", {"prompt": 1}, 422),
        ("POST", "/v1/runs", {"prompt": "a\0b"}, 422),
        ("POST", "/v1/runs", b'{"prompt": "\\ud800"}', 422),
        ("POST", "/v1/runs", {"prompt": "a" * 2**20 + "a"}, 422),
        ("POST", "/v1/runs", {"prompt": "a" * 2**21}, 400),
        ("POST", "/v1/runs", {"prompt": "a", "tenant": "globex"}, 422),
        ("POST", "/v1/runs", {"prompt": "a", "session": 10**6}, 404),
        ("POST", "/v1/runs", {"prompt": "a", "session": 2**63}, 422),
        ("POST", "/v1/runs", {"prompt": "a", "agent": "nobody"}, 404),
        ("POST", "/v1/sessions", {"agent": "nobody"}, 404),
        ("GET", "/v1/runs/1000000", None, 404),
        ("GET", "/v1/runs/1000000/events", None, 404),
        ("POST", "/v1/runs/1000000/cancel", b"", 404),
        ("GET", "/v1/runs/0", None, 422),
        ("GET", "/v1/runs?limit=1000", None, 422),
        ("GET", "/v1/sessions/1000000", None, 404),
        ("GET", "/v1/agents/nobody/memory", None, 404),
        ("PUT", "/v1/agents/..%2Fa", {}, 404),
        ("PUT", "/v1/agents/A", {}, 422),
        ("PUT", "/v1/agents/%00", {}, 422),
        ("PUT", "/v1/agents/" + "a" * 10_000, {}, 422),
        ("PUT", "/v1/agents/%D7%A9", {}, 422),
        ("PUT", "/v1/agents/a", {"tools": ["shell me"]}, 422),
        ("PUT", "/v1/agents/a", {"mcpServers": {"x": {"url": "https://a", "command": "b"}}}, 422),
        ("PUT", "/v1/agents/a", {"instructions": "a" * 2**17}, 422),
        ("PUT", "/v1/agents/default/memory/%00", {"value": "a"}, 422),
        ("PUT", "/v1/agents/default/memory/a", {"value": "a", "days": 0}, 422),
        ("PUT", "/v1/agents/default/memory/a", b'{"value": "a", "days": NaN}', 422),
        ("PATCH", "/v1/agents/a", {}, 405),
        ("GET", "/v1/nothing", None, 404),
        ("POST", "/v1/files/a", b"", 404),
        ("PUT", "/v1/agents/default/memory/a", {"value": " "}, 422),
        ("PUT", "/v1/agents/default/memory/%1F", {"value": "a"}, 400),
    ],
)
def test_what_cannot_be_is_refused_with_one_error_and_nothing_is_done(
    api: Api, connect: Connect, method: str, path: str, body: Any, status: int
) -> None:
    before = counted(connect)

    told, said = api.ask(method, path, body)

    assert (told, said["status"]) == (status, status)
    assert said["title"]
    assert said["detail"]
    assert counted(connect) == before


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "BREW"])
def test_a_method_that_is_none_is_refused(api: Api, method: str) -> None:
    request = urllib.request.Request(f"{api.url}/v1/agents", method=method)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert refused.value.code in (405, 501)
