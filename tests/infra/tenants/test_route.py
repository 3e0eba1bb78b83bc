"""What the gateway is told of each tenant, and the key that signs a tenant's tokens."""

import json
from pathlib import Path
from typing import Any

import jwt
import pytest
import yaml

from infra.platform.access_key import AccessKeyProvider
from infra.tenants.roster import TenantEntry
from infra.tenants.route import terms
from services.exporter.tenants import Terms
from services.gateway.routes import Route, parse
from tests.infra.recording import ROOT, Recorder, Registered, local_stack, stack
from tests.infra.tenants.test_own_parts import record
from tests.infra.tenants.test_tenant import of, registered

KERNEL = {"path": "/boot/vmlinuz", "initrd": "/boot/initrd", "arguments": "console=ttyS0"}
MACHINE = {"id": "acme", "tier": "enterprise"}
IMAGE = {"image": f"registry.example.ch/other:1.0@sha256:{'0' * 64}"}


@pytest.fixture(scope="module")
def recorder() -> Recorder:
    return registered(ROOT / "tenants.yaml")


def route(recorder: Recorder, tenant: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(recorder[f"{tenant}-route"].inputs["data"]["route.json"])
    return found


def kernel_boot(machine: Registered) -> Any:
    firmware = machine.inputs["spec"]["template"]["spec"]["domain"].get("firmware")
    return firmware and firmware["kernelBoot"]


def test_a_route_says_where_requests_lead_in_every_tier(recorder: Recorder) -> None:
    places = {
        tenant: (told["servedBy"], told["namespace"], told.get("idleSeconds"))
        for tenant in ("bluebird", "corvus", "acme", "dufour")
        for told in [route(recorder, tenant)]
    }

    assert places == {
        "bluebird": ("shared runtime", "runtime", None),
        "corvus": ("deployment", "tenant-corvus", None),
        "acme": ("machine", "tenant-acme", 900),
        "dufour": ("machine", "tenant-dufour", 900),
    }
    assert route(recorder, "acme")["size"] == {"cpu": 4, "memoryGib": 8, "workspaceGib": 50}
    assert recorder["acme-route"].inputs["metadata"]["namespace"] == "gateway"


def test_beside_it_stands_what_was_agreed_with_the_tenant(recorder: Recorder) -> None:
    agreed = {
        tenant: json.loads(recorder[f"{tenant}-route"].inputs["data"]["terms.json"])
        for tenant in ("bluebird", "corvus", "acme", "dufour")
    }
    assert agreed == {
        "bluebird": {"availability": 0.995, "listPriceChf": 79.2, "logDays": 30},
        "corvus": {"availability": 0.995, "listPriceChf": 239.2, "logDays": 30},
        "acme": {"availability": 0.999, "wakeSeconds": 30, "listPriceChf": 799.2, "logDays": 90},
        # Each contract has its own price.
        "dufour": {"availability": 0.999, "wakeSeconds": 30, "logDays": 365},
    }
    assert all(Terms.model_validate(json.loads(json.dumps(each))) for each in agreed.values())


def test_a_contract_counts_for_more_than_its_tier() -> None:
    contract = {"availability": 99.95, "wakeSeconds": 20, "budgetChf": 500}
    entry = TenantEntry.model_validate_json(
        json.dumps({**MACHINE, "name": "Acme", "owner": "a@b.example", "contract": contract})
    )
    agreed = {"availability": 0.9995, "wakeSeconds": 20, "budgetChf": 500, "logDays": 90}
    assert terms(entry, None) == agreed


@pytest.mark.parametrize("tenant", ["bluebird", "corvus", "acme", "dufour"])
def test_the_gateway_takes_what_is_declared(recorder: Recorder, tenant: str) -> None:
    public = (AccessKeyProvider().create({}).outs or {})["public"]
    declared = json.loads(json.dumps(recorder[f"{tenant}-route"].inputs))
    told = {**route(recorder, tenant), "keys": {"keys": [public]}}

    taken = parse({**declared, "data": {"route.json": json.dumps(told)}})

    assert isinstance(taken, Route)
    assert (taken.tenant, taken.state) == (tenant, "active")
    assert list(taken.keys) == [public["kid"]]


def test_it_leads_to_pods_that_the_gateway_looks_for(recorder: Recorder) -> None:
    for name, namespace in (
        ("corvus-deployment", "tenant-corvus"),
        ("platform-runtime-deployment", "runtime"),
    ):
        deployment = recorder[name].inputs
        assert deployment["metadata"]["namespace"] == namespace
        pod = deployment["spec"]["template"]
        assert pod["metadata"]["labels"]["app.kubernetes.io/part-of"] == "agent-platform"
        (container,) = pod["spec"]["containers"]
        assert container["command"] == ["python3", "-m", "services.agent_runtime"]
        assert {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}} in container[
            "env"
        ]


