"""Runtimes as they run: in a machine, in a pod of a tenant's own, and shared."""

import dataclasses
import json
import urllib.error
import urllib.request
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from services.agent_runtime.files import FolderFiles
from services.agent_runtime.server import Server
from services.agent_runtime.settings import Settings
from services.agent_runtime.tenants import Tenants
from tests.services.agent_runtime.answering import Answering

_GATEWAY = "https://gateway.example:8444"
NO_DATABASE = "postgresql://127.0.0.1:9/agents"
"""A URL at which nobody listens, for tests that need no tables."""


def vault(
    object_storage: dict[str, str] | None, login: dict[str, str] | None = None, model: Any = None
) -> ThreadingHTTPServer:
    """A Vault that lets `tenant-acme` in and nobody else, and has its key to object storage.

    Without that, it refuses all that is asked for. It may have a login to PostgreSQL, and the secret `model`.
    """

    class Vault(Answering):
        def post(self, asked: Any) -> tuple[int, Any]:
            if self.path == "/v1/auth/token/revoke-self":
                return 200, {}
            if self.path == "/v1/sys/leases/renew":
                return 200, {"lease_duration": 3600}
            known = asked["role"] == "tenant-acme"
            return 200 if known else 403, {"auth": {"client_token": "t", "lease_duration": 60}}

        def get(self) -> tuple[int, Any]:
            if object_storage is None:
                return 403, {"errors": []}
            if self.path == "/v1/tenants/data/acme/object-storage":
                return 200, {"data": {"data": object_storage}}
            if self.path == "/v1/tenants/data/acme/model" and model:
                return 200, {"data": {"data": model}}
            if self.path == "/v1/database/creds/tenant-acme" and login:
                return 200, {"data": login, "lease_id": "lease", "lease_duration": 3600}
            return 404, {"errors": []}

    return ThreadingHTTPServer(("127.0.0.1", 0), Vault)


def runtime(
    kind: str, folder: Path, vault: str, database: str = NO_DATABASE, *, commands: bool = False
) -> Server:
    """A runtime of that kind, `machine`, `own` or `shared`, with what it keeps on disk in `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "token").write_text("token")
    said = {"VAULT_ADDR": vault, "TMPDIR": str(folder), "GATEWAY_ADDR": _GATEWAY, "DATABASE_URL": database}
    if kind != "shared":
        said["VAULT_TOKEN_FILE"] = str(folder / "token")
    settings = dataclasses.replace(Settings.read(said), identity=folder / "identity.json")
    if kind != "shared":
        authentication = {"path": "auth/kubernetes", "role": "tenant-acme"}
        where = {
            "address": vault,
            "authentication": authentication,
            "secrets": "tenants/acme",
            "databaseLogin": "database/creds/tenant-acme",
        }
        told = {"tenant": "acme", "tier": "any", "vault": where, "database": database, "commands": commands}
        settings.identity.write_text(json.dumps(told))
    if kind == "machine":
        (folder / "workspace").mkdir(exist_ok=True)
        FolderFiles(folder / "workspace").note("here", "")
        settings = dataclasses.replace(settings, workspace=folder / "workspace")
    return Server(("127.0.0.1", 0), Tenants(settings))


def said_of(tenant: str | None) -> dict[str, str]:
    """The headers with which the gateway passes on a tenant's request."""
    return {"X-Tenant": tenant, "X-Assertion": "acme's", "X-Gateway": _GATEWAY} if tenant else {}


def ask(method: str, url: str, tenant: str | None = "acme", body: Any = None) -> tuple[int, bytes]:
    """An answer's status and content; `body` is bytes, or an iterable of them to be sent in chunks."""
    request = urllib.request.Request(url, data=body, method=method)
    for name, value in said_of(tenant).items():
        request.add_header(name, value)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
