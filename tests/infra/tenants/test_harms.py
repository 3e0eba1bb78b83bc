"""The harm that `make attack` does to PostgreSQL, with the statements as declared and with a wall down."""

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import hvac  # type: ignore[import-untyped]
import pytest

from infra.platform.administrator import connect
from infra.platform.control_schema import ControlSchemaProvider
from infra.tenants import migrations, roles, secrets
from infra.tenants.migrations import patience, runner
from infra.tenants.migrations.record import Record
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
    """Return the outcomes of every harm, or of the named ones, by name."""
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


BUSY = (
    "stay idle in a transaction",
    "stay at one statement",
    "begin one transaction after the other in one statement",
)


def test_sessions_that_nobody_ends_stay(tenants: list[Tenant], database: dict[str, Any]) -> None:
    with connect(database) as server:
        body = "SELECT NULL::name, NULL::text WHERE false"
        server.execute(
            "CREATE OR REPLACE FUNCTION "
            "agent_platform.hold_sessions(longest interval, idlest interval, only_of name DEFAULT NULL, "
            "most_locks integer DEFAULT 2000) "
            f"RETURNS TABLE (tenant name, told text) LANGUAGE sql AS '{body}'"
        )
    try:
        assert outcomes(tenants, *BUSY) == {name: {"leaked"} for name in BUSY}
    finally:
        ControlSchemaProvider().update("", {}, {**database, "issuer": "vault", "members": "tenants"})


def test_a_statement_is_as_old_as_it_is_however_often_it_commits(
    tenants: list[Tenant], database: dict[str, Any]
) -> None:
    with connect(database) as server:
        (source,) = server.execute(
            "SELECT pg_get_functiondef('agent_platform.hold_sessions'::regproc)"
        ).fetchone() or ("",)
        assert "least(xact_start, query_start)" in source
        server.execute(source.replace("least(xact_start, query_start)", "xact_start"))
    try:
        assert outcomes(tenants, *BUSY) == {
            BUSY[0]: {"denied"},
            BUSY[1]: {"denied"},
            BUSY[2]: {"leaked"},
        }
    finally:
        ControlSchemaProvider().update("", {}, {**database, "issuer": "vault", "members": "tenants"})


def test_a_table_that_is_held_fails_an_update_that_ends_nobodys_session(
    tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "ending_holders", lambda *_: nullcontext())
    monkeypatch.setattr(runner, "_PATIENCE", "1s")
    held = "hold a table against an update"
    assert outcomes(tenants, held) == {held: {"leaked"}}


def test_an_update_whose_role_is_only_dropped_fails_by_what_others_grant_to_it(
    tenants: list[Tenant], database: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    end = roles.end

    def drop(where: Any, role: str) -> None:
        with connect(where) as server:
            server.execute(f"DROP ROLE IF EXISTS {role}".encode())

    monkeypatch.setattr(roles, "end", drop)
    granted = "grant something to the role of another's update"
    try:
        assert outcomes(tenants, granted) == {granted: {"leaked"}}
    finally:
        for tenant in tenants:
            end(database, f"{tenant.schema}_migration")


def test_a_schemas_own_word_for_its_revision_stops_its_update(
    tenants: list[Tenant], monkeypatch: pytest.MonkeyPatch
) -> None:
    def revision(self: Record) -> str:
        statement = "SELECT obj_description(to_regnamespace(%s), 'pg_namespace')"
        (found,) = self._administrator.execute(statement, [self._schema]).fetchone() or (None,)
        return str(found or migrations.head()).rpartition(" ")[2]

    monkeypatch.setattr(Record, "revision", revision)
    said = "say that one's schema is newer than any checkout"
    assert outcomes(tenants, said) == {said: {"leaked"}}


def test_temporary_files_without_a_limit_fill_the_disk(
    tenants: list[Tenant], database: dict[str, Any]
) -> None:
    filled = "fill the disk with temporary files"
    with connect(database) as server:
        server.execute("ALTER DATABASE agents SET temp_file_limit = -1")
    try:
        assert outcomes(tenants, filled) == {filled: {"leaked"}}
    finally:
        with connect(database) as server:
            server.execute("ALTER DATABASE agents RESET temp_file_limit")
