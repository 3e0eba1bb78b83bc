"""A machine's VPN, with a Vault that answers as the real one does; that it carries, only a guest can show."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from services.agent_runtime.guest import system, vpn
from tests.services.agent_runtime.answering import Answering, serving


@dataclass
class Secrets:
    """What Vault answers, one after the other, the last for ever."""

    statuses: list[int] = field(default_factory=lambda: [200])
    key: str | None = "a private key"
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def secrets() -> Secrets:
    return Secrets()


@pytest.fixture
def machine(tmp_path: Path, secrets: Secrets) -> Iterator[Path]:
    """A folder with what a machine is told."""

    class Vault(Answering):
        def post(self, asked: Any) -> tuple[int, Any]:
            return 200, {"auth": {"client_token": "t", "lease_duration": 60}}

        def get(self) -> tuple[int, Any]:
            secrets.asked.append(self.path)
            status = secrets.statuses.pop(0) if len(secrets.statuses) > 1 else secrets.statuses[0]
            return status, {"data": {"data": {"private_key": secrets.key} if secrets.key else {}}}

    for address in serving(ThreadingHTTPServer(("127.0.0.1", 0), Vault)):
        vault = {
            "address": address,
            "authentication": {"path": "auth/kubernetes", "role": "tenant-acme"},
            "secrets": "tenants/acme",
            "databaseLogin": "database/creds/tenant-acme",
        }
        told = {"tenant": "acme", "tier": "enterprise", "vault": vault}
        (tmp_path / "identity.json").write_text(json.dumps(told))
        (tmp_path / "token").write_text("token")
        (tmp_path / "wg0.conf").write_text("[Interface]\n")
        yield tmp_path


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The programs that were run."""
    found: list[tuple[str, ...]] = []
    monkeypatch.setattr(system, "run", lambda *command: found.append(command))
    monkeypatch.setattr(vpn, "_PATIENCE", 0.05)
    monkeypatch.setenv("PATH", "/bin")
    return found


def bring_up(machine: Path) -> None:
    vpn.bring_up(machine / "wg0.conf", machine / "identity.json", machine / "token")


def test_the_key_comes_from_vault_and_only_root_reads_it(
    machine: Path, secrets: Secrets, ran: list[tuple[str, ...]]
) -> None:
    bring_up(machine)

    key = machine / "wg0.key"
    assert (key.read_text(), key.stat().st_mode & 0o777) == ("a private key\n", 0o600)
    assert secrets.asked == ["/v1/tenants/data/acme/vpn"]
    assert ran == [("/usr/bin/wg-quick", "up", "wg0")]


def test_a_vault_that_is_sealed_is_asked_again(
    machine: Path, secrets: Secrets, ran: list[tuple[str, ...]]
) -> None:
    secrets.statuses = [503, 503, 200]

    bring_up(machine)

    assert len(secrets.asked) == 3
    assert ran


def test_a_machine_that_is_not_told_who_it_is_yet_waits(machine: Path, ran: list[tuple[str, ...]]) -> None:
    told = (machine / "identity.json").rename(machine / "later")
    waiting = threading.Thread(target=bring_up, args=(machine,))
    waiting.start()
    time.sleep(0.2)
    assert not ran
    told.rename(machine / "identity.json")
    waiting.join(10)
    assert ran


@pytest.mark.parametrize(("statuses", "key"), [([403], "a private key"), ([404], None), ([200], None)])
def test_without_a_key_nothing_is_set_up(
    machine: Path, secrets: Secrets, ran: list[tuple[str, ...]], statuses: list[int], key: str | None
) -> None:
    secrets.statuses, secrets.key = statuses, key

    with pytest.raises(system.FailedError, match="key"):
        bring_up(machine)

    assert not ran
    assert not (machine / "wg0.key").exists()
