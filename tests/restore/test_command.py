"""The command: it plans and asks before it changes anything, and tells bad input in one message."""

import json
from collections.abc import Callable
from typing import Any

import boto3
import pytest

from local.servers import object_storage
from restore import __main__ as program
from tests.restore.conftest import ARTIFACTS, LOGS, client, second

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def s3(servers: None) -> Any:
    return client()


@pytest.fixture
def run(s3: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    for name, value in object_storage.environment().items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> tuple[int, str, str]:
        status = program.main([*arguments, "--stack", "local"])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def at(s3: Any) -> str:
    """A time at which acme's object said `old`; now it says `new`."""
    s3.put_object(Bucket=ARTIFACTS, Key="tenant_acme/a", Body=b"old")
    then = second()
    s3.put_object(Bucket=ARTIFACTS, Key="tenant_acme/a", Body=b"newer")
    return f"{then:%Y-%m-%dT%H:%M:%SZ}"


def said(s3: Any) -> bytes:
    body: bytes = s3.get_object(Bucket=ARTIFACTS, Key="tenant_acme/a")["Body"].read()
    return body


def test_it_plans_restores_and_compares(run: Run, s3: Any, at: str) -> None:
    status, shown, _ = run("acme", "objects", "--at", at, "--yes", "acme")
    assert status == 0
    assert said(s3) == b"old"
    for told in ("3 bytes of", "5 bytes of", "1 to change", "to have it back, restore to 2", "0 differences"):
        assert told in shown
    again = run("acme", "objects", "--at", at, "--yes", "acme")
    assert (again[0], "is as it was then; nothing was changed" in again[1]) == (0, True)


def test_a_plan_alone_changes_nothing(run: Run, s3: Any, at: str) -> None:
    status, shown, _ = run("acme", "objects", "--at", at, "--plan")
    assert (status, "1 to change" in shown, said(s3)) == (0, True, b"newer")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ((), "nobody can be asked, so nothing was changed; add --yes acme"),
        (("--yes", "bluebird"), "'bluebird' is not acme, so nothing was changed"),
    ],
)
def test_nothing_is_changed_without_a_yes(
    run: Run, s3: Any, at: str, more: tuple[str, ...], told: str
) -> None:
    status, _, error = run("acme", "objects", "--at", at, *more)
    assert (status, said(s3)) == (1, b"newer")
    assert told in error


@pytest.mark.parametrize(
    ("time", "told"),
    [
        ("0001-01-01T00:00:00+14:00", "is no time"),
        ("yesterday", "is no time; write it as 2026-11-28T10:00Z"),
        ("2026-11-28T10:00", "names no time zone"),
        ("2999-01-01T00:00Z", "has not come yet"),
        ("2001-01-01T00:00Z", "has no version from before 2"),
    ],
)
def test_a_time_that_cannot_be_meant_is_refused(run: Run, s3: Any, at: str, time: str, told: str) -> None:
    status, shown, error = run("acme", "objects", "--at", time, "--yes", "acme")
    assert (status, shown, error.count("\n"), said(s3)) == (1, "", 1, b"newer")
    assert told in error


@pytest.mark.parametrize("tenant", ["Acme", "../x", "acme; drop", "", "acme/artifacts", "x"])
def test_what_is_no_tenants_id_is_refused(run: Run, at: str, tenant: str) -> None:
    status, shown, error = run(tenant, "objects", "--at", at, "--yes", tenant)
    assert (status, shown, error.count("\n")) == (1, "", 1)
    assert "is no tenant's id, so nothing was changed" in error


def test_a_name_that_a_tenant_chose_is_no_order_to_a_terminal(run: Run, s3: Any) -> None:
    then = second()
    for name in ("[/bold]", "[link=evil]ok[/link]", "a\tb"):
        s3.put_object(Bucket=ARTIFACTS, Key=f"tenant_odd/{name}", Body=b"x")
    s3.put_object(Bucket=ARTIFACTS, Key="tenant_odd/early", Body=b"x")
    later = second()
    s3.delete_object(Bucket=ARTIFACTS, Key="tenant_odd/[/bold]")
    s3.delete_object(Bucket=ARTIFACTS, Key="tenant_odd/[link=evil]ok[/link]")
    s3.delete_object(Bucket=ARTIFACTS, Key="tenant_odd/a\tb")
    status, shown, _ = run("odd", "objects", "--at", f"{later:%Y-%m-%dT%H:%M:%SZ}", "--plan")
    assert status == 0
    assert "[/bold]" in shown
    assert "[link=evil]ok[/link]" in shown
    assert "\t" not in shown
    assert then < later


def test_a_bucket_without_versions_is_left_alone(run: Run, s3: Any, at: str) -> None:
    s3.put_bucket_versioning(Bucket=ARTIFACTS, VersioningConfiguration={"Status": "Suspended"})
    try:
        status, _, error = run("acme", "objects", "--at", at, "--yes", "acme")
    finally:
        s3.put_bucket_versioning(Bucket=ARTIFACTS, VersioningConfiguration={"Status": "Enabled"})
    assert status == 1
    assert "keeps no versions, so what is replaced would be lost" in error
    assert said(s3) == b"newer"


def test_a_database_takes_a_recovered_server(run: Run, at: str) -> None:
    status, _, error = run("acme", "database", "--at", at, "--yes", "acme")
    assert (status, error.count("\n")) == (1, 1)
    assert "--recovered: is missing" in error


def test_of_a_tenant_that_has_left_the_receipt_says_what_is_kept(run: Run, s3: Any, at: str) -> None:
    kept = [{"what": "final backup", "where": "logs/offboarded/gone/", "until": "2027-01-01"}]
    s3.put_object(Bucket=LOGS, Key="receipts/gone.json", Body=json.dumps({"remains": kept}).encode())
    status, _, error = run("gone", "objects", "--at", at, "--yes", "gone")
    assert (status, error.count("\n")) == (1, 1)
    assert "gone has left" in error
    assert "final backup until 2027-01-01 (logs/offboarded/gone/)" in error


def test_a_key_to_object_storage_that_is_lost_is_told(
    run: Run, s3: Any, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it would remember the key
    status, _, error = run("acme", "objects", "--at", at, "--yes", "acme")
    assert (status, error.count("\n"), said(s3)) == (1, 1, b"newer")
    assert f"{LOGS}: cannot be read" in error
    assert "SignatureDoesNotMatch" in error
    assert "so nothing was changed" in error


def test_without_object_storage_nothing_is_changed(
    run: Run, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    status, _, error = run("acme", "objects", "--at", at, "--yes", "acme")
    assert (status, error.count("\n")) == (1, 1)
    assert "object storage does not answer" in error
