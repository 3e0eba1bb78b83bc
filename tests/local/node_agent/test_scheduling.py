from typing import Any

import pytest

from local.node_agent.scheduling import place
from tests.local.node_agent.objects import a_container, a_node, a_pod


def asking(**requests: str) -> dict[str, Any]:
    return {"containers": [a_container(requests=requests)]}


def required(kind: str, terms: Any) -> dict[str, Any]:
    return {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}


def test_without_nodes_it_says_so() -> None:
    assert place(a_pod(), [], []).message == "no nodes available to schedule pods"


def test_chooses_the_node_with_most_free_cores() -> None:
    busy = a_pod("busy", node_name="n1", **asking(cpu="2"))
    assert place(a_pod(**asking(cpu="500m")), [a_node("n1"), a_node("n2")], [busy]).node == "n2"


def test_finished_pods_take_no_room() -> None:
    done = a_pod("done", node_name="n1", **asking(cpu="3"))
    done["status"]["phase"] = "Succeeded"
    assert place(a_pod(**asking(cpu="3")), [a_node("n1")], [done]).node == "n1"


@pytest.mark.parametrize(
    ("requests", "lacking"),
    [
        ({"cpu": "4"}, "cpu"),  # the system keeps 200m of the four cores
        ({"memory": "16Gi"}, "memory"),
        ({"devices.kubevirt.io/kvm": "1001"}, "devices.kubevirt.io/kvm"),
        ({"nvidia.com/gpu": "1"}, "nvidia.com/gpu"),
    ],
)
def test_what_does_not_fit_waits_with_the_schedulers_words(requests: dict[str, str], lacking: str) -> None:
    placement = place(a_pod(**asking(**requests)), [a_node("n1"), a_node("n2")], [])
    assert placement.node is None
    assert placement.message == f"0/2 nodes are available: 2 Insufficient {lacking}."


def test_devices_of_all_pods_on_a_node_add_up() -> None:
    others = [a_pod(str(n), node_name="n1", **asking(**{"devices.kubevirt.io/kvm": "400"})) for n in range(2)]
    assert place(a_pod(**asking(**{"devices.kubevirt.io/kvm": "200"})), [a_node()], others).node == "n1"
    assert place(a_pod(**asking(**{"devices.kubevirt.io/kvm": "201"})), [a_node()], others).node is None


def test_the_largest_init_container_counts_but_not_on_top() -> None:
    small: dict[str, Any] = {"containers": [a_container(requests={"cpu": "1"})]}
    inits = [a_container(requests={"cpu": "3"}), a_container(requests={"cpu": "2"})]
    assert place(a_pod(**small, initContainers=inits), [a_node()], []).node == "n1"
    sidecar = [{**a_container(requests={"cpu": "3"}), "restartPolicy": "Always"}]
    assert place(a_pod(**small, initContainers=sidecar), [a_node()], []).node is None


def test_node_selector_and_affinity() -> None:
    nodes = [a_node("n1"), a_node("n2")]
    assert place(a_pod(nodeSelector={"kubernetes.io/hostname": "n2"}), nodes, []).node == "n2"
    refused = place(a_pod(nodeSelector={"disk": "fast"}), nodes, [])
    assert refused.message == "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
    by_label = [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["n1"]}]
    terms = {"nodeSelectorTerms": [{"matchExpressions": by_label}]}
    assert place(a_pod(**required("nodeAffinity", terms)), nodes, []).node == "n2"
    by_name = [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]
    terms = {"nodeSelectorTerms": [{"matchFields": by_name}]}
    assert place(a_pod(**required("nodeAffinity", terms)), nodes, []).node == "n2"


def test_a_launcher_of_kubevirt_finds_its_labels() -> None:
    selector: dict[str, str] = {
        "kubevirt.io/schedulable": "true",
        "kubernetes.io/arch": "amd64",
        "machine-type.node.kubevirt.io/q35": "true",
    }
    assert place(a_pod(nodeSelector=selector), [a_node()], []).node == "n1"


def test_taints_and_cordons() -> None:
    taint = {"key": "dedicated", "value": "acme", "effect": "NoSchedule"}
    nodes = [a_node("n1", taints=[taint])]
    refused = place(a_pod(), nodes, [])
    assert refused.message == "0/1 nodes are available: 1 node(s) had untolerated taint(s) {dedicated: acme}."
    for toleration in (
        {"key": "dedicated", "value": "acme", "effect": "NoSchedule"},
        {"key": "dedicated", "operator": "Exists"},
        {"operator": "Exists"},
    ):
        assert place(a_pod(tolerations=[toleration]), nodes, []).node == "n1"
    assert place(a_pod(tolerations=[{"key": "dedicated", "value": "other"}]), nodes, []).node is None
    assert place(a_pod(), [a_node(taints=[{**taint, "effect": "PreferNoSchedule"}])], []).node == "n1"
    assert place(a_pod(), [a_node(unschedulable=True)], []).node is None


def test_pods_that_avoid_or_seek_each_other() -> None:
    nodes = [a_node("n1"), a_node("n2")]
    term = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {"app": "db"}},
    }
    db = a_pod("db", node_name="n1", labels={"app": "db"})
    replica: dict[str, Any] = {"labels": {"app": "db"}}
    assert place(a_pod(**replica, **required("podAntiAffinity", [term])), nodes, [db]).node == "n2"
    second = a_pod("db2", node_name="n2", labels={"app": "db"})
    refused = place(a_pod(**replica, **required("podAntiAffinity", [term])), nodes, [db, second])
    assert refused.message == "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules."
    assert place(a_pod(**required("podAffinity", [term])), nodes, [db]).node == "n1"
    assert place(a_pod(**required("podAffinity", [term])), nodes, []).node is None
    # The first of a group that seeks itself has nobody to seek.
    assert place(a_pod(**replica, **required("podAffinity", [term])), nodes, []).node is not None


def test_a_full_node_takes_no_more_pods() -> None:
    others = [a_pod(str(n), node_name="n1") for n in range(110)]
    assert place(a_pod(), [a_node()], others).message == "0/1 nodes are available: 1 Too many pods."
