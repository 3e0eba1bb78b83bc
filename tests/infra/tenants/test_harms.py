"""The harm that `make attack` does to PostgreSQL, with the statements as declared and with a wall down."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import hvac  # type: ignore[import-untyped]
import pytest

from infra.tenants import secrets
from local.attack.harms import postgres as harms
from local.attack.tenants import Tenant
from local.servers import postgres
from tests.infra.tenants.test_secrets import LOGINS, TENANTS, furnished, root

__all__ = ["furnished", "root"]


@pytest.fixture
def tenants(furnished: hvac.Client) -> list[Tenant]:
    made = []
    for name in TENANTS:
        tenant = Tenant({"id": name, "schema": f"tenant_{name}", "prefix": "", "namespace": "", "vm": ""})
        tenant.__dict__.update(vault=furnished, database=postgres.DATABASE)  # as they are asked for once
        made.append(tenant)
    return made


def outcomes(tenants: Sequence[Tenant], *names: str) -> dict[str, set[str]]:
    """How each harm came out, or those of some names."""
    found: dict[str, set[str]] = {}
    with harms.entered(tenants) as target:
        harms_done = tuple(harm for harm in target.harms if not names or harm.name in names)
        for attempt in replace(target, harms=harms_done).attempts():
            found.setdefault(attempt.name, set()).add(attempt.outcome)
    return found


def declare(vault: hvac.Client, which: str, statements: Callable[[str], Sequence[str]]) -> None:
    """Have Vault make or revoke every tenant's logins by other statements."""
    for tenant in TENANTS:
        path = f"database/roles/tenant-{tenant}"
        settings = {**vault.read(path)["data"], which: statements(f"tenant_{tenant}")}
        vault.write_data(path, data=settings)


def test_all_harm_is_withstood(tenants: list[Tenant]) -> None:
    found = outcomes(tenants)
    assert found
    assert set.union(*found.values()) == {"denied"}


def test_where_vault_limits_how_often_it_makes_logins_the_harm_waits_and_is_withstood(
    tenants: list[Tenant], root: hvac.Client
) -> None:
    """And nothing is done with other credentials in the meantime."""
    quotas = [f"sys/quotas/rate-limit/{tenant}" for tenant in TENANTS]
    for tenant, quota in zip(TENANTS, quotas, strict=True):
        root.write_data(quota, data={"path": f"database/creds/tenant-{tenant}", "rate": 4, "interval": "4s"})
    try:
        many = "take all connections with many logins"
        assert outcomes(tenants, many) == {many: {"denied"}}
    finally:
        for quota in quotas:
            root.delete(quota)


def test_a_login_without_a_limit_holds_up_others(tenants: list[Tenant], root: hvac.Client) -> None:
    declare(
        root,
        "creation_statements",
        lambda role: [
            re.sub(r"CONNECTION LIMIT \d+", "CONNECTION LIMIT -1", statement)
            for statement in secrets.creation_statements(role, LOGINS)
        ],
    )
    one_login = "take all connections with one login"
    assert outcomes(tenants, one_login) == {one_login: {"leaked"}}


def test_a_login_that_is_only_dropped_cannot_be_revoked(tenants: list[Tenant], root: hvac.Client) -> None:
    declare(root, "revocation_statements", lambda _role: ['DROP ROLE "{{name}}"'])

    hard_to_drop = ("own a large object as the bare login", "grant something to another's login")
    assert outcomes(tenants, *hard_to_drop) == {name: {"leaked"} for name in hard_to_drop}
