"""A service that is given but cannot be used is told before anything is changed."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from infra.errors import ConfigurationError
from infra.platform.preflight import require_given_services
from infra.settings import Settings, load_settings
from tests.infra.cluster.test_object_storage import free_ports
from tests.infra.recording import SECRETS, configure, local_stack, stack


@contextmanager
def vault(status: int, errors: list[str]) -> Iterator[str]:
    """A server that answers every request as Vault does when it refuses."""

    class Refusal(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({"errors": errors}).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Refusal)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def settings(vault_address: str) -> Settings:
    values = local_stack()
    values["database"]["given"]["port"] = free_ports(1)[0]
    values["vault"]["given"]["address"] = vault_address
    configure(values, SECRETS)
    return load_settings()


def refusal(vault_address: str) -> list[str]:
    with pytest.raises(ConfigurationError, match="nothing was changed") as error:
        require_given_services(settings(vault_address))
    assert not [value for value in SECRETS.values() if value in str(error.value)]
    return str(error.value).splitlines()[1:]


def test_services_that_do_not_answer_are_both_named() -> None:
    database, secrets = refusal(f"http://127.0.0.1:{free_ports(1)[0]}")
    assert database.startswith("  - agent-platform:database.given: PostgreSQL at 127.0.0.1:")
    assert "refused" in database
    assert secrets.startswith("  - agent-platform:vault.given: nothing answers at http://127.0.0.1:")


@pytest.mark.parametrize(
    ("status", "errors", "reason"),
    [
        (
            403,
            ["permission denied"],
            "the token is not valid; run: pulumi config set --secret agent-platform:vaultToken",
        ),
        (503, ["Vault is sealed"], "503: Vault is sealed; a sealed Vault has to be unsealed first"),
    ],
)
def test_a_vault_that_refuses_says_why(status: int, errors: list[str], reason: str) -> None:
    with vault(status, errors) as address:
        assert f"Vault at {address} refuses us ({reason})" in refusal(address)[1]


def test_a_managed_service_is_not_asked_for() -> None:
    configure(stack("prod"))
    require_given_services(load_settings())
