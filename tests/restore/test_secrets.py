"""Secrets come back from their older versions: nothing else is touched, nothing is lost by it, and no
contents are shown."""

import itertools
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hvac  # type: ignore[import-untyped]
import pytest

from infra.platform.vault import KV
from local import supervisor
from local.servers import object_storage, vault
from restore import __main__ as program
from restore.errors import RestoreError
from restore.secrets import Secrets
from tests.restore.conftest import CONSOLE, LOGS, client

_DOCS = Path(__file__).parents[2] / "docs"
numbers = itertools.count()


@pytest.fixture(scope="module")
def root() -> Iterator[hvac.Client]:
    """Vault, with the mount of tenants' secrets."""
    vault.prepare()
    (service,) = vault.services()
    supervisor.start(service, CONSOLE)
    try:
        supervisor.wait_until(vault.bootstrap, timeout=30, what="vault: its first contents")
        found = hvac.Client(url=vault.url(), token=vault.root_token())
        found.sys.enable_secrets_engine("kv", path=KV, options={"version": "2"})
        yield found
    finally:
        supervisor.stop(service.name)


def policy(tenant: str) -> str:
    """Return the rights that the runbook says are enough."""
    blocks = (
        found[1]
        for page in sorted(_DOCS.rglob("*.md"))
        for found in re.finditer(r"```hcl\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        if "undelete/acme/" in found[1]
    )
    return next(blocks).replace("/acme/", f"/{tenant}/")


@pytest.fixture
def tenant(root: hvac.Client, monkeypatch: pytest.MonkeyPatch) -> str:
    """One that no other test has; the environment has a token with the rights of the runbook."""
    name = f"t{next(numbers)}"
    supervisor.wait_until(lambda: _mounted(root), timeout=10, what="the mount")
    root.sys.create_or_update_policy(f"restore-{name}", policy(name))
    issued = root.auth.token.create(policies=[f"restore-{name}"], no_default_policy=True, ttl="1h")
    monkeypatch.setenv("VAULT_ADDR", vault.url())
    monkeypatch.setenv("VAULT_TOKEN", issued["auth"]["client_token"])
    return name


def _mounted(root: hvac.Client) -> None:
    try:
        put(root, "probe", "x")
    except hvac.exceptions.InvalidRequest as error:
        raise supervisor.NotReady(str(error)) from None  # upgraded to version 2 in the background


def put(root: hvac.Client, path: str, value: str) -> int:
    found = root.secrets.kv.v2.create_or_update_secret(path, {"value": value}, mount_point=KV)
    return int(found["data"]["version"])


def delete(root: hvac.Client, path: str) -> None:
    root.secrets.kv.v2.delete_latest_version_of_secret(path, mount_point=KV)


def contents(root: hvac.Client, path: str, version: int | None = None) -> str | None:
    try:
        found = root.secrets.kv.v2.read_secret_version(
            path, version, mount_point=KV, raise_on_deleted_version=True
        )
    except hvac.exceptions.InvalidPath:
        return None
    return str(found["data"]["data"]["value"])


def moment() -> datetime:
    """Return a time between what was done and what comes."""
    time.sleep(0.01)
    at = datetime.now(UTC)
    time.sleep(0.01)
    return at


def restored(tenant: str, at: datetime) -> datetime:
    """Restore without a difference; return the time that is told as the way back."""
    secrets = Secrets(tenant, at)
    plan = secrets.plan()
    told = secrets.prepare(plan)
    secrets.apply(plan)
    assert secrets.differences() == []
    return datetime.fromisoformat(told.rpartition(" ")[2].rstrip("."))


def test_what_was_changed_deleted_and_added_since_is_undone(root: hvac.Client, tenant: str) -> None:
    for name in ("changed", "deep/er/changed", "deleted", "same", "odd ?%#"):
        put(root, f"{tenant}/{name}", f"old {name}")
    at = moment()
    for name in ("changed", "deep/er/changed", "odd ?%#"):
        put(root, f"{tenant}/{name}", "new")
    put(root, f"{tenant}/added", "new")
    delete(root, f"{tenant}/deleted")

    plan = Secrets(tenant, at).plan()

    assert [
        (change.what, change.now.split(" of ")[0], change.then.split(" of ")[0]) for change in plan.changes
    ] == [
        ("added", "version 1", "nothing"),
        ("changed", "version 2", "version 1"),
        ("deep/er/changed", "version 2", "version 1"),
        ("deleted", "nothing", "version 1"),
        ("odd ?%#", "version 2", "version 1"),
    ]
    assert (plan.same, plan.lost) == (1, [])
    restored(tenant, at)
    for name in ("changed", "deep/er/changed", "deleted", "same", "odd ?%#"):
        assert contents(root, f"{tenant}/{name}") == f"old {name}"
    assert contents(root, f"{tenant}/added") is None


def test_nothing_that_was_there_is_lost(root: hvac.Client, tenant: str) -> None:
    put(root, f"{tenant}/changed", "old")
    at = moment()
    put(root, f"{tenant}/changed", "new")
    put(root, f"{tenant}/added", "new")
    restored(tenant, at)
    assert [contents(root, f"{tenant}/changed", number) for number in (1, 2, 3)] == ["old", "new", "old"]
    root.secrets.kv.v2.undelete_secret_versions(f"{tenant}/added", [1], mount_point=KV)
    assert contents(root, f"{tenant}/added") == "new"


def test_a_restore_can_be_undone_by_a_restore(root: hvac.Client, tenant: str) -> None:
    names = ("changed", "deleted", "again", "added")
    for name in names[:3]:
        put(root, f"{tenant}/{name}", "old")
    at = moment()
    put(root, f"{tenant}/changed", "new")
    put(root, f"{tenant}/added", "new")
    delete(root, f"{tenant}/deleted")
    delete(root, f"{tenant}/again")
    put(root, f"{tenant}/again", "new")
    latest = {name: contents(root, f"{tenant}/{name}") for name in names}

    undo = restored(tenant, at)
    assert [contents(root, f"{tenant}/{name}") for name in names] == ["old", "old", "old", None]
    redo = restored(tenant, undo)
    assert {name: contents(root, f"{tenant}/{name}") for name in names} == latest
    restored(tenant, redo)
    assert [contents(root, f"{tenant}/{name}") for name in names] == ["old", "old", "old", None]


def test_what_was_deleted_then_does_not_come_back(root: hvac.Client, tenant: str) -> None:
    put(root, f"{tenant}/a", "old")
    delete(root, f"{tenant}/a")
    at = moment()
    put(root, f"{tenant}/a", "new")
    restored(tenant, at)
    assert contents(root, f"{tenant}/a") is None


def test_what_the_program_wrote_and_what_a_neighbour_wrote_stays(root: hvac.Client, tenant: str) -> None:
    others = [f"{tenant}/{name}" for name in ("object-storage", "gateway", "vpn")] + [f"{tenant}x/a"]
    for path in (*others, f"{tenant}/a"):
        put(root, path, "old")
    at = moment()
    for path in (*others, f"{tenant}/a"):
        put(root, path, "new")
    assert [change.what for change in Secrets(tenant, at).plan().changes] == ["a"]
    restored(tenant, at)
    assert [contents(root, path) for path in others] == ["new"] * 4


def test_a_secret_that_was_written_again_with_the_same_contents_is_the_same(
    root: hvac.Client, tenant: str
) -> None:
    put(root, f"{tenant}/a", "one")
    at = moment()
    put(root, f"{tenant}/a", "one")
    plan = Secrets(tenant, at).plan()
    assert (plan.changes, plan.same) == ([], 1)


def test_what_cannot_come_back_is_told_and_stays(root: hvac.Client, tenant: str) -> None:
    for name in ("destroyed", "overwritten", "fine"):
        put(root, f"{tenant}/{name}", "old")
    at = moment()
    root.secrets.kv.v2.destroy_secret_versions(f"{tenant}/destroyed", [1], mount_point=KV)
    for number in range(10):
        put(root, f"{tenant}/overwritten", f"new {number}")
    put(root, f"{tenant}/fine", "new")
    secrets = Secrets(tenant, at)

    plan = secrets.plan()

    assert [change.what for change in plan.changes] == ["fine"]
    destroyed, overwritten = plan.lost
    assert destroyed.startswith("destroyed: version 1, which was current then, is destroyed")
    assert overwritten.startswith(
        "overwritten: Vault keeps 10 versions of it (max_versions), the oldest is 2 of"
    )
    secrets.prepare(plan)
    secrets.apply(plan)
    assert secrets.differences() == list(plan.lost)
    assert contents(root, f"{tenant}/overwritten") == "new 9"
    assert contents(root, f"{tenant}/fine") == "old"


def test_a_secret_of_one_version_is_not_overwritten(root: hvac.Client, tenant: str) -> None:
    put(root, f"{tenant}/a", "old")
    at = moment()
    delete(root, f"{tenant}/a")
    root.secrets.kv.v2.update_metadata(f"{tenant}/a", max_versions=1, mount_point=KV)
    secrets = Secrets(tenant, at)
    with pytest.raises(
        RestoreError, match=r"keeps one version \(max_versions\), so what is replaced would be"
    ):
        secrets.prepare(secrets.plan())


def test_whoever_writes_meanwhile_is_not_overtaken(root: hvac.Client, tenant: str, monkeypatch: Any) -> None:
    put(root, f"{tenant}/a", "old")
    at = moment()
    put(root, f"{tenant}/a", "new")
    secrets = Secrets(tenant, at)
    plan = secrets.plan()
    secrets.prepare(plan)
    known = secrets._secrets()
    put(root, f"{tenant}/a", "newest")
    monkeypatch.setattr(secrets, "_secrets", lambda: known)
    with pytest.raises(RestoreError, match=r"brought back in part: .*check-and-set.* Run the same command"):
        secrets.apply(plan)
    assert contents(root, f"{tenant}/a") == "newest"


def test_a_time_before_the_first_version_is_refused(root: hvac.Client, tenant: str) -> None:
    put(root, f"{tenant}/a", "one")
    with pytest.raises(RestoreError, match=r"has no version from before .*; choose a later time"):
        Secrets(tenant, datetime.now(UTC) - timedelta(days=1)).plan()


def test_a_tenant_that_wrote_nothing_is_refused(root: hvac.Client, tenant: str) -> None:
    put(root, f"{tenant}/gateway", "ours")
    with pytest.raises(RestoreError, match="holds no secret that the tenant wrote"):
        Secrets(tenant, datetime.now(UTC)).plan()


def test_a_token_without_the_rights_is_refused_in_one_line(root: hvac.Client, tenant: str) -> None:
    put(root, f"{tenant}x/a", "one")
    with pytest.raises(RestoreError, match=r"^Vault refused [^\n]*\(403\)[^\n]*; nothing was changed\.$"):
        Secrets(f"{tenant}x", datetime.now(UTC)).plan()


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    servers: None, tenant: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    for name, value in object_storage.environment().items():
        monkeypatch.setenv(name, value)

    def run(at: datetime, *more: str) -> tuple[int, str, str]:
        status = program.main([tenant, "secrets", "--at", at.isoformat(), "--stack", "local", *more])
        return status, *capsys.readouterr()

    return run


def test_the_command_shows_no_contents_and_tells_the_way_back(
    root: hvac.Client, tenant: str, run: Run
) -> None:
    put(root, f"{tenant}/a", "hidden-old")
    at = moment()
    put(root, f"{tenant}/a", "hidden-new")
    status, shown, error = run(at, "--yes", tenant)
    assert (status, error, contents(root, f"{tenant}/a")) == (0, "", "hidden-old")
    for told in (
        "version 2 of",
        "version 1 of",
        "To have back what is there now, restore to",
        "0 differences",
    ):
        assert told in shown
    assert "hidden" not in shown


def test_the_command_fails_where_something_cannot_come_back(root: hvac.Client, tenant: str, run: Run) -> None:
    put(root, f"{tenant}/a", "old")
    at = moment()
    root.secrets.kv.v2.destroy_secret_versions(f"{tenant}/a", [1], mount_point=KV)
    status, shown, _ = run(at, "--yes", tenant)
    assert status == 1
    assert "cannot come back: a: version 1, which was current then, is destroyed" in shown
    assert "differs by what cannot come back; nothing was changed" in shown


def test_a_tenant_that_is_gone_is_told_by_its_receipt(root: hvac.Client, tenant: str, run: Run) -> None:
    put(root, f"{tenant}/a", "old")
    client().put_object(Bucket=LOGS, Key=f"receipts/{tenant}.json", Body=b'{"remains": []}')
    status, _, error = run(moment(), "--yes", tenant)
    assert (status, error.count("\n")) == (1, 1)
    assert f"{tenant} has left" in error


@pytest.mark.parametrize("name", ["VAULT_ADDR", "VAULT_TOKEN"])
def test_without_a_way_into_vault_nothing_is_changed(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv(name)
    status, _, error = run(moment())
    assert (status, error.count("\n")) == (1, 1)
    assert f"{name}: not set, so Vault cannot be entered" in error


def test_a_sealed_vault_is_told(root: hvac.Client, tenant: str, run: Run) -> None:
    put(root, f"{tenant}/a", "old")
    at = moment()
    root.sys.seal()
    try:
        status, _, error = run(at, "--yes", tenant)
    finally:
        vault.prepare()  # stops one that is sealed
        (service,) = vault.services()
        supervisor.start(service, CONSOLE)
    assert (status, error.count("\n")) == (1, 1)
    assert "is sealed, so nothing was changed" in error
