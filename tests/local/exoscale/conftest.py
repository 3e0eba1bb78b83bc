"""The emulator on a real port; what it would ask of the S3 server is written down."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from exoscale.api.v2 import Client  # type: ignore[import-untyped]

from local.exoscale import iam, request, server
from local.exoscale.policy import Statement
from local.exoscale.store import Store
from local.servers import object_storage

OWNER = ("EXOowner", "owner-secret")
LISTINGS = "['list-objects', 'list-object-versions', 'list-multipart-uploads']"
OBJECTS = (
    "['get-object', 'head-object', 'put-object', 'delete-object', 'create-multipart-upload', 'upload-part', "
    "'complete-multipart-upload', 'abort-multipart-upload', 'list-parts']"
)


def confined(bucket: str = "artifacts", prefix: str = "tenant_acme/") -> dict[str, Any]:
    """The policy of a tenant."""
    where = f"parameters.bucket == '{bucket}'"
    return rules(
        f"operation in {LISTINGS} && {where} && parameters.prefix.startsWith('{prefix}')",
        f"operation in {OBJECTS} && {where} && parameters.key.startsWith('{prefix}')",
    )


def rules(*expressions: str, action: str = "allow") -> dict[str, Any]:
    """A policy that denies all services but these rules of object storage."""
    return {
        "default-service-strategy": "deny",
        "services": {
            "sos": {"type": "rules", "rules": [{"action": action, "expression": e} for e in expressions]}
        },
    }


@dataclass
class Emulator:
    """A running emulator and the identities that it told the S3 server."""

    state: Path
    identities: dict[str, list[Statement]] = field(default_factory=dict)
    url: str = ""

    def start(self) -> None:
        self._store = Store(self.state)
        iam.publish_all(self._store)
        self._listener = server.listen(server.Api(self._store, OWNER), 0)
        port = self._listener.server_address[1]
        self._listener.RequestHandlerClass.base_url = f"http://127.0.0.1:{port}/{{zone}}/v2"  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{port}/v2"
        threading.Thread(target=self._listener.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self._listener.shutdown()
        self._listener.server_close()

    def client(self, key: str = OWNER[0], secret: str = OWNER[1], zone: str | None = None) -> Client:
        return Client(key, secret, url=self.url.replace("/v2", f"/{zone}/v2") if zone else self.url)


@pytest.fixture
def emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """An emulator without any resource."""
    running = Emulator(tmp_path / "state.sqlite")

    def put_identity(name: str, access_key: str, secret_key: str, statements: list[Statement]) -> None:
        assert name == access_key
        assert secret_key
        running.identities[name] = statements

    monkeypatch.setattr(request, "DURATION", 0.02)
    monkeypatch.setattr(object_storage, "put_identity", put_identity)
    monkeypatch.setattr(object_storage, "delete_identity", lambda name: running.identities.pop(name, None))
    monkeypatch.setattr(object_storage, "url", lambda: "http://127.0.0.1:1")
    running.start()
    yield running
    running.stop()


@pytest.fixture
def api(emulator: Emulator) -> Client:
    """The owner's client."""
    return emulator.client()


def done(api: Client, operation: dict[str, Any]) -> str:
    """Wait for an operation; returns what it refers to."""
    assert operation["state"] == "pending"
    deadline = time.monotonic() + 10
    while (now := api.get_operation(id=operation["id"]))["state"] == "pending":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert now["state"] == "success"
    return str(now["reference"]["id"])
