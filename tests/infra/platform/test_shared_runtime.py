"""The runtime that tenants share: closed, within limits, and on as many nodes as it has pods."""

from decimal import Decimal

import pytest

from local.node_agent.quantities import amount
from tests.infra.platform.test_platform import platform
from tests.infra.recording import SECRETS, Recorder, local_stack, stack


@pytest.fixture(scope="module", params=["managed", "given"])
def runtime(request: pytest.FixtureRequest) -> Recorder:
    return platform(stack("prod")) if request.param == "managed" else platform(local_stack(), SECRETS)


def test_its_pods_are_on_different_nodes_and_need_no_spare_one(runtime: Recorder) -> None:
    spec = runtime["platform-runtime-deployment"].inputs["spec"]
    (term,) = spec["template"]["spec"]["affinity"]["podAntiAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]

    assert spec["replicas"] == 2
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["labelSelector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    # With a pod more at a time, three nodes would be needed to update two pods.
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_its_quota_has_room_for_its_pods_and_nothing_else(runtime: Recorder) -> None:
    hard = runtime["platform-runtime-quota"].inputs["spec"]["hard"]
    spec = runtime["platform-runtime-deployment"].inputs["spec"]
    (container,) = spec["template"]["spec"]["containers"]

    for kind in ("requests", "limits"):
        for name, value in container["resources"][kind].items():
            assert int(spec["replicas"]) * amount(value) <= amount(hard[f"{kind}.{name}"])
    assert hard["count/deployments.apps"] == "1"
    for name in (
        "persistentvolumeclaims",
        "services.loadbalancers",
        "services.nodeports",
        "count/jobs.batch",
    ):
        assert amount(hard[name]) == Decimal(0)


def test_it_has_one_token_which_vault_alone_takes(runtime: Recorder) -> None:
    pod = runtime["platform-runtime-deployment"].inputs["spec"]["template"]["spec"]

    assert pod["serviceAccountName"] == "agent-runtime"
    assert pod["automountServiceAccountToken"] is False
    assert runtime["platform-runtime"].inputs["automountServiceAccountToken"] is False
    tokens = [
        source["serviceAccountToken"]["audience"]
        for volume in pod["volumes"]
        for source in volume.get("projected", {}).get("sources", ())
    ]
    assert tokens == ["vault"]


def test_it_starts_in_a_closed_network_within_its_quota(runtime: Recorder) -> None:
    names = ("default-deny", "to-vault", "from-gateway", "quota", "limits")

    assert {f"platform-runtime-{name}" for name in names} <= set(
        runtime["platform-runtime-deployment"].depends_on
    )


def test_it_verifies_a_vault_of_the_platforms_own() -> None:
    def told(recorder: Recorder) -> tuple[dict[str, str], set[str]]:
        (container,) = recorder["platform-runtime-deployment"].inputs["spec"]["template"]["spec"][
            "containers"
        ]
        files = recorder["platform-runtime-configuration"].inputs.get("data") or {}
        return {item["name"]: item.get("value", "") for item in container["env"]}, set(files)

    environment, files = told(platform(stack("prod")))
    assert environment["VAULT_ADDR"] == "https://vault-active.vault.svc:8200"
    assert (environment["VAULT_CACERT"], files) == ("/etc/agent-platform/vault-ca.pem", {"vault-ca.pem"})
    environment, files = told(platform(local_stack(), SECRETS))
    assert "VAULT_CACERT" not in environment
    assert files == set()
