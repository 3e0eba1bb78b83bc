"""A new entry makes that tenant's resources and touches nothing else."""

import pytest

from tests.integration.conftest import Edit, Platform

pytestmark = pytest.mark.integration

NEWCOMER = {"id": "newcomer", "name": "Newcomer", "tier": "enterprise", "owner": "ops@newcomer.example"}


def test_an_added_tenant_is_all_that_the_preview_names_and_all_that_up_creates(
    platform: Platform, edit_roster: Edit
) -> None:
    before = platform.state()
    edit_roster(lambda tenants: tenants.append(NEWCOMER))

    planned = platform.changes()
    plan = platform.run("preview").stderr
    platform.up()
    after = platform.state()

    created = after.keys() - before.keys()
    assert planned["create"] == len(created) > 0
    assert (planned["replace"], planned["delete"]) == (0, 0)
    assert not before.keys() - after.keys()
    assert all("newcomer" in urn for urn in created)
    named = [line for line in plan.splitlines() if line.strip().startswith(("+", "-", "~"))]
    for other in (tenant["id"] for tenant in platform.status()["tenants"] if tenant["id"] != "newcomer"):
        assert not any(other in line for line in named)
    for urn in before:
        if "pulumi:pulumi:Stack" not in urn:
            assert after[urn] == before[urn]
