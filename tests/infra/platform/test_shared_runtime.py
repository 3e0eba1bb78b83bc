"""The runtime that tenants share: closed, within limits, and on as many nodes as it has pods."""

from decimal import Decimal

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from local.node_agent.quantities import amount
from tests.infra.platform.test_platform import platform, secret
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


def test_it_has_no_token_of_its_own(runtime: Recorder) -> None:
    pod = runtime["platform-runtime-deployment"].inputs["spec"]["template"]["spec"]

    assert pod["serviceAccountName"] == "agent-runtime"
    assert pod["automountServiceAccountToken"] is False
    assert runtime["platform-runtime"].inputs["automountServiceAccountToken"] is False
    assert [name for volume in pod["volumes"] for name in volume if name != "name"] == [
        "configMap",
        "emptyDir",
    ]
    (container,) = pod["containers"]
    assert "VAULT_TOKEN_FILE" not in {item["name"] for item in container["env"]}


def test_it_starts_in_a_closed_network_within_its_quota(runtime: Recorder) -> None:
    names = ("default-deny", "to-vault", "to-gateway", "from-gateway", "quota", "limits")

    assert {f"platform-runtime-{name}" for name in names} <= set(
        runtime["platform-runtime-deployment"].depends_on
    )


def test_it_verifies_vault_gateway_and_database_of_the_platforms_own() -> None:
    def told(recorder: Recorder) -> tuple[dict[str, str], set[str]]:
        (container,) = recorder["platform-runtime-deployment"].inputs["spec"]["template"]["spec"][
            "containers"
        ]
        files = recorder["platform-runtime-configuration"].inputs.get("data") or {}
        return {item["name"]: item.get("value", "") for item in container["env"]}, set(files)

    environment, files = told(platform(stack("prod")))
    assert environment["VAULT_ADDR"] == "https://vault-active.vault.svc:8200"
    assert environment["VAULT_CACERT"] == "/etc/agent-platform/vault-ca.pem"
    assert environment["GATEWAY_ADDR"] == "https://gateway.gateway.svc:8444"
    assert environment["GATEWAY_CACERT"] == "/etc/agent-platform/gateway-ca.pem"
    assert environment["DATABASE_URL"] == (
        "postgresql://postgres-rw.databases.svc:5432/agents"
        "?sslmode=verify-full&sslrootcert=%2Fetc%2Fagent-platform%2Fdatabase-ca.pem"
    )
    assert files == {"vault-ca.pem", "gateway-ca.pem", "database-ca.pem"}
    environment, files = told(platform(local_stack(), SECRETS))
    assert "VAULT_CACERT" not in environment
    assert environment["DATABASE_URL"] == "postgresql://127.0.0.1:5432/agents?sslmode=disable"
    assert files == {"gateway-ca.pem"}


@pytest.mark.parametrize("signing", ["first", "second"])
def test_vault_takes_the_word_of_two_keys_of_which_the_gateway_has_one(signing: str) -> None:
    values = stack("prod")
    values["gateway"]["assertionKey"] = signing
    declared = platform(values)

    login = declared["platform-assertions"]
    point = load_pem_public_key(login.inputs["jwtValidationPubkeys"][0].encode())
    assert isinstance(point, Ed25519PublicKey)
    assert len(login.inputs["jwtValidationPubkeys"]) == 2
    # Vault keeps no line's end, and would differ from one for ever.
    assert login.inputs["jwtValidationPubkeys"][1].endswith("-----END PUBLIC KEY-----")
    assert (login.inputs["boundIssuer"], login.inputs["jwtSupportedAlgs"]) == ("gateway", ["EdDSA"])
    keys = {f"platform-assertions-{name}-key" for name in ("first", "second")}
    assert keys <= set(login.depends_on)
    held = declared["platform-gateway-assertions"]
    assert secret(held.inputs["stringData"]) == {"key.pem": "drawn-signing-key"}
    assert keys & set(held.depends_on) == {f"platform-assertions-{signing}-key"}
    pod = declared["platform-gateway-deployment"].inputs["spec"]["template"]
    # The gateway reads it when it starts, so another one is another pod.
    assert pod["metadata"]["annotations"]["agent-platform/assertion-key"] == "drawn-kid"
    assert not keys & set(declared["platform-runtime-deployment"].depends_on)
