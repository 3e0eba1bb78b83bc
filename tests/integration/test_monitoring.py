"""A real Prometheus over the platform: it scrapes everything, every panel shows something, alerts arrive."""

import gzip
import json
import math
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import pytest
import urllib3
from botocore.exceptions import ClientError

from tests.integration.conftest import Platform
from tests.integration.guest import standing_in
from tests.integration.machines import wait_for
from tests.integration.sleeping import ask, print_token, run_now, suspend, sweep

pytestmark = pytest.mark.integration

TENANT = "acme"
ONE_EACH = ("exporter", "accounting", "collector", "kubevirt", "vault")
JOBS = {"gateway": 2, "envoy": 2, **dict.fromkeys(ONE_EACH, 1)}


@pytest.fixture(scope="module")
def report(platform: Platform) -> Iterator[dict[str, Any]]:
    """What `monitor` tells of a platform with traffic and a wake."""
    wait_for(platform, TENANT, "Running")
    token = print_token(platform, TENANT)
    with standing_in(platform, TENANT):
        assert ask(platform, TENANT, token) == (HTTPStatus.OK, b"ok")
        started = platform.run("monitor", "--json")
        assert started.returncode == 0, started.stderr
        # Between two scrapes: a rate is of what changes.
        suspend(platform, TENANT)
        for _ in range(20):
            assert ask(platform, TENANT, token) == (HTTPStatus.OK, b"ok")
        sweep(platform)
        time.sleep(12)
        told = platform.run("monitor", "--json")
    assert told.returncode == 0, told.stderr
    yield json.loads(told.stdout)
    assert platform.run("down").returncode == 0
    platform.start_servers()


def test_everything_is_scraped(report: dict[str, Any]) -> None:
    assert {(target["health"], target["error"]) for target in report["targets"]} == {("up", "")}
    jobs = [target["job"] for target in report["targets"]]
    assert {job: jobs.count(job) for job in jobs} == JOBS


def test_every_panel_shows_something(report: dict[str, Any]) -> None:
    dashboards = {panel["dashboard"] for panel in report["panels"]}
    assert len(dashboards) == 5
    for panel in report["panels"]:
        numbers = [float(series["value"]) for series in panel["series"]]
        # Guests are only reported here, and use nothing.
        expected = not panel["quiet"] and "kubevirt_vmi" not in panel["query"]
        assert numbers or not expected, f"{panel['dashboard']}, {panel['panel']}: {panel['query']}"
        assert all(math.isfinite(number) for number in numbers), panel


def value(report: dict[str, Any], title: str, **labels: str) -> float:
    """The one value of a panel with these labels."""
    (found,) = [
        float(series["value"])
        for panel in report["panels"]
        if panel["panel"] == title
        for series in panel["series"]
        if labels.items() <= series["labels"].items()
    ]
    return found


def test_the_panels_show_what_has_happened(report: dict[str, Any]) -> None:
    assert value(report, "Wakes", tenant=TENANT) > 0
    assert 0 < value(report, "Time to wake", tenant=TENANT) < 60
    assert value(report, "Requests", tenant=TENANT) > 0
    assert value(report, "Last decision", tenant=TENANT) == 1
    assert 0 < value(report, "Last sweep") < 120
    assert value(report, "Size", tenant=TENANT) > 0
    assert value(report, "Margin", tenant=TENANT) < 800
    assert value(report, "Tenants", tier="private-cloud", state="active") == 1


def counted(platform: Platform, enough: Callable[[dict[str, Any]], bool]) -> dict[str, dict[str, Any]]:
    """What `costs` tells of each tenant, once it is enough of the one that is asked."""
    deadline = time.monotonic() + 150
    while True:
        done = platform.run("costs", "--json")
        told = json.loads(done.stdout)["tenants"] if done.returncode == 0 else []
        tenants = {each["tenant"]: each for each in told}
        if TENANT in tenants and enough(tenants[TENANT]):
            return tenants
        assert time.monotonic() < deadline, (done.stderr, tenants.get(TENANT))
        time.sleep(5)


def test_what_tenants_use_is_in_the_ledger_within_minutes(platform: Platform, report: dict[str, Any]) -> None:
    # What gateways counted before the first count of all is nobody's.
    before = counted(platform, lambda acme: acme["awakeHours"] > 0)[TENANT]["sentBytes"]
    token = print_token(platform, TENANT)
    with standing_in(platform, TENANT):
        for _ in range(20):
            assert ask(platform, TENANT, token) == (HTTPStatus.OK, b"ok")
    tenants = counted(platform, lambda acme: acme["sentBytes"] >= before + 40)
    # Whoever has left this month is in it, too.
    assert set(tenants) >= {tenant["id"] for tenant in platform.status()["tenants"]}
    assert 0 < tenants[TENANT]["awakeHours"] < 2
    assert tenants["bluebird"]["awakeHours"] == 0
    assert tenants["corvus"]["awakeHours"] > 0


