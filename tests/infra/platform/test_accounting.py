"""The accounting as declared: what it may see, and that it can change nothing but the ledger."""

from typing import Any

import pytest

from tests.infra.platform.test_gateway import environment, may
from tests.infra.platform.test_platform import platform, secret
from tests.infra.recording import SECRETS, Recorder, local_stack

ACCOUNTING = "platform-accounting"
WATCH = ("list", "watch")


@pytest.fixture(scope="module")
def given() -> Recorder:
    return platform(local_stack(), SECRETS)


@pytest.fixture
def pod(given: Recorder) -> dict[str, Any]:
    spec: dict[str, Any] = given[f"{ACCOUNTING}-deployment"].inputs["spec"]["template"]["spec"]
    return spec


def test_it_watches_what_it_counts_and_changes_nothing(given: Recorder) -> None:
    assert may(given, f"{ACCOUNTING}-machines-role") == {
        ("kubevirt.io", "virtualmachines", verb) for verb in WATCH
    }
    assert may(given, f"{ACCOUNTING}-gateway-role") == {
        ("", resource, verb) for resource in ("configmaps", "pods") for verb in WATCH
    }
    assert may(given, f"{ACCOUNTING}-longhorn-system-role") == {
        ("longhorn.io", "backupvolumes", verb) for verb in WATCH
    }
    for one in ("machines", "gateway", "longhorn-system"):
        (subject,) = given[f"{ACCOUNTING}-{one}-binding"].inputs["subjects"]
        assert (subject["name"], subject["namespace"]) == ("accounting", "platform-system")


def test_its_key_lists_tenants_objects_and_reads_none(given: Recorder) -> None:
    policy = given[f"{ACCOUNTING}-storage-role"].inputs["policy"]
    assert policy["defaultServiceStrategy"] == "deny"
    (rule,) = policy["services"]["sos"]["rules"]
    assert list(policy["services"]) == ["sos"]
    assert rule == {
        "action": "allow",
        "expression": "operation in ['list-objects', 'list-object-versions', 'list-multipart-uploads'] && "
        "parameters.bucket == 'agent-platform-local-artifacts' && parameters.prefix.startsWith('tenant_')",
    }


def test_it_finds_what_its_environment_names(given: Recorder, pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    told = environment(pod)
    folders = {mount["mountPath"] for mount in container["volumeMounts"]}
    files = [value for value in told.values() if isinstance(value, str) and value.startswith("/")]
    assert {file.rpartition("/")[0] for file in files} <= folders
    assert (told["PGUSER"], told["GATEWAY_NAMESPACE"]) == ("accounting", "gateway")
    assert container["command"] == ["python3", "-m", "services.accounting"]
    assert secret(given[f"{ACCOUNTING}-postgresql"].inputs["stringData"])["password"] == "drawn"
    credentials = secret(given[f"{ACCOUNTING}-storage"].inputs["stringData"])["credentials"]
    assert credentials.startswith("[default]\naws_access_key_id = ")
    assert given["platform-database-control"].inputs["accountant"] == "accounting"


def test_gateways_show_their_figures_to_it_and_to_monitoring_alone(given: Recorder) -> None:
    openings = [
        one.inputs["spec"]["ingress"][0]
        for one in given.of_type("kubernetes:networking.k8s.io/v1:NetworkPolicy")
        if one.inputs["metadata"]["namespace"] == "gateway" and one.inputs["spec"].get("ingress")
    ]
    seeing = [
        opening["from"] for opening in openings if {"port": 9090, "protocol": "TCP"} in opening["ports"]
    ]
    peers = [peer for opening in seeing for peer in opening]
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}} in peers
    assert {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "platform-system"}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "accounting"}},
    } in peers
    assert len(peers) == 2
