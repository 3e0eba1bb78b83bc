"""The cluster as it is registered: what SKS is asked for, and what is opened."""

from typing import Any

import pytest

from infra.cluster.cluster import Cluster
from infra.settings import load_settings
from tests.infra.recording import SECRETS, Recorder, configure, local_stack, record, stack


def cluster(values: dict[str, Any], secrets: dict[str, str] | None = None) -> Recorder:
    configure(values, secrets)
    settings = load_settings()
    return record(lambda: Cluster("cluster", settings))


@pytest.fixture(scope="module")
def production() -> Recorder:
    return cluster(stack("prod"))


def test_the_cluster_has_what_the_platform_builds_on(production: Recorder) -> None:
    sks = production["cluster-sks"]
    assert sks.inputs == {
        "name": "agent-platform",
        "zone": "ch-gva-2",
        "version": "1.35.7",
        "cni": "cilium",
        "serviceLevel": "pro",
        "autoUpgrade": True,
        "exoscaleCcm": True,
        "exoscaleCsi": True,
        "metricsServer": True,
        "description": "Agent platform, test",
    }
    assert sks.protect


def test_a_patch_release_that_sks_installed_is_not_taken_back(production: Recorder) -> None:
    assert production["cluster-sks"].ignore_changes == ["version"]
    assert cluster(local_stack(), SECRETS)["cluster-sks"].ignore_changes == []


def test_the_audit_log_goes_where_the_configuration_says() -> None:
    values = stack("prod")
    values["cluster"]["audit"] = {"endpoint": "https://siem.example.ch/audit"}
    audit = cluster(values, {"auditToken": "siem-secret"})["cluster-sks"].inputs["audit"]
    # A mapping with a secret in it is a secret as a whole.
    assert audit["4dabf18193072939515e22adb298388d"]
    assert audit["value"] == {
        "enabled": True,
        "endpoint": "https://siem.example.ch/audit",
        "initialBackoff": "10s",
        "bearerToken": "siem-secret",
    }


def test_every_pool_is_spread_behind_the_firewall_on_the_private_network() -> None:
    values = stack("prod")
    values["cluster"]["nodePools"].append(
        {"name": "dedicated", "instanceType": "cpu.huge", "size": 1, "diskGib": 800}
    )
    registered = cluster(values)
    pools = [registered["cluster-workers"], registered["cluster-dedicated"]]
    assert [pool.inputs["name"] for pool in pools] == ["workers", "dedicated"]
    for pool in pools:
        assert pool.inputs["antiAffinityGroupIds"] == [f"{pool.name}-apart-id"]
        assert pool.inputs["securityGroupIds"] == ["cluster-nodes-id"]
        assert pool.inputs["privateNetworkIds"] == ["cluster-network-id"]
    assert pools[1].inputs["size"] == 1
    assert pools[1].inputs["diskSize"] == 800


def rules(registered: Recorder) -> dict[str, dict[str, Any]]:
    rules = registered.of_type("exoscale:index/securityGroupRule:SecurityGroupRule")
    assert all(rule.inputs["type"] == "INGRESS" for rule in rules)
    assert all(rule.inputs["securityGroupId"] == "cluster-nodes-id" for rule in rules)
    return {rule.inputs["description"]: rule.inputs for rule in rules}


def ports(rule: dict[str, Any]) -> tuple[Any, ...]:
    return rule["protocol"], rule.get("startPort"), rule.get("endPort")


def test_nodes_reach_each_other_for_kubelet_and_cilium_only() -> None:
    opened = rules(cluster(local_stack(), SECRETS))
    assert {name: ports(rule) for name, rule in opened.items()} == {
        "kubelet": ("TCP", 10250, 10250),
        "cilium-vxlan": ("UDP", 8472, 8472),
        "cilium-health": ("TCP", 4240, 4240),
        "cilium-ping": ("ICMP", None, None),
        "node-ports-health": ("TCP", 30000, 32767),
    }
    assert opened.pop("node-ports-health")["publicSecurityGroup"] == "public-nlb-healthcheck-sources"
    assert all(rule["userSecurityGroupId"] == "cluster-nodes-id" for rule in opened.values())
    assert not any("cidr" in rule for rule in opened.values())


def test_calico_needs_its_own_tunnel() -> None:
    values = local_stack()
    values["cluster"]["cni"] = "calico"
    assert {name: ports(rule) for name, rule in rules(cluster(values, SECRETS)).items()} == {
        "kubelet": ("TCP", 10250, 10250),
        "calico-vxlan": ("UDP", 4789, 4789),
        "node-ports-health": ("TCP", 30000, 32767),
    }


def test_node_ports_open_to_operators_and_health_checks_alone(production: Recorder) -> None:
    opened = {name: rule for name, rule in rules(production).items() if name.startswith("node-ports")}
    assert all(ports(rule) == ("TCP", 30000, 32767) for rule in opened.values())
    assert opened["node-ports-203.0.113.0-24"]["cidr"] == "203.0.113.0/24"
    assert opened["node-ports-health"]["publicSecurityGroup"] == "public-nlb-healthcheck-sources"
    assert len(opened) == 2


def test_a_renewed_kubeconfig_replaces_no_object(production: Recorder) -> None:
    kubeconfig = production["cluster-kubeconfig"].inputs
    assert (kubeconfig["ttlSeconds"], kubeconfig["earlyRenewalSeconds"]) == (30 * 86400, 15 * 86400)
    provider = production["cluster-kubernetes"]
    assert provider.inputs["clusterIdentifier"] == "cluster-sks-id"
    assert provider.inputs["enableServerSideApply"] == "true"
    assert provider.inputs["deleteUnreachable"] == "false"
    assert "cluster-workers" in provider.depends_on


def test_the_buckets_are_protected_and_versioned(production: Recorder) -> None:
    buckets = production.of_type("pulumi-python:dynamic/agent-platform:Bucket")
    assert {bucket.name: bucket.inputs["name"] for bucket in buckets} == {
        "cluster-artifacts": "agent-platform-prod-artifacts",
        "cluster-backups": "agent-platform-prod-backups",
        "cluster-logs": "agent-platform-prod-logs",
    }
    for bucket in buckets:
        assert bucket.protect
        assert bucket.inputs["versioned"] is True
        assert bucket.inputs["region"] == "ch-gva-2"
        assert bucket.inputs["endpoint"] == "https://sos-ch-gva-2.exo.io"


def test_everything_belongs_to_the_component(production: Recorder) -> None:
    children = [resource for resource in production.registered.values() if resource.name != "cluster"]
    assert all(child.parent == "cluster" for child in children)
    assert all(child.name.startswith("cluster-") for child in children)
