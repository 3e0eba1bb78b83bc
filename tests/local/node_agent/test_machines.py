from typing import Any

from local.node_agent import machines
from local.node_agent.guests import Guest, ReportedGuests
from local.node_agent.kube import Object
from tests.local.node_agent.objects import a_machine, a_pod

NOW = "2026-01-01T00:00:00Z"
RUNNING = Guest(state="running")


def status(machine: Object, guest: Guest | None, *, stopping: bool = False) -> Object:
    return machines.status(machine, guest, stopping=stopping, pod_ip="127.64.0.1", now=NOW)


def condition(status: Object, kind: str) -> Any:
    return next(c for c in status["conditions"] if c["type"] == kind)


def test_a_booted_guest_makes_its_machine_running() -> None:
    found = status(a_machine(), RUNNING)
    assert found["phase"] == "Running"
    assert found["phaseTransitionTimestamps"][-1] == {"phase": "Running", "phaseTransitionTimestamp": NOW}
    assert found["interfaces"][0]["ipAddress"] == "127.64.0.1"
    assert condition(found, "LiveMigratable")["status"] == "True"
    assert found["migrationMethod"] == "LiveMigration"
    assert found["nodeName"] == "n1", "fields of virt-controller stay"


def test_a_second_look_changes_nothing() -> None:
    machine = a_machine()
    machine["status"] = status(machine, RUNNING)
    assert status(machine, RUNNING) == machine["status"]
    # virt-controller adds to conditions and interfaces; both survive
    machine["status"]["conditions"] = [{"type": "Ready", "status": "True"}, *machine["status"]["conditions"]]
    machine["status"]["interfaces"][0]["podInterfaceName"] = "eth0"
    assert status(machine, RUNNING) == machine["status"]


def test_a_claim_that_is_not_shared_forbids_live_migration() -> None:
    machine = a_machine()
    machine["spec"]["volumes"] = [{"name": "work", "persistentVolumeClaim": {"claimName": "workspace-acme"}}]
    machine["status"]["volumeStatus"] = [
        {"name": "work", "persistentVolumeClaimInfo": {"accessModes": ["ReadWriteOnce"]}}
    ]
    found = condition(status(machine, RUNNING), "LiveMigratable")
    assert (found["status"], found["reason"]) == ("False", "DisksNotLiveMigratable")
    assert "workspace-acme" in found["message"]
    machine["status"]["volumeStatus"][0]["persistentVolumeClaimInfo"]["accessModes"] = ["ReadWriteMany"]
    assert condition(status(machine, RUNNING), "LiveMigratable")["status"] == "True"


def test_ephemeral_disks_are_copied_when_it_migrates() -> None:
    machine = a_machine()
    machine["spec"]["volumes"] = [{"name": "system", "containerDisk": {"image": "x"}}]
    assert status(machine, RUNNING)["migrationMethod"] == "BlockMigration"


def test_how_a_guest_ends_decides_the_phase() -> None:
    assert status(a_machine("Running"), Guest(state="shutdown"))["phase"] == "Succeeded"
    assert status(a_machine("Running"), Guest(state="crashed"))["phase"] == "Failed"
    assert status(a_machine("Running"), None)["phase"] == "Failed"
    assert status(a_machine("Scheduled"), None)["phase"] == "Scheduled"
    assert status(a_machine("Scheduled"), None, stopping=True)["phase"] == "Failed"


def test_reported_guests_outlive_the_agent() -> None:
    guests = ReportedGuests()
    assert guests.find(a_machine("Scheduled")) is None
    assert guests.find(a_machine("Running")) == RUNNING
    guests.start(a_machine(), a_pod())
    assert guests.find(a_machine("Scheduled")) == RUNNING
    guests.shut_down(a_machine())
    assert guests.find(a_machine("Running")) == Guest(state="shutdown")
    guests.forget("uid-vm")
    assert guests.find(a_machine("Scheduled")) is None


def test_only_scheduled_and_running_machines_are_virt_handlers() -> None:
    phases = ["", "Pending", "Scheduling", "Scheduled", "Running", "Succeeded", "Failed"]
    assert [p for p in phases if machines.is_handed_over(a_machine(p))] == ["Scheduled", "Running"]
    assert [p for p in phases if machines.is_final(a_machine(p))] == ["Succeeded", "Failed"]
