from typing import Any

from local.node_agent import pods
from local.node_agent.kube import Object
from local.node_agent.pods import Container
from tests.local.node_agent.objects import a_container, a_pod

ADDRESSES = {"podIP": "127.64.0.1", "hostIP": "127.16.0.1"}
T1, T2 = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"
RUNNING = Container(state={"running": {"startedAt": T1}})


def ended(code: int) -> Container:
    return Container(state={"terminated": pods.ended(code, T1, T2)})


def status(pod: Object, *, now: str = T1, **containers: Container) -> Object:
    return pods.status(pod, containers or {"main": RUNNING}, ADDRESSES, now=now)


def condition(status: Object, kind: str) -> Any:
    return next((c["status"], c.get("reason")) for c in status["conditions"] if c["type"] == kind)


def test_a_running_pod_is_ready_and_has_its_addresses() -> None:
    found = status(a_pod())
    assert found["phase"] == "Running"
    assert condition(found, "Ready") == ("True", None)
    assert found["podIPs"] == [{"ip": "127.64.0.1"}]
    assert found["containerStatuses"][0]["ready"] is True


def test_nothing_changes_while_nothing_happens() -> None:
    pod = a_pod()
    pod["status"] = status(pod)
    assert not pods.differs(pod["status"], pods.status(pod, pods.reported(pod, T2), ADDRESSES, now=T2))


def test_conditions_of_others_are_no_difference_and_gates_are_waited_for() -> None:
    gate = "kubevirt.io/virtual-machine-unpaused"
    pod = a_pod(readinessGates=[{"conditionType": gate}])
    found = status(pod)
    assert condition(found, "Ready") == ("False", "ReadinessGatesNotReady")
    assert condition(found, "ContainersReady") == ("True", None)
    found["conditions"].append({"type": gate, "status": "True"})
    pod["status"] = found
    assert condition(status(pod, now=T2), "Ready") == ("True", None)
    since = next(c["lastTransitionTime"] for c in status(pod, now=T2)["conditions"] if c["type"] == "Ready")
    assert since == T2


def test_the_phase_follows_restart_policy_and_exit_codes() -> None:
    def phase(policy: str, container: Container) -> str:
        return str(status(a_pod(restartPolicy=policy), main=container)["phase"])

    assert phase("Never", ended(0)) == "Succeeded"
    assert phase("Never", ended(1)) == "Failed"
    assert phase("OnFailure", ended(0)) == "Succeeded"
    assert phase("OnFailure", ended(1)) == "Running"
    assert phase("Always", ended(0)) == "Running"
    assert (
        phase("Always", Container(state={"waiting": {"reason": "CreateContainerConfigError"}})) == "Pending"
    )
    assert (
        phase("Always", Container(state={"waiting": {"reason": "CrashLoopBackOff"}}, restarts=2)) == "Running"
    )


def test_a_pod_with_one_container_left_runs_on() -> None:
    pod = a_pod(restartPolicy="Never", containers=[a_container(), a_container(name="other")])
    found = status(pod, main=ended(0), other=RUNNING)
    assert found["phase"] == "Running"
    assert condition(found, "Ready") == ("False", "ContainersNotReady")


def test_a_reported_pod_ends_when_it_is_deleted() -> None:
    pod = a_pod()
    pod["metadata"]["deletionTimestamp"] = T2
    found = pods.status(pod, pods.reported(pod, T2), ADDRESSES, now=T2)
    assert found["phase"] == "Succeeded"


def test_init_containers_of_reported_pods_are_done_and_sidecars_run() -> None:
    inits = [a_container(name="i"), {**a_container(name="s"), "restartPolicy": "Always"}]
    first, second = status(a_pod(initContainers=inits))["initContainerStatuses"]
    assert "terminated" in first["state"]
    assert "running" in second["state"]


def test_own_pods_are_those_with_our_images_only() -> None:
    ours = a_container(image="ghcr.io/acme/agent-platform/idle-suspender:1")
    assert pods.is_own(a_pod(containers=[ours]))
    assert not pods.is_own(a_pod(containers=[ours, a_container()]))
