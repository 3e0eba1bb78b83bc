"""What the upper tiers have of their own: key, nodes, VPN and database, as the engine sees them."""

import base64
import ipaddress
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.tenants import vpn
from infra.tenants.node_pool import instance_type
from infra.tenants.roster import TenantEntry
from infra.tenants.tiers import TIERS, Size
from tests.infra.recording import Recorder, Registered, stack
from tests.infra.tenants.test_tenant import of, registered


def peers(*keys: int) -> list[dict[str, str]]:
    """Peers whose public keys are 32 times that byte."""
    return [
        {"name": name, "publicKey": base64.b64encode(bytes([key] * 32)).decode()}
        for name, key in zip(("office-zurich", "laptop-anna"), keys, strict=True)
    ]


ENTERPRISE: dict[str, Any] = {"id": "acme", "tier": "enterprise", "vpn": {"peers": peers(1, 2)}}
PRIVATE: dict[str, Any] = {
    "id": "dufour",
    "tier": "private-cloud",
    "vpn": {"peers": peers(3, 4)},
    "ownDatabase": True,
}
PLAIN: dict[str, Any] = {"id": "ember", "tier": "enterprise"}


def entry(fields: dict[str, Any]) -> dict[str, Any]:
    return {"name": "A customer", "owner": "a@b.example", **fields}


def record(folder: Path, *entries: dict[str, Any], values: dict[str, object] | None = None) -> Recorder:
    path = folder / "tenants.yaml"
    path.write_text(json.dumps({"tenants": [entry(fields) for fields in entries]}))
    return registered(path, values)


@pytest.fixture(scope="module")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    return record(tmp_path_factory.mktemp("roster"), ENTERPRISE, PRIVATE, PLAIN)


@pytest.fixture(scope="module")
def acme(recorder: Recorder) -> dict[str, Registered]:
    return of(recorder, "acme")


@pytest.fixture(scope="module")
def dufour(recorder: Recorder) -> dict[str, Registered]:
    return of(recorder, "dufour")


@pytest.fixture(scope="module")
def ember(recorder: Recorder) -> dict[str, Registered]:
    return of(recorder, "ember")


def guest(tenant: dict[str, Registered], name: str) -> dict[str, Any]:
    spec: dict[str, Any] = tenant[f"{name}-machine"].inputs["spec"]["template"]["spec"]
    return spec


# Encryption


def test_a_workspace_is_encrypted_with_a_key_that_is_kept_as_the_volume_is(
    acme: dict[str, Registered],
) -> None:
    volume, secret, key = (
        acme[f"acme-{name}"] for name in ("workspace", "workspace-encryption", "workspace-key")
    )

    assert volume.inputs["spec"]["storageClassName"] == "workspace-encrypted"
    # Longhorn looks for the Secret by the claim's name.
    assert secret.inputs["metadata"]["name"] == volume.inputs["metadata"]["name"]
    assert secret.inputs["metadata"]["namespace"] == volume.inputs["metadata"]["namespace"]
    assert "acme-workspace-encryption" in volume.depends_on
    assert secret.inputs["immutable"] is True
    assert all(part.protect for part in (volume, secret, key))
    assert volume.retain_on_delete and secret.retain_on_delete


def test_no_two_tenants_have_one_key(recorder: Recorder) -> None:
    for tenant in ("acme", "dufour", "ember"):
        assert recorder[f"{tenant}-workspace-key"].type == "pulumi-python:dynamic/agent-platform:Password"
        assert f"{tenant}-workspace-key" in recorder[f"{tenant}-workspace-encryption"].depends_on


def test_a_leaving_tenants_key_may_go_with_its_volume(tmp_path: Path) -> None:
    leaving = {**PLAIN, "state": "offboarding", "offboarding": {"backup": "waived", "reason": "asked to"}}
    parts = of(record(tmp_path, leaving), "ember")
    assert not any(parts[f"ember-{name}"].protect for name in ("workspace", "workspace-encryption"))
    assert not parts["ember-workspace-key"].protect


def test_a_final_backup_has_the_key_without_which_the_volumes_is_noise(tmp_path: Path) -> None:
    leaving = {**PLAIN, "state": "offboarding", "offboarding": {"backup": "final"}}
    backup = of(record(tmp_path, leaving), "ember")["ember-final-backup"].inputs
    assert backup["workspaceKey"] == "drawn"


# Nodes


def test_own_nodes_are_for_one_tenant_and_on_different_hypervisors(dufour: dict[str, Registered]) -> None:
    pool = dufour["dufour-nodes"].inputs

    assert pool["taints"] == {"tenant-id": "dufour:NoSchedule"}
    assert pool["labels"] == {"tenant-id": "dufour"}
    assert pool["antiAffinityGroupIds"] == ["dufour-apart-id"]
    assert pool["securityGroupIds"] == ["cluster-nodes-id"]
    assert pool["size"] == 2


