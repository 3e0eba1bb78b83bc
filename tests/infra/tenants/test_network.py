"""The NetworkPolicies: all is closed, and each opening leads to what its name says."""

from typing import Any

import pytest

from infra.platform.network_policies import NOT_PUBLIC, agent_openings, host_at, pods_at, url_at
from tests.infra.recording import ROOT, Recorder, Registered, stack
from tests.infra.tenants.test_tenant import registered

TO_GATEWAY = ("tenant-acme", "tenant-dufour", "runtime")
"""The gateway's API for agents, which gives leases and renews assertions."""
CLOSED = ("tenant-acme", "tenant-corvus", "tenant-dufour", "runtime")
ALL_OPENINGS = {
    *("default-deny", "from-gateway", "to-dns", "to-vault", "to-database"),
    *("to-object-storage", "to-internet"),
}
INTERNET = {"ipBlock": {"cidr": "0.0.0.0/0", "except": list(NOT_PUBLIC)}}


@pytest.fixture(scope="module")
def local() -> Recorder:
    return registered(ROOT / "tenants.yaml")


@pytest.fixture(scope="module")
def production() -> Recorder:
    return registered(ROOT / "tenants.yaml", stack("prod"))


def policies(recorder: Recorder, namespace: str) -> dict[str, Any]:
    """The namespace's policies by name."""
    found: list[Registered] = recorder.of_type("kubernetes:networking.k8s.io/v1:NetworkPolicy")
    return {
        one.inputs["metadata"]["name"]: one.inputs["spec"]
        for one in found
        if one.inputs["metadata"]["namespace"] == namespace
    }


@pytest.mark.parametrize("namespace", CLOSED)
def test_all_is_denied_but_for_the_named_openings(local: Recorder, namespace: str) -> None:
    found = policies(local, namespace)

    assert found.keys() == ALL_OPENINGS | ({"to-gateway"} if namespace in TO_GATEWAY else set())
    assert found.pop("default-deny") == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for spec in found.values():
        # An opening is for agents' pods, leads somewhere, and on named ports only.
        assert spec["podSelector"]["matchLabels"]
        (policy_type,) = spec["policyTypes"]
        (rule,) = spec[policy_type.lower()]
        assert rule["from" if policy_type == "Ingress" else "to"]
        assert rule["ports"]


@pytest.mark.parametrize("namespace", CLOSED)
def test_services_that_run_in_the_cluster_are_reached_there_only(
    production: Recorder, namespace: str
) -> None:
    found = policies(production, namespace)

    def to(name: str) -> tuple[str, dict[str, str], list[tuple[str, float]]]:
        (rule,) = found[name].get("egress") or found[name]["ingress"]
        (peer,) = rule.get("to") or rule["from"]
        return (
            peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"],
            peer["podSelector"]["matchLabels"],
            [(port["protocol"], port["port"]) for port in rule["ports"]],
        )

    openbao = {"app.kubernetes.io/name": "openbao", "component": "server"}
    assert to("to-vault") == ("vault", openbao, [("TCP", 8200)])
    assert to("to-database") == ("databases", {"cnpg.io/cluster": "postgres"}, [("TCP", 5432)])
    assert to("to-dns") == ("kube-system", {"k8s-app": "kube-dns"}, [("UDP", 53), ("TCP", 53)])
    if namespace in TO_GATEWAY:
        assert to("to-gateway") == ("gateway", {"app.kubernetes.io/name": "gateway"}, [("TCP", 8444)])
    assert to("from-gateway") == ("gateway", {"app.kubernetes.io/name": "gateway"}, [("TCP", 8080)])


@pytest.mark.parametrize("mode", ["local", "production"])
@pytest.mark.parametrize("namespace", CLOSED)
def test_the_internet_is_https_and_no_network_of_ours_or_the_providers(
    mode: str, namespace: str, request: pytest.FixtureRequest
) -> None:
    recorder: Recorder = request.getfixturevalue(mode)

    (rule,) = policies(recorder, namespace)["to-internet"]["egress"]

    assert rule == {"to": [INTERNET], "ports": [{"protocol": "TCP", "port": 443}]}
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16"} <= set(
        NOT_PUBLIC
    )


@pytest.mark.parametrize("namespace", CLOSED)
def test_services_that_are_given_are_reached_at_their_address(local: Recorder, namespace: str) -> None:
    found = policies(local, namespace)

    for name, port in (("to-vault", 8200), ("to-database", 5432), ("to-object-storage", 8333)):
        (rule,) = found[name]["egress"]
        assert rule["to"] == [{"ipBlock": {"cidr": "127.0.0.1/32"}}]
        assert rule["ports"] == [{"protocol": "TCP", "port": port}]


@pytest.mark.parametrize("namespace", CLOSED[:3])
def test_tenants_let_each_others_pods_in_nowhere(local: Recorder, namespace: str) -> None:
    ingress = [rule for spec in policies(local, namespace).values() for rule in spec.get("ingress", ())]

    peers = [peer for rule in ingress for peer in rule["from"]]
    assert [peer["namespaceSelector"]["matchLabels"] for peer in peers] == [
        {"kubernetes.io/metadata.name": "gateway"}
    ]


def test_a_host_given_by_name_is_limited_by_its_port() -> None:
    """Its addresses are not ours to know; the metadata service has none of them."""
    (peer,) = host_at("db.example.ch", 5432).peers

    assert peer == {"ip_block": {"cidr": "0.0.0.0/0", "except_": ["169.254.0.0/16"]}}
    assert url_at("https://vault.example.ch").port == 443
    assert url_at("https://vault.example.ch:8200").port == 8200
    assert url_at("http://[::1]:8333").peers == ({"ip_block": {"cidr": "::1/128"}},)
    assert host_at("localhost", 1).peers == ({"ip_block": {"cidr": "127.0.0.1/32"}},)


def test_object_storage_by_name_is_on_the_internet_and_no_way_into_the_cluster() -> None:
    nowhere = pods_at("nowhere", {"app": "nothing"}, 1)
    openings = agent_openings(nowhere, nowhere, "https://sos-ch-gva-2.exo.io")

    (storage,) = (opening for opening in openings if opening.name == "to-object-storage")
    assert list(storage.peers) == [{"ip_block": {"cidr": "0.0.0.0/0", "except_": list(NOT_PUBLIC)}}]
