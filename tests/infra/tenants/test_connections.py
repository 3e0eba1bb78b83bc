"""The connections that tenants may hold fit into the server, or a preview says that they do not."""

from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml

from infra.platform.vault import DATABASE_CONNECTIONS
from infra.tenants.connections import advise_connections, bound
from infra.tenants.roster import TenantEntry, load_roster
from infra.tenants.tiers import TIERS


def entries(folder: Path, *fields: dict[str, Any]) -> tuple[TenantEntry, ...]:
    tenants = [
        {"id": f"t{n:03}", "name": "A", "owner": "a@b.example", **each} for n, each in enumerate(fields)
    ]
    path = folder / "tenants.yaml"
    path.write_text(yaml.safe_dump({"tenants": tenants}))
    return load_roster(path).tenants


def test_every_tenant_counts_with_all_that_its_logins_may_hold(tmp_path: Path) -> None:
    tenants = entries(tmp_path, {"tier": "starter"}, {"tier": "private-cloud", "ownDatabase": True})

    expected = TIERS["starter"].logins.bound + TIERS["private-cloud"].logins.bound + DATABASE_CONNECTIONS
    assert bound(tenants) == expected


def test_a_bound_counts_one_login_more_which_is_being_retired() -> None:
    for tier in TIERS.values():
        assert tier.logins.bound == (tier.logins.at_once + 1) * tier.logins.connections


@pytest.mark.parametrize(("spare", "told"), [(0, 0), (-1, 1)])
def test_a_roster_that_does_not_fit_is_told_in_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spare: int, told: int
) -> None:
    tenants, messages = entries(tmp_path, *[{"tier": "starter"}] * 10), list[str]()
    monkeypatch.setattr(pulumi.log, "warn", messages.append)
    needed = bound(tenants)

    advise_connections(tenants, needed + spare)

    assert len(messages) == told
    assert all(f"may hold {needed} connections" in message for message in messages)
