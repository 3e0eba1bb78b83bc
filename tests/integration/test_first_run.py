"""`make up` from a fresh clone ends with four running tenants, and doing it again changes nothing."""

import os
import socket
import subprocess
from dataclasses import dataclass
from typing import Any

import pytest

from tests.integration.conftest import Platform

pytestmark = pytest.mark.integration

SAMPLE_TIERS = {"starter", "professional", "enterprise", "private-cloud"}


@dataclass(frozen=True)
class Restart:
    """The platform stopped, kept from starting by a stranger on a port of its own, and started again."""

    before: dict[str, Any]
    """The state."""
    exports: dict[str, str]
    """The exports of `make env`, before."""
    port: int
    """The stranger's."""
    stopped: dict[str, Any]
    """The status."""
    refused: subprocess.CompletedProcess[str]
    done: subprocess.CompletedProcess[str]
    after: dict[str, Any]


def told(platform: Platform) -> dict[str, str]:
    """Ask `make env` anew for what it puts into a shell; `exports` remembers an earlier answer."""
    return {name: value for name, value in platform._exports().items() if not name.startswith("PYTEST_")}


@pytest.fixture(scope="module")
def restarted(platform: Platform) -> Restart:
    before, exports = platform.state(), told(platform)
    port = int(exports["PGPORT"])
    assert platform.run("down").returncode == 0
    stopped = platform.status()
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        refused = platform.run("up")
    done = platform.up()
    return Restart(before, exports, port, stopped, refused, done, platform.state())


def test_up_declares_one_tenant_per_tier_and_their_machines_run(platform: Platform) -> None:
    status = platform.status()

    assert {tenant["tier"] for tenant in status["tenants"]} == SAMPLE_TIERS
    assert {tenant["id"]: (tenant["served_by"], tenant["status"]) for tenant in status["tenants"]} == {
        "acme": ("machine", "Running"),
        "bluebird": ("shared runtime", "Available"),
        "corvus": ("deployment", "Available"),
        "dufour": ("machine", "Running"),
    }
    assert status["services"]
    assert all(service["ready"] for service in status["services"].values())


def test_up_again_is_a_no_op_and_prints_the_tenants(platform: Platform, restarted: Restart) -> None:
    assert restarted.after == restarted.before
    assert "4 tenants" in restarted.done.stdout
    for tenant in platform.status()["tenants"]:
        assert tenant["id"] in restarted.done.stdout


def test_a_preview_after_up_shows_no_change(platform: Platform) -> None:
    assert platform.changes() == {}


def test_up_says_which_engine_and_plugins_it_used(restarted: Restart) -> None:
    told = restarted.done.stderr

    assert "Engine: " in told
    for plugin in ("kubernetes", "exoscale", "postgresql", "vault"):
        assert f"{plugin} (" in told


def test_a_stop_stops_every_server(restarted: Restart) -> None:
    assert not any(service["ready"] for service in restarted.stopped["services"].values())
    assert restarted.stopped["tenants"] == []


def test_a_port_taken_by_a_stranger_is_told_and_changes_nothing(restarted: Restart) -> None:
    told = restarted.refused.stdout + restarted.refused.stderr
    assert restarted.refused.returncode == 1
    assert str(restarted.port) in told
    assert str(os.getpid()) in told
    assert "Traceback" not in told


def test_the_servers_survive_a_stop_and_a_start(platform: Platform, restarted: Restart) -> None:
    assert told(platform) == restarted.exports


def test_no_secret_stands_in_the_state_in_the_clear(platform: Platform) -> None:
    state = platform.state_file.read_text(encoding="utf-8")
    exports = platform.exports()

    for name in ("PGPASSWORD", "VAULT_TOKEN", "EXOSCALE_API_SECRET"):
        assert exports[name] not in state
    assert "BEGIN PRIVATE KEY" not in state
    assert "BEGIN RSA PRIVATE KEY" not in state
    assert "client-key-data" not in state
