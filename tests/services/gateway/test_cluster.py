"""What the two objects of a machine say together, as KubeVirt 1.8 writes them."""

from typing import Any

import pytest

from services.gateway.cluster import Machine, read_declared, read_instance, read_pod, seen


def declared(status: str, *conditions: dict[str, str], requests: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "metadata": {"name": "tenant-acme"},
        "status": {
            "printableStatus": status,
            "conditions": list(conditions),
            "stateChangeRequests": [{"action": request} for request in requests],
        },
    }


def instance(phase: str, *conditions: dict[str, str], going: bool = False) -> dict[str, Any]:
    return {
        "metadata": {"uid": "one", **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if going else {})},
        "status": {"phase": phase, "interfaces": [{"ipAddress": "10.0.0.7"}], "conditions": list(conditions)},
    }


def no(kind: str, message: str) -> dict[str, str]:
    return {"type": kind, "status": "False", "message": message}


def look(vm: dict[str, Any], vmi: dict[str, Any] | None = None) -> Machine:
    return seen(read_declared(vm), read_instance(vmi) if vmi else None)


@pytest.mark.parametrize(
    ("vm", "vmi", "status"),
    [
        (declared("Stopped"), None, "off"),
        (declared("Stopped"), instance("Succeeded"), "off"),
        (declared("Stopped", requests=("Start",)), None, "starting"),
        (declared("Starting"), None, "starting"),
        (declared("Starting"), instance("Scheduled"), "starting"),
        (declared("Running"), instance("Running"), "running"),
        (declared("Starting"), instance("Running"), "running"),
        (declared("Running", requests=("Stop",)), instance("Running"), "stopping"),
        (declared("Running"), instance("Running", going=True), "stopping"),
        (declared("Stopping"), instance("Running"), "stopping"),
        (declared("Stopped"), instance("Running"), "stopping"),
    ],
)
def test_where_a_machine_stands(vm: dict[str, Any], vmi: dict[str, Any] | None, status: str) -> None:
    assert look(vm, vmi).status == status


def test_a_machine_that_is_declared_not_to_run_is_halted_once_it_has_ended() -> None:
    vm = declared("Stopped")
    vm["spec"] = {"runStrategy": "Halted"}
    assert look(vm).status == "halted"
    assert look(vm, instance("Running", going=True)).status == "stopping"


def test_a_machine_that_is_being_deleted_is_none() -> None:
    vm = declared("Running")
    vm["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert look(vm, instance("Running")).status == "missing"


def test_where_it_is_reached() -> None:
    assert look(declared("Running"), instance("Running")).address == "http://10.0.0.7:8080"


@pytest.mark.parametrize(
    ("status", "condition", "kind"),
    [
        ("ErrorUnschedulable", no("PodScheduled", "0/3 nodes are available"), "no-capacity"),
        ("Starting", no("Synchronized", "pods x is forbidden: exceeded quota: quota"), "no-capacity"),
        ("ErrImagePull", no("Synchronized", "not found"), "image"),
        ("ImagePullBackOff", no("Synchronized", "back-off"), "image"),
        ("ErrorPvcNotFound", no("Synchronized", "no claim"), "volume"),
        ("Starting", no("Synchronized", "admission webhook denied the request"), "unknown"),
    ],
)
def test_what_keeps_it_from_running(status: str, condition: dict[str, str], kind: str) -> None:
    trouble = look(declared(status), instance("Scheduling", condition)).trouble
    assert trouble is not None
    assert trouble.kind == kind
    assert condition["message"] in trouble.detail


def test_a_crash_loop_needs_no_instance() -> None:
    trouble = look(declared("CrashLoopBackOff")).trouble
    assert trouble is not None
    assert trouble.kind == "crash-loop"


def test_nothing_is_held_against_it_that_was_said_of_its_last_run() -> None:
    assert look(declared("Stopped", no("Synchronized", "old"))).trouble is None
    assert look(declared("Starting", no("Synchronized", "old"))).trouble is None


def test_that_it_does_not_answer_yet_is_no_trouble() -> None:
    vmi = instance("Scheduled", no("Ready", "Guest VM is not reported as running"))
    assert look(declared("Starting"), vmi).trouble is None


@pytest.mark.parametrize(
    ("ready", "going", "address"),
    [("True", False, "http://10.0.0.8:8080"), ("False", False, ""), ("True", True, "")],
)
def test_only_a_pod_that_is_ready_gets_requests(ready: str, going: bool, address: str) -> None:
    pod = {
        "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"} if going else {},
        "status": {"podIP": "10.0.0.8", "conditions": [{"type": "Ready", "status": ready}]},
    }
    assert read_pod(pod) == address


def test_a_pod_that_waits_for_a_node_gets_no_requests() -> None:
    assert read_pod({"metadata": {}, "status": {"phase": "Pending"}}) == ""
