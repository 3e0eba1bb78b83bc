"""A copy of the state: the last one comes back as it was, and none has a secret in clear."""

import gzip
import io
import json
from collections.abc import Callable
from typing import Any

import boto3
import pytest

from local import backups
from local.servers import object_storage
from restore import state
from tests.restore.conftest import client

SECRET = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270"}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(servers: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    for name, value in object_storage.environment().items():
        monkeypatch.setenv(name, value)

    def run(action: str, given: str = "", stack: str = "local", *more: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        status = state.main([action, "--stack", stack, *more])
        return status, *capsys.readouterr()

    return run


def exported(*resources: dict[str, Any]) -> str:
    return json.dumps({"version": 3, "deployment": {"resources": resources}}, indent=4)


def copies() -> list[str]:
    listed = client().list_objects_v2(Bucket=backups.bucket(), Prefix="state/local/").get("Contents", [])
    return sorted(item["Key"] for item in listed)


def test_the_last_copy_comes_back_and_the_earlier_ones_stay(run: Run) -> None:
    before = len(copies())
    first, last = (
        exported({"urn": "one"}),
        exported({"urn": "two"}, {"outputs": {**SECRET, "ciphertext": "v1:x"}}),
    )
    for each in (first, last):
        status, shown, told = run("keep", each)
        assert (status, shown) == (0, "")
        assert f"{backups.bucket()}/state/local/2" in told
    assert run("fetch")[:2] == (0, last)
    kept = copies()
    assert len(kept) == before + 2
    body = client().get_object(Bucket=backups.bucket(), Key=kept[-2])["Body"].read()
    assert gzip.decompress(body).decode() == first


def test_of_a_cluster_that_is_gone_the_objects_are_left_out_and_nothing_else(run: Run) -> None:
    provider = "urn:pulumi:prod::p::Cluster$pulumi:providers:kubernetes::cluster"
    kept = {"urn": "role", "provider": "urn:pulumi:prod::p::pulumi:providers:postgresql::database::1"}
    pod = {"urn": "pod", "provider": f"{provider}::id", "dependencies": ["role"]}
    given = {
        **kept,
        "dependencies": ["pod", "other"],
        "propertyDependencies": {"one": ["pod"], "two": ["other", "pod"], "three": None},
        "deletedWith": "pod",
    }
    leads = {"urn": provider, "type": "pulumi:providers:kubernetes"}
    run("keep", exported(leads, pod, given))
    status, shown, _ = run("fetch", "", "local", "--cluster-lost")
    assert status == 0
    found_provider, found = json.loads(shown)["deployment"]["resources"]
    assert found_provider["urn"] == provider
    assert found == {
        **kept,
        "dependencies": ["other"],
        "propertyDependencies": {"one": [], "two": ["other"], "three": []},
    }


@pytest.mark.parametrize("given", ["", "error: no stack named prod", "[]", '{"version": 3}'])
def test_what_is_no_state_is_no_copy(run: Run, given: str) -> None:
    before = copies()
    status, _, error = run("keep", given)
    assert (status, error.count("\n"), copies()) == (1, 1, before)
    assert "standard input is no state, so no copy was kept" in error


def test_a_state_with_a_secret_in_clear_is_refused(run: Run) -> None:
    before = copies()
    plain = {"inputs": {"password": [{**SECRET, "plaintext": '"hidden"'}]}}
    status, _, error = run("keep", exported(plain))
    assert (status, copies()) == (1, before)
    assert "secrets in clear" in error
    assert "hidden" not in error


def test_a_stack_that_has_no_copy_is_told(run: Run) -> None:
    status, shown, error = run("fetch", stack="prod")
    assert (status, shown, error.count("\n")) == (1, "", 1)


def test_a_bucket_that_takes_nothing_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "lost")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it would remember the key
    status, _, error = run("keep", exported())
    assert (status, error.count("\n")) == (1, 1)
    assert "takes no copy of the state" in error
    assert "the last one is older than the state; give it room or rights, and run this again" in error


def test_a_stack_that_names_no_buckets_is_told(run: Run) -> None:
    status, _, error = run("keep", exported(), stack="nowhere")
    assert (status, error.count("\n")) == (1, 1)
    assert "Pulumi.nowhere.yaml names no buckets" in error
