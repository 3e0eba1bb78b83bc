import json
from collections.abc import Callable, Iterator
from pathlib import Path

import hvac  # type: ignore[import-untyped]
import pytest

from local import credentials, store, supervisor
from local.errors import LocalError
from local.paths import DATA, LOGS
from local.servers import Module, vault
from tests.local.servers.conftest import Running

Up = Callable[[Module], None]


@pytest.fixture(scope="module", autouse=True)
def _server(running: Running) -> Iterator[None]:
    with running(vault):
        yield


def client(token: str | None = None) -> hvac.Client:
    exports = vault.environment()
    return hvac.Client(url=exports["VAULT_ADDR"], token=token or exports["VAULT_TOKEN"])


def test_it_is_unsealed_and_opens_to_the_kept_token() -> None:
    assert client().is_authenticated()
    assert not client().sys.is_sealed()
    assert not client("s.wrong").is_authenticated()
    assert vault.root_token() == vault.environment()["BAO_TOKEN"]


def test_secrets_outlive_a_kill_without_anybodys_help(kill: Up, up: Up) -> None:
    token = vault.root_token()
    client().sys.enable_secrets_engine("kv", path="sample", options={"version": "2"})
    # A new mount is upgraded to version 2 in the background.
    supervisor.wait_until(lambda: _put("a", "b"), timeout=10, what="the mount")
    kill(vault)
    up(vault)
    assert vault.root_token() == token
    found = client().secrets.kv.v2.read_secret_version(
        "key", mount_point="sample", raise_on_deleted_version=True
    )
    assert found["data"]["data"] == {"a": "b"}


def _put(name: str, value: str) -> None:
    try:
        client().secrets.kv.v2.create_or_update_secret("key", {name: value}, mount_point="sample")
    except hvac.exceptions.InvalidRequest as error:
        raise supervisor.NotReady(str(error)) from None


def test_one_that_was_sealed_while_it_ran_says_so_and_is_unsealed_by_the_next_up(up: Up) -> None:
    (service,) = vault.services()
    client().sys.seal()
    supervisor.wait_until(_sealed, timeout=10, what="its seal")
    told = supervisor.status(service)
    assert (told.ready, told.detail) == (False, "sealed; it unseals itself when it starts: `make up`")

    up(vault)

    assert client().is_authenticated()
    assert supervisor.status(service).ready


def _sealed() -> None:
    if not client().sys.is_sealed():
        raise supervisor.NotReady("open")


def test_everything_asked_is_audited_and_nothing_secret_in_clear() -> None:
    client().secrets.kv.v2.list_secrets("", mount_point="sample")
    log = DATA / "vault" / "audit.log"
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert any(entry["request"]["path"] == "sample/metadata/" for entry in entries if "request" in entry)
    assert vault.root_token() not in log.read_text()
    assert vault.root_token() not in (LOGS / "vault.log").read_text()


def test_its_files_are_private() -> None:
    files = [path for path in (DATA / "vault").rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"seal.key", "server.hcl", "audit.log"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
    pid = supervisor.status(vault.services()[0]).pid
    assert vault.root_token().encode() not in Path(f"/proc/{pid}/environ").read_bytes()


def test_an_initialisation_whose_answer_was_lost_is_done_again(up: Up) -> None:
    lost = vault.root_token()
    with store.edit(DATA / "credentials.json") as kept:
        del kept["vault-root-token"]
    with pytest.raises(LocalError, match="run `make up` first"):
        vault.root_token()
    assert "VAULT_TOKEN" not in vault.environment()
    up(vault)
    assert client().is_authenticated()
    assert not client(lost).is_authenticated()
    assert credentials.kept("vault-recovery-key")
