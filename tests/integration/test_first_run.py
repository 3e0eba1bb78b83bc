"""`make up` from a fresh clone ends with four running tenants, and doing it again changes nothing."""

import pytest

from tests.integration.conftest import Platform

pytestmark = pytest.mark.integration

SAMPLE_TIERS = {"starter", "professional", "enterprise", "private-cloud"}


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


def test_up_again_is_a_no_op_and_prints_the_tenants(platform: Platform) -> None:
    before = platform.state()

    done = platform.up()

    assert platform.state() == before
    assert "4 tenants" in done.stdout
    for tenant in platform.status()["tenants"]:
        assert tenant["id"] in done.stdout


def test_a_preview_after_up_shows_no_change(platform: Platform) -> None:
    changes = platform.changes()

    assert changes.pop("same") > 0
    assert changes == {"create": 0, "update": 0, "replace": 0, "delete": 0}


def test_up_says_which_engine_and_plugins_it_used(platform: Platform) -> None:
    told = platform.up().stderr

    assert "Engine: " in told
    for plugin in ("kubernetes", "exoscale", "postgresql", "vault"):
        assert f"{plugin} (" in told


def test_the_servers_survive_a_stop_and_a_start(platform: Platform) -> None:
    before = platform.exports()

    assert platform.run("down").returncode == 0
    stopped = platform.status()
    assert not any(service["ready"] for service in stopped["services"].values())
    assert stopped["tenants"] == []
    platform.up()

    assert platform.exports() == before
    assert platform.changes()["same"] > 0


def test_no_secret_stands_in_the_state_in_the_clear(platform: Platform) -> None:
    state = platform.state_file.read_text(encoding="utf-8")
    exports = platform.exports()

    for name in ("PGPASSWORD", "VAULT_TOKEN", "EXOSCALE_API_SECRET"):
        assert exports[name] not in state
    assert "BEGIN PRIVATE KEY" not in state
    assert "BEGIN RSA PRIVATE KEY" not in state
    assert "client-key-data" not in state