def test_the_key_is_in_the_tenants_part_of_vault_which_it_cannot_change(recorder: Recorder) -> None:
    secret = recorder["acme-gateway"].inputs
    told = json.loads(secret["dataJson"]["value"])

    assert (secret["mount"], secret["name"]) == ("tenants", "acme/gateway")
    assert told == {"private_key": "drawn-signing-key", "key_id": "drawn-kid", "audience": "acme"}
    policy = recorder["acme-policy"].inputs["policy"]
    rights = policy.split('tenants/data/acme/gateway" {')[1].split("}")[0]
    assert rights.strip() == 'capabilities = ["read"]'


def test_the_private_half_is_nowhere_else(recorder: Recorder) -> None:
    for name, found in recorder.registered.items():
        # The platform keeps the operators' likewise; the gateway's own is no tenant's.
        if not found.type.endswith("SecretV2") and name != "platform-gateway-assertions":
            assert "drawn-signing-key" not in json.dumps(found.inputs), name
    assert route(recorder, "acme")["keys"]["keys"][0].keys().isdisjoint({"d", "private", "k"})


def test_a_key_pair_signs_what_its_public_half_verifies() -> None:
    one, other = (AccessKeyProvider().create({}).outs or {} for _ in range(2))
    token = jwt.encode({"aud": "acme"}, one["private"], algorithm="EdDSA")

    verified = jwt.decode(token, jwt.PyJWK(one["public"]), algorithms=["EdDSA"], audience="acme")

    assert verified == {"aud": "acme"}
    assert one["public"]["kid"] != other["public"]["kid"]
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(token, jwt.PyJWK(other["public"]), algorithms=["EdDSA"], audience="acme")


def test_a_tenant_keeps_its_key_in_every_tier_and_state(tmp_path: Path) -> None:
    entries = [
        {"id": "acme", "tier": "starter"},
        {"id": "acme", "tier": "professional"},
        MACHINE,
        {**MACHINE, "state": "suspended"},
    ]

    keys = [record(tmp_path, entry)["acme-access-key"] for entry in entries]

    assert all((key.type, key.name, key.parent) == (keys[0].type, "acme-access-key", "acme") for key in keys)


@pytest.mark.parametrize("state", ["suspended", "offboarding"])
def test_the_gateway_is_told_before_a_machine_is_stopped_for_good(tmp_path: Path, state: str) -> None:
    """KubeVirt's `start` would have a machine that is off run for ever."""
    leaving = {"offboarding": {"backup": "waived", "reason": "a trial"}} if state == "offboarding" else {}
    there = record(tmp_path, {**MACHINE, "state": state, **leaving})

    assert route(there, "acme")["state"] == state
    assert "acme-route" in there["acme-machine"].depends_on
    assert there["acme-machine"].inputs["spec"]["runStrategy"] == "Halted"


def test_and_to_wake_it_once_it_may_run(recorder: Recorder) -> None:
    for tenant, agent in (("acme", "machine"), ("corvus", "deployment"), ("bluebird", "login")):
        assert f"{tenant}-{agent}" in recorder[f"{tenant}-route"].depends_on
    assert "acme-route" not in recorder["acme-machine"].depends_on