def test_only_its_tenants_machine_runs_there(
    acme: dict[str, Registered], dufour: dict[str, Registered], ember: dict[str, Registered]
) -> None:
    own = guest(dufour, "dufour")
    assert own["nodeSelector"] == {"tenant-id": "dufour"}
    assert own["tolerations"] == [
        {"key": "tenant-id", "operator": "Equal", "value": "dufour", "effect": "NoSchedule"}
    ]
    assert "dufour-nodes" in dufour["dufour-machine"].depends_on
    # Its load balancer leads to this pool alone.
    assert guest(acme, "acme")["nodeSelector"] == {"pool": "workers"}
    assert not guest(ember, "ember").get("nodeSelector")
    for parts, name in ((acme, "acme"), (ember, "ember")):
        assert not guest(parts, name).get("tolerations")
        assert f"{name}-nodes" not in parts


def test_shared_nodes_hold_the_volumes_and_are_nobodys(recorder: Recorder) -> None:
    workers = recorder["cluster-workers"].inputs
    assert "taints" not in workers
    assert workers["labels"]["node.longhorn.io/create-default-disk"] == "true"


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (Size(1, 1, 1), "standard.medium"),
        (TIERS["private-cloud"].default, "standard.extra-large"),
        (Size(8, 29, 100), "standard.huge"),
        (Size(8, 30, 100), "standard.mega"),
        (TIERS["private-cloud"].maximum, "standard.jumbo"),
    ],
)
def test_nodes_hold_what_was_sold_and_what_a_node_needs_itself(size: Size, expected: str) -> None:
    assert instance_type(size) == expected


# VPN


def test_only_its_tenants_machine_stands_behind_a_vpn(
    acme: dict[str, Registered], dufour: dict[str, Registered], ember: dict[str, Registered]
) -> None:
    for parts, name, pool in ((acme, "acme", "cluster-workers"), (dufour, "dufour", "dufour-nodes")):
        service = parts[f"{name}-vpn-entrance"].inputs
        assert service["metadata"]["namespace"] == f"tenant-{name}"
        assert service["spec"]["selector"]["tenant-id"] == name
        assert service["spec"]["externalTrafficPolicy"] == "Local"
        assert [(port["port"], port["protocol"]) for port in service["spec"]["ports"]] == [(51820, "UDP")]
        annotations = service["metadata"]["annotations"]
        prefix = "service.beta.kubernetes.io/exoscale-loadbalancer-service"
        assert annotations[f"{prefix}-instancepool-id"] == f"{pool}-instance-pool"
        assert annotations[f"{prefix}-healthcheck-mode"] == "http"
    assert not any("vpn" in name for name in ember)


def test_a_vpn_opens_one_udp_port_everywhere_and_no_more(acme: dict[str, Registered]) -> None:
    rule = acme["acme-vpn-port"].inputs
    assert (rule["protocol"], rule["startPort"], rule["endPort"]) == ("UDP", 31820, 31820)
    (ingress,) = acme["acme-from-vpn-peers"].inputs["spec"]["ingress"]
    assert ingress["ports"] == [{"protocol": "UDP", "port": 51820}]
    (peer,) = ingress["from"]
    assert peer["ipBlock"]["cidr"] == "0.0.0.0/0"
    assert "10.0.0.0/8" in peer["ipBlock"]["except"]
    (interface,) = guest(acme, "acme")["domain"]["devices"]["interfaces"]
    assert [(port["protocol"], port["port"]) for port in interface["ports"]] == [
        ("TCP", 8080),
        ("UDP", 51820),
    ]


def test_the_private_key_is_in_vault_and_nowhere_else(
    recorder: Recorder, acme: dict[str, Registered]
) -> None:
    secret = acme["acme-vpn"].inputs
    assert (secret["mount"], secret["name"]) == ("tenants", "acme/vpn")
    told = json.loads(secret["dataJson"]["value"])
    assert told == {"private_key": "drawn-private", "public_key": "drawn-public"}
    assert "acme-vpn" in acme["acme-machine"].depends_on
    for name, found in recorder.registered.items():
        if name not in ("acme-vpn", "dufour-vpn"):
            assert "drawn-private" not in json.dumps(found.inputs), name
    capabilities = acme["acme-policy"].inputs["policy"].split('data/acme/vpn" {')[1].split("}")[0]
    assert capabilities.strip() == 'capabilities = ["read"]'


