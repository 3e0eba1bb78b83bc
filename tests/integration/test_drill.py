"""Disasters on the whole platform: what was there is there again, and the program has nothing to mend."""

import json

import pytest

from tests.integration.conftest import Platform

pytestmark = pytest.mark.integration

DISASTERS = {
    *("one schema spoilt", "one schema dropped", "one prefix purged", "one tenant's secrets spoilt"),
    *("PostgreSQL's disk gone", "Vault's disk gone"),
}


def test_every_disaster_is_recovered_from_without_a_difference(platform: Platform) -> None:
    done = platform.run("drill", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads(done.stdout)["disasters"]
    assert {each["disaster"] for each in outcomes} == DISASTERS
    for each in outcomes:
        assert each["compared"] > 0
        assert each["differences"] == []
        assert 0 <= each["lost_seconds"] < 30
    assert platform.changes() == {}
    record = platform.core().read_namespaced_config_map("last-drill", "gateway")
    told = json.loads(record.data["drill.json"])
    assert told["completed"]
    assert {each["disaster"] for each in told["disasters"]} == DISASTERS


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("acme", "database", "--at", "2001-01-01T00:00Z"), "no base backup is from before 2001"),
        (("acme", "secrets", "--at", "2001-01-01T00:00Z"), "holds no secret that the tenant wrote"),
        (("acme", "objects", "--at", "soon"), "is no time, so nothing was changed"),
        (("acme", "database", "--at", "2026-11-28T10:00"), "names no time zone"),
        (("nobody", "objects", "--at", "2026-11-28T10:00Z", "--yes", "nobody"), "holds nothing"),
    ],
)
def test_a_restore_that_cannot_be_meant_is_refused(
    platform: Platform, arguments: tuple[str, ...], told: str
) -> None:
    done = platform.run("restore", *arguments)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