def test_a_machine_carries_when_it_sleeps_where_it_restarts_nothing(tmp_path: Path) -> None:
    usual, patient = (
        record(tmp_path, {**MACHINE, **fields})["acme-machine"].inputs
        for fields in ({}, {"idleSeconds": 3600})
    )

    assert usual["metadata"]["annotations"] == {"agent-platform/idle-seconds": "900"}
    assert patient["metadata"]["annotations"] == {"agent-platform/idle-seconds": "3600"}
    assert patient["spec"] == usual["spec"]


def test_a_machine_boots_the_kernel_of_the_platforms_own_image(tmp_path: Path) -> None:
    values = {**stack("prod"), "machineKernel": KERNEL}
    own, other = (
        record(tmp_path, {**MACHINE, **fields}, values=values)["acme-machine"]
        for fields in ({}, {"overrides": IMAGE})
    )
    disk = own.inputs["spec"]["template"]["spec"]["volumes"][0]["containerDisk"]["image"]

    assert kernel_boot(own) == {
        "container": {"image": disk, "kernelPath": "/boot/vmlinuz", "initrdPath": "/boot/initrd"},
        "kernelArgs": "console=ttyS0",
    }
    # Nobody knows what is on another image, nor what a platform without the setting has on its own.
    assert kernel_boot(other) is None
    without = {key: value for key, value in values.items() if key != "machineKernel"}
    assert kernel_boot(record(tmp_path, MACHINE, values=without)["acme-machine"]) is None


def test_agents_are_told_where_gateway_and_database_are(recorder: Recorder) -> None:
    def told(data: Any) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(data["identity.json"])
        return found

    def guest(recorder: Recorder) -> dict[str, str]:
        data = recorder["acme-cloud-init"].inputs["stringData"]
        document = yaml.safe_load(data.get("value", data)["userdata"])
        return {Path(file["path"]).name: file["content"] for file in document["write_files"]}

    files = guest(registered(ROOT / "tenants.yaml", stack("prod")))
    identity = told(files)

    assert identity["gateway"]["address"] == "https://gateway.gateway.svc:8444"
    assert bool(identity["gateway"]["authority"]) == ("gateway-ca.pem" in files)
    assert identity["database"] == (
        "postgresql://postgres-rw.databases.svc:5432/agents"
        "?sslmode=verify-full&sslrootcert=%2Fetc%2Fagent-platform%2Fdatabase-ca.pem"
    )
    assert files["database-ca.pem"] == "ca"
    files = guest(recorder)
    given = told(files)
    assert given["database"] == "postgresql://127.0.0.1:5432/agents?sslmode=disable"
    assert "database-ca.pem" not in files

    assert given["gateway"]["address"] == local_stack()["gateway"]["agentsAddress"]
    # A pod never sleeps, and is let through to nobody whom it would have to tell.
    pod = recorder["corvus-configuration"].inputs["data"]
    assert told(pod)["gateway"] is None
    assert "gateway-ca.pem" not in pod


def test_agents_are_told_a_database_of_the_tenants_own(tmp_path: Path) -> None:
    entry = {**MACHINE, "tier": "private-cloud", "ownDatabase": True}
    data = record(tmp_path, entry)["acme-cloud-init"].inputs["stringData"]

    assert "postgresql://127.0.0.1:5432/tenant_acme?sslmode=disable" in data.get("value", data)["userdata"]


def test_each_tenant_has_its_route_and_no_other_has_a_part_in_it(recorder: Recorder) -> None:
    for tenant in ("bluebird", "corvus", "acme", "dufour"):
        own = of(recorder, tenant)[f"{tenant}-route"]
        assert own.inputs["metadata"]["name"] == f"route-{tenant}"
        assert own.inputs["metadata"]["labels"]["agent-platform/route"] == tenant
        assert not {name for name in own.depends_on if name.split("-")[0] not in (tenant, "platform")}