def test_the_guest_is_told_its_peers(acme: dict[str, Registered], ember: dict[str, Registered]) -> None:
    def files(parts: dict[str, Registered], name: str) -> dict[str, str]:
        data = parts[f"{name}-cloud-init"].inputs["stringData"]
        document = yaml.safe_load(data.get("value", data)["userdata"])
        return {file["path"]: file["content"] for file in document["write_files"]}

    text = files(acme, "acme")["/etc/wireguard/wg0.conf"]
    assert text.count("[Peer]") == 2
    assert f"PublicKey = {peers(1, 2)[1]['publicKey']}\n" in text
    assert "PrivateKey" not in text
    assert "PostUp = wg set %i private-key /etc/wireguard/wg0.key" in text
    assert "/etc/wireguard/wg0.conf" not in files(ember, "ember")


def test_addresses_follow_from_names_alone() -> None:
    one, other, fewer = (
        TenantEntry.model_validate(entry(fields))
        for fields in (ENTERPRISE, PRIVATE, {**ENTERPRISE, "vpn": {"peers": peers(1, 5)[1:]}})
    )
    assert one.vpn is not None
    addresses = [vpn.address(one, peer) for peer in one.vpn.peers]
    assert len({*addresses, vpn.server_address(one)}) == 3
    network = ipaddress.ip_network(f"{vpn.server_address(one)}/64", strict=False)
    assert network.is_private
    assert all(ipaddress.ip_address(address) in network for address in addresses)
    assert ipaddress.ip_address(vpn.server_address(other)) not in network
    assert fewer.vpn is not None
    assert vpn.address(fewer, fewer.vpn.peers[0]) == addresses[1]


def test_a_key_pair_is_one() -> None:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    from infra.tenants.wireguard_key import KeyPairProvider

    made = KeyPairProvider().create({}).outs
    assert made is not None
    private, public = (base64.b64decode(made[name]) for name in ("private", "public"))
    assert X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw() == public
    assert KeyPairProvider().create({}).outs != made


# Database


def test_a_database_of_its_own_lets_vault_in_and_nobody_else(dufour: dict[str, Registered]) -> None:
    database = dufour["dufour-database"]
    # Not the tenant's: an owner sets what names mean to whoever connects, an administrator too.
    assert database.inputs == {"name": "tenant_dufour", "owner": "postgres"}
    assert database.protect
    tenant = dufour["dufour-database-tenant"].inputs
    assert (tenant["role"], tenant["privileges"]) == ("tenant_dufour", ["CONNECT", "CREATE", "TEMPORARY"])
    assert dufour["dufour-role"].inputs.get("roles", []) == []
    assert dufour["dufour-database-control"].inputs["database"] == "tenant_dufour"
    closed = dufour["dufour-database-closed"].inputs
    assert (closed["role"], closed["objectType"], closed["privileges"]) == ("public", "database", [])
    issuer = dufour["dufour-database-issuer"].inputs
    assert (issuer["role"], issuer["privileges"], issuer["withGrantOption"]) == ("vault", ["CONNECT"], True)
    connection = dufour["dufour-database-connection"]
    assert connection.inputs["allowedRoles"] == ["tenant-dufour"]
    assert connection.inputs["postgresql"]["connectionUrl"].endswith("/tenant_dufour?sslmode=disable")
    assert {"dufour-database-closed", "dufour-database-issuer", "dufour-database-control"} <= set(
        connection.depends_on
    )
    assert "dufour-database-tenant" in dufour["dufour-own-tables"].depends_on


def test_everything_that_was_in_the_shared_database_is_in_its_own(
    acme: dict[str, Registered], dufour: dict[str, Registered]
) -> None:
    for part in ("schema", "functions", "closed", "tables"):
        assert acme[f"acme-{part}"].inputs["database"] == "agents"
        own = dufour[f"dufour-own-{part}"].inputs["database"]
        assert own == "tenant_dufour"
        assert f"dufour-{part}" not in dufour
    assert dufour["dufour-own-schema"].protect
    logins = dufour["dufour-logins"].inputs
    assert logins["dbName"] == "tenant-dufour"
    assert logins["creationStatements"][-1] == 'GRANT CONNECT ON DATABASE "tenant_dufour" TO "{{name}}"'
    assert acme["acme-logins"].inputs["dbName"] == "agents"
    # Leases are taken back while Vault can still get in there.
    assert "dufour-database-connection" in dufour["dufour-holdings"].depends_on


def test_production_has_the_same_parts(tmp_path: Path, recorder: Recorder) -> None:
    there = record(tmp_path, ENTERPRISE, PRIVATE, PLAIN, values=stack("prod"))
    for tenant in ("acme", "dufour"):
        assert of(there, tenant).keys() == of(recorder, tenant).keys()
    url = there["dufour-database-connection"].inputs["postgresql"]["connectionUrl"]
    assert url.endswith("/tenant_dufour?sslmode=verify-full&sslrootcert=/openbao/tls/ca.crt")
