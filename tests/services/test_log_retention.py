"""What the retention deletes in a real bucket, and what it leaves."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.paths import ROOT
from local.servers import object_storage
from services import log_retention
from services.log_retention import Kept, Logs, kept
from tests.local.servers.conftest import Running, running, up
from tests.s3 import owner

__all__ = ["running", "up"]

BUCKET = "logs"
TODAY = date(2026, 12, 1)
KEPT = Kept(tenants={"acme": 30, "bluebird": 365, "corvus": None}, namespaces={"vault": 365}, platform=90)


@pytest.fixture(scope="module")
def s3(running: Running) -> Iterator[Any]:
    with running(object_storage):
        client = owner()
        client.create_bucket(Bucket=BUCKET)
        client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        yield client


@pytest.fixture
def bucket(s3: Any) -> Iterator[Any]:
    yield s3
    for item in versions(s3):
        s3.delete_object(Bucket=BUCKET, Key=item["Key"], VersionId=item["VersionId"])


def put(s3: Any, *keys: str) -> None:
    for key in keys:
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"lines")


def versions(s3: Any) -> list[dict[str, Any]]:
    pages = s3.get_paginator("list_object_versions").paginate(Bucket=BUCKET)
    return [item for page in pages for item in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]]


def keys(s3: Any) -> set[str]:
    """The keys of all versions and delete markers."""
    return {item["Key"] for item in versions(s3)}


def test_each_tenants_logs_are_kept_for_the_days_of_its_terms(bucket: Any) -> None:
    put(bucket, "tenant_acme/2026-10-31/a", "tenant_acme/2026-11-01/b", "tenant_bluebird/2025-12-01/c")
    put(bucket, "tenant_bluebird/2025-11-30/d", "tenant_corvus/2001-01-01/e")
    assert Logs(bucket, BUCKET).delete_old(KEPT, TODAY) == 0
    assert keys(bucket) == {
        "tenant_acme/2026-11-01/b",
        "tenant_bluebird/2025-12-01/c",
        "tenant_corvus/2001-01-01/e",
    }


def test_the_platforms_are_kept_by_namespace(bucket: Any) -> None:
    put(bucket, "platform/gateway/2026-09-01/a", "platform/gateway/2026-09-02/b")
    put(bucket, "platform/vault/2026-09-01/c", "platform/vault/2025-11-30/d")
    Logs(bucket, BUCKET).delete_old(KEPT, TODAY)
    assert keys(bucket) == {"platform/gateway/2026-09-02/b", "platform/vault/2026-09-01/c"}


def test_a_removed_tenants_go_whole_and_one_that_is_not_declared_keeps_them(bucket: Any) -> None:
    put(bucket, "tenant_gone/2026-12-01/a", "tenant_gone/odd", "receipts/gone.json")
    put(bucket, "tenant_elsewhere/2001-01-01/b", "receipts/elsewhere2.json")
    Logs(bucket, BUCKET).delete_old(KEPT, TODAY)
    assert keys(bucket) == {
        "receipts/gone.json",
        "tenant_elsewhere/2001-01-01/b",
        "receipts/elsewhere2.json",
    }


def test_older_versions_and_what_is_hidden_go_too(bucket: Any) -> None:
    put(bucket, "tenant_acme/2026-01-01/a", "tenant_acme/2026-01-01/a")
    bucket.delete_object(Bucket=BUCKET, Key="tenant_acme/2026-01-01/a")
    Logs(bucket, BUCKET).delete_old(KEPT, TODAY)
    assert keys(bucket) == set()


def test_uploads_that_nobody_finished_go_as_objects_do(bucket: Any) -> None:
    put(bucket, "receipts/gone.json")
    begun = ("tenant_acme/2026-01-01/a", "tenant_acme/2026-11-30/b", "tenant_gone/2026-11-30/c")
    for key in begun:
        bucket.create_multipart_upload(Bucket=BUCKET, Key=key)
    Logs(bucket, BUCKET).delete_old(KEPT, TODAY)
    (left,) = bucket.list_multipart_uploads(Bucket=BUCKET)["Uploads"]
    assert left["Key"] == "tenant_acme/2026-11-30/b"
    bucket.abort_multipart_upload(Bucket=BUCKET, Key=left["Key"], UploadId=left["UploadId"])


@pytest.mark.parametrize(
    "key",
    [
        "receipts/acme.json",
        "final-backups/acme/2001-01-01/dump",
        "tenant_acme/notaday/a",
        "tenant_acme/2001-13-45/a",
        "tenant_acme",
        "platform/2001-01-01",
        "elsewhere/2001-01-01/a",
        "tenant_/2001-01-01/a",
    ],
)
def test_what_is_no_log_stays(bucket: Any, key: str) -> None:
    put(bucket, key)
    Logs(bucket, BUCKET).delete_old(KEPT, TODAY)
    assert keys(bucket) == {key}


def test_a_night_lists_what_it_deletes_and_not_what_stays(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bucket, "tenant_acme/2026-01-01/a", *(f"tenant_acme/2026-11-30/{number:02}" for number in range(12)))
    asked = []
    paginator = bucket.get_paginator

    class Small:
        """Pages of two."""

        def __init__(self, name: str) -> None:
            self.name = name

        def paginate(self, **wanted: Any) -> Any:
            for page in paginator(self.name).paginate(**wanted, PaginationConfig={"PageSize": 2}):
                asked.append((self.name, wanted["Prefix"]))
                yield page

    monkeypatch.setattr(bucket, "get_paginator", Small)
    Logs(bucket, BUCKET).delete_old(KEPT, TODAY)
    assert asked.count(("list_object_versions", "tenant_acme/")) == 1


def test_one_tenants_failure_is_no_others(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put(bucket, "tenant_acme/2026-01-01/a", "tenant_bluebird/2001-01-01/b")
    delete = bucket.delete_object

    def refuse(**wanted: Any) -> Any:
        if wanted["Key"].startswith("tenant_acme/"):
            wanted["Bucket"] = "no-such-bucket"
        return delete(**wanted)

    monkeypatch.setattr(bucket, "delete_object", refuse)
    assert Logs(bucket, BUCKET).delete_old(KEPT, TODAY) == 1
    assert keys(bucket) == {"tenant_acme/2026-01-01/a"}


def test_what_cannot_be_deleted_holds_up_nothing_else(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put(bucket, *(f"tenant_acme/2026-01-01/{number:02}" for number in range(40)))
    delete = bucket.delete_object

    def refuse(**wanted: Any) -> Any:
        if wanted["Key"].endswith("/00"):
            wanted["Bucket"] = "no-such-bucket"
        return delete(**wanted)

    monkeypatch.setattr(bucket, "delete_object", refuse)
    assert Logs(bucket, BUCKET).delete_old(KEPT, TODAY) == 1
    assert keys(bucket) == {"tenant_acme/2026-01-01/00"}


def test_what_lies_below_no_day_hides_nothing_behind_it(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    put(bucket, *(f"tenant_acme/0odd{number}" for number in range(5)), "tenant_acme/2026-01-01/a")
    paginator = bucket.get_paginator

    class Small:
        """Pages of two."""

        def __init__(self, name: str) -> None:
            self.name = name

        def paginate(self, **wanted: Any) -> Any:
            return paginator(self.name).paginate(**wanted, PaginationConfig={"PageSize": 2})

    monkeypatch.setattr(bucket, "get_paginator", Small)
    Logs(bucket, BUCKET).delete_old(KEPT, TODAY)
    monkeypatch.undo()
    assert keys(bucket) == {f"tenant_acme/0odd{number}" for number in range(5)}


def config_map(tenant: str, terms: str) -> dict[str, Any]:
    return {"metadata": {"labels": {"agent-platform/route": tenant}}, "data": {"terms.json": terms}}


@given(st.integers(1, 3650))
def test_terms_say_for_how_long(days: int) -> None:
    assert kept([config_map("acme", json.dumps({"logDays": days}))], {}, 90).tenants == {"acme": days}


@pytest.mark.parametrize(
    "terms",
    [
        *("", "{}", "[]", "null", '{"logDays": "many"}', '{"logDays": null}', '{"logDays": "-3"}'),
        *(f'{{"logDays": {days}}}' for days in ("-1", "0", "0.5", "1.9", "true", "1e9", "1e400", "99999999")),
    ],
)
def test_a_tenant_whose_terms_cannot_be_read_keeps_everything(terms: str) -> None:
    found = kept([config_map("acme", terms), config_map("bluebird", '{"logDays": 3}')], {}, 90)
    assert found.tenants == {"acme": None, "bluebird": 3}


def test_without_the_kubernetes_api_nothing_is_deleted(bucket: Any, tmp_path: Path) -> None:
    put(bucket, "tenant_acme/2001-01-01/a", "platform/gateway/2001-01-01/b")
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        json.dumps(
            {
                "current-context": "x",
                "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
                "clusters": [{"name": "x", "cluster": {"server": "https://127.0.0.1:1"}}],
                "users": [{"name": "x", "user": {}}],
            }
        )
    )
    done = run(KUBECONFIG=str(kubeconfig))
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert "nothing is deleted: the Kubernetes API does not answer" in json.loads(line)["message"]
    assert keys(bucket) == {"tenant_acme/2001-01-01/a", "platform/gateway/2001-01-01/b"}


def test_it_names_what_its_environment_lacks(s3: Any) -> None:
    done = run(PLATFORM_DAYS="", GATEWAY_NAMESPACE="")
    assert done.returncode == 1
    assert "GATEWAY_NAMESPACE, PLATFORM_DAYS" in json.loads(done.stdout)["message"]
    assert not done.stderr


def run(**environment: str) -> subprocess.CompletedProcess[str]:
    """Run it as its CronJob does."""
    assert set(log_retention._REQUIRED) >= {"GATEWAY_NAMESPACE", "PLATFORM_DAYS"}
    given_ = {
        "PATH": os.environ["PATH"],
        "GATEWAY_NAMESPACE": "gateway",
        "PLATFORM_DAYS": "90",
        "NAMESPACE_DAYS": '{"vault": 365}',
        "OBJECT_STORAGE_ENDPOINT": object_storage.url(),
        "OBJECT_STORAGE_REGION": object_storage.REGION,
        "OBJECT_STORAGE_BUCKET": BUCKET,
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
        **environment,
    }
    return subprocess.run(
        [sys.executable, "-m", "services.log_retention"],
        cwd=ROOT,
        env=given_,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