def keys_of(platform: Platform, tenant: str) -> tuple[Any, str]:
    """A client with the key that the tenant finds in Vault, and the logs bucket that it names."""
    found = platform.vault().secrets.kv.v2.read_secret_version(
        f"{tenant}/object-storage", mount_point="tenants"
    )
    secret = found["data"]["data"]
    return platform.s3(secret["access_key"], secret["secret_key"]), secret["logs_bucket"]


def said(s3: Any, bucket: str, prefix: str) -> str:
    """All that is archived below a prefix, as OTLP/JSON."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    objects = [item["Key"] for page in pages for item in page.get("Contents", [])]
    return "".join(
        gzip.decompress(s3.get_object(Bucket=bucket, Key=key)["Body"].read()).decode() for key in objects
    )


def archived(s3: Any, bucket: str, prefix: str, words: str) -> str:
    """The same, once these words are in it."""
    deadline = time.monotonic() + 60
    while words not in (found := said(s3, bucket, prefix)):
        assert time.monotonic() < deadline, found
        time.sleep(1)
    return found


def test_what_a_tenants_containers_say_is_in_its_prefix_and_its_key_alone_reads_it(
    platform: Platform, report: dict[str, Any]
) -> None:
    corvus, bucket = keys_of(platform, "corvus")
    acme, _ = keys_of(platform, TENANT)
    found = archived(corvus, bucket, "tenant_corvus/", "Listening on")
    assert '"stringValue":"tenant-corvus"' in found
    assert "tenant-acme" not in found
    for client, prefix in ((acme, "tenant_corvus/"), (corvus, "tenant_acme/"), (corvus, "platform/")):
        with pytest.raises(ClientError, match="AccessDenied"):
            client.list_objects_v2(Bucket=bucket, Prefix=prefix)
    (first, *_) = corvus.list_objects_v2(Bucket=bucket, Prefix="tenant_corvus/")["Contents"]
    where = {"Bucket": bucket, "Key": first["Key"]}
    for forbidden in (acme.get_object, corvus.delete_object, corvus.put_object):
        with pytest.raises(ClientError, match="AccessDenied"):
            forbidden(**where)


def test_the_platforms_own_lines_name_request_and_tenant_and_no_token(
    platform: Platform, report: dict[str, Any]
) -> None:
    token = print_token(platform, TENANT)
    with standing_in(platform, TENANT):
        assert ask(platform, TENANT, token) == (HTTPStatus.OK, b"ok")
    s3, (_, bucket) = platform.s3(), keys_of(platform, TENANT)
    archived(s3, bucket, "platform/gateway/", r"is awake after")
    found = archived(s3, bucket, "platform/gateway/", r"\"tenant\":\"acme\"")
    assert token not in found
    assert "eyJ" not in found


def test_old_logs_go_by_the_nightly_job(platform: Platform, report: dict[str, Any]) -> None:
    s3, (_, bucket) = platform.s3(), keys_of(platform, TENANT)
    now = datetime.now(UTC).date()
    kept, old = (f"tenant_acme/{now - timedelta(days=days)}/x" for days in (89, 91))
    gone, stays = "tenant_nobody/2001-01-01/x", "tenant_elsewhere/2001-01-01/x"
    for key in (kept, old, gone, stays, "receipts/nobody.json"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    run_now(platform, "log-retention")
    listed = s3.list_object_versions(Bucket=bucket)
    keys = {item["Key"] for item in [*listed["Versions"], *listed.get("DeleteMarkers", [])]}
    assert {kept, stays} <= keys
    assert not {old, gone} & keys


def test_a_healthy_platform_raises_no_alarm(report: dict[str, Any]) -> None:
    assert {alert["labels"]["alertname"] for alert in report["alerts"]} == {"Watchdog"}


def test_an_alert_arrives_at_the_receiver(platform: Platform, report: dict[str, Any]) -> None:
    labels = {"alertname": "VaultIsSealed", "severity": "page", "instance": "a-test"}
    alert = [{"labels": labels, "annotations": {"summary": "It is a test."}}]
    url = f"{report['urls']['alertmanager']}/api/v2/alerts"
    assert urllib3.request("POST", url, json=alert).status == HTTPStatus.OK
    arrived = platform.root / ".local/monitoring/alerts.jsonl"
    deadline = time.monotonic() + 30
    while not arrived.exists() or "a-test" not in arrived.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.5)
    told = [json.loads(line) for line in arrived.read_text().splitlines()]
    assert {one["labels"]["alertname"] for message in told for one in message["alerts"]} == {"VaultIsSealed"}
