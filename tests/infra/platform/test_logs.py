"""Logs as declared: who reads them, where they go, what each key may, and how long they are kept."""

from typing import Any

import pytest
import yaml

from infra.platform.logs import configuration
from infra.tenants.tiers import TIERS
from tests.infra.platform.test_gateway import environment, may
from tests.infra.platform.test_platform import platform, releases, secret
from tests.infra.recording import SECRETS, Recorder, local_stack, stack

COLLECTOR, RETENTION = "platform-monitoring-logs", "platform-log-retention"
LISTING = "operation in ['list-objects', 'list-object-versions', 'list-multipart-uploads']"


@pytest.fixture(scope="module")
def managed() -> Recorder:
    return platform(stack("prod"))


@pytest.fixture(scope="module")
def given() -> Recorder:
    return platform(local_stack(), SECRETS)


def rules(recorder: Recorder, role: str) -> list[str]:
    policy = recorder[role].inputs["policy"]
    assert (policy["defaultServiceStrategy"], list(policy["services"])) == ("deny", ["sos"])
    assert {rule["action"] for rule in policy["services"]["sos"]["rules"]} == {"allow"}
    return [rule["expression"] for rule in policy["services"]["sos"]["rules"]]


def bucket(recorder: Recorder) -> dict[str, Any]:
    (found,) = [
        bucket.inputs
        for bucket in recorder.of_type("pulumi-python:dynamic/agent-platform:Bucket")
        if bucket.name.endswith("-logs")
    ]
    return found


def values(recorder: Recorder) -> dict[str, Any]:
    found: dict[str, Any] = releases(recorder)["opentelemetry-collector"].inputs["values"]
    return found


def test_the_collectors_key_puts_logs_and_does_nothing_else(given: Recorder) -> None:
    putting = (
        "operation in ['put-object', 'create-multipart-upload', 'upload-part', 'complete-multipart-upload', "
        "'abort-multipart-upload']"
    )
    where = f"parameters.bucket == '{bucket(given)['name']}'"
    assert rules(given, f"{COLLECTOR}-storage-role") == [
        f"{putting} && {where} && parameters.key.startsWith('{prefix}')"
        for prefix in ("tenant_", "platform/")
    ]


def test_the_retentions_key_lists_and_deletes_logs_and_neither_reads_nor_writes(given: Recorder) -> None:
    where = f"parameters.bucket == '{bucket(given)['name']}'"
    deleting = "operation in ['delete-object', 'abort-multipart-upload']"
    assert rules(given, f"{RETENTION}-storage-role") == [
        *(
            f"{LISTING} && {where} && parameters.prefix.startsWith('{prefix}')"
            for prefix in ("tenant_", "platform/", "receipts/")
        ),
        *(
            f"{deleting} && {where} && parameters.key.startsWith('{prefix}')"
            for prefix in ("tenant_", "platform/")
        ),
    ]


def test_both_ways_have_the_same_configuration_and_a_key(managed: Recorder, given: Recorder) -> None:
    for recorder in (managed, given):
        left = recorder[f"{COLLECTOR}-configuration"].inputs
        assert (left["metadata"]["name"], left["metadata"]["namespace"]) == ("collector", "monitoring")
        storage = bucket(recorder)
        declared = configuration(storage["endpoint"], storage["region"], storage["name"])
        assert yaml.safe_load(left["data"]["relay"]) == declared
        credentials = secret(recorder[f"{COLLECTOR}-secret"].inputs["stringData"])["credentials"]
        assert credentials.startswith("[default]\naws_access_key_id = ")
        assert "aws_secret_access_key" not in left["data"]["relay"]


def test_a_collector_runs_on_every_node_and_only_reads_what_pods_say(managed: Recorder) -> None:
    found = values(managed)
    assert found["mode"] == "daemonset"
    assert found["tolerations"] == [{"operator": "Exists"}]
    assert found["configMap"] == {"create": False, "existingName": "collector"}
    assert not found["serviceAccount"]["automountServiceAccountToken"]
    assert found["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in found["extraVolumeMounts"]}
    assert mounts == {"/var/log/pods": True, "/var/lib/otelcol": False, "/etc/object-storage": True}
    assert {name for name, port in found["ports"].items() if port["enabled"]} == {"metrics"}
    assert found["resources"]["limits"]["memory"] == "512Mi"


def test_a_changed_configuration_starts_it_anew(managed: Recorder, given: Recorder) -> None:
    (annotation,) = values(managed)["podAnnotations"].values()
    assert len(annotation) == 64
    assert "opentelemetry-collector" not in releases(given)


def test_nothing_but_object_storage_is_open_to_it(managed: Recorder) -> None:
    opening = managed["platform-monitoring-to-object-storage"].inputs["spec"]
    (way,) = opening["egress"]
    assert way["ports"] == [{"port": 443, "protocol": "TCP"}]


def test_the_retention_runs_at_night_and_sees_tenants_alone(given: Recorder) -> None:
    job = given[f"{RETENTION}-job"].inputs
    assert job["spec"]["schedule"] == "20 1 * * *"
    assert job["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"] == 4 * 3600
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    told = environment(pod)
    assert (told["PLATFORM_DAYS"], told["NAMESPACE_DAYS"]) == ("90", '{"vault": 365}')
    assert told["OBJECT_STORAGE_BUCKET"] == bucket(given)["name"]
    (container,) = pod["containers"]
    assert container["command"] == ["python3", "-m", "services.log_retention"]
    folders = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert told["AWS_SHARED_CREDENTIALS_FILE"].rpartition("/")[0] in folders
    assert may(given, f"{RETENTION}-role") == {("", "configmaps", "list")}
    assert given[f"{RETENTION}-role"].inputs["metadata"]["namespace"] == "gateway"
    (subject,) = given[f"{RETENTION}-binding"].inputs["subjects"]
    assert (subject["name"], subject["namespace"]) == ("log-retention", "platform-system")


def test_each_tier_keeps_logs_and_a_dearer_one_no_shorter() -> None:
    days = [tier.log_days for tier in TIERS.values()]
    assert days == sorted(days) == [30, 30, 90, 365]
