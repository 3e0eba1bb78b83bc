"""The status of a VirtualMachineInstance, as virt-handler derives it from its guest (KubeVirt 1.8).

virt-controller hands an instance over in phase Scheduled and keeps writing the condition Ready and the
fields activePods, launcherContainerImageVersion and volumeStatus; what is here is virt-handler's part.
"""

import hashlib

from local.node_agent.guests import Guest
from local.node_agent.kube import Object

HANDLER = "system:serviceaccount:kubevirt:kubevirt-handler"
"""Who changes a status: from all but its own accounts, KubeVirt's admission silently drops such a change."""

_MACHINE_TYPE = "q35"
_UNTIMED: Object = {"lastProbeTime": None, "lastTransitionTime": None}
"""As virt-handler writes a condition: virt-controller patches only what is written just so."""


def is_handed_over(machine: Object) -> bool:
    """Return whether virt-handler has the say about `machine`."""
    return machine.get("status", {}).get("phase") in ("Scheduled", "Running")


def is_final(machine: Object) -> bool:
    """Return whether the guest of `machine` has ended for good."""
    return machine.get("status", {}).get("phase") in ("Succeeded", "Failed")


def status(machine: Object, guest: Guest | None, *, stopping: bool, pod_ip: str, now: str) -> Object:
    """Return the status of a handed over `machine`; `stopping` when it or its launcher Pod is to go."""
    before = machine["status"]
    phase = _phase(before["phase"], guest, stopping=stopping)
    after = {**before, "phase": phase}
    if phase != before["phase"]:
        transition = {"phase": phase, "phaseTransitionTimestamp": now}
        after["phaseTransitionTimestamps"] = [*before.get("phaseTransitionTimestamps", ()), transition]
    if phase == "Running" and guest is not None:
        after.update(_running(machine, guest, pod_ip))
    return after


def mac(machine: Object, interface: Object) -> str:
    """Return the address of a network interface: the one asked for, or one of its own."""
    if "macAddress" in interface:
        return str(interface["macAddress"])
    tail = hashlib.sha256(f"{machine['metadata']['uid']}/{interface['name']}".encode()).digest()[:5]
    return ":".join(["02", *(f"{byte:02x}" for byte in tail)])


def _phase(before: str, guest: Guest | None, *, stopping: bool) -> str:
    if guest is None:
        return "Failed" if before == "Running" or stopping else before
    if guest.state == "starting":
        return before
    return {"running": "Running", "shutdown": "Succeeded", "crashed": "Failed"}[guest.state]


def _running(machine: Object, guest: Guest, pod_ip: str) -> Object:
    before = machine["status"]
    obstacle, block_migration = _migration(machine)
    live = {**_UNTIMED, "type": "LiveMigratable", "status": "False" if obstacle else "True", **obstacle}
    storage = {**_UNTIMED, "type": "StorageLiveMigratable", "status": "True"}
    memory = machine["spec"]["domain"].get("memory", {}).get("guest")
    return {
        "conditions": _merged(before.get("conditions", []), [live, storage]),
        "migrationMethod": "BlockMigration" if block_migration else "LiveMigration",
        "machine": {"type": machine["spec"]["domain"].get("machine", {}).get("type") or _MACHINE_TYPE},
        "interfaces": _interfaces(machine, pod_ip),
        "guestOSInfo": _operating_system(guest),
        **({"memory": {**before.get("memory", {}), "guestCurrent": memory}} if memory else {}),
    }


def _operating_system(guest: Guest) -> Object:
    if not guest.os_name:
        return {}
    return {"name": guest.os_name, "version": guest.os_version}


def _merged(before: list[Object], ours: list[Object]) -> list[Object]:
    kinds = {condition["type"] for condition in ours}
    known = {condition["type"]: condition for condition in before}
    kept = [
        known[condition["type"]] if _same(known.get(condition["type"]), condition) else condition
        for condition in ours
    ]
    return [*(condition for condition in before if condition["type"] not in kinds), *kept]


def _same(known: Object | None, wanted: Object) -> bool:
    return known is not None and all(
        known.get(name) == wanted.get(name) for name in ("status", "reason", "message")
    )


def _interfaces(machine: Object, pod_ip: str) -> list[Object]:
    known = {interface.get("name"): interface for interface in machine["status"].get("interfaces", ())}
    on_pod_network = {network["name"] for network in machine["spec"].get("networks", ()) if "pod" in network}
    result = []
    for interface in machine["spec"]["domain"]["devices"].get("interfaces", ()):
        name = interface["name"]
        found = {
            "name": name,
            "mac": mac(machine, interface),
            "infoSource": "domain",
            "queueCount": 1,
        }
        if name in on_pod_network:
            found |= {"ipAddress": pod_ip, "ipAddresses": [pod_ip]}
        result.append({**known.get(name, {}), **found})
    return result


def _migration(machine: Object) -> tuple[Object, bool]:
    """Return the reason against live migration, empty if none, and whether disks would be copied."""
    volumes = {volume["name"]: volume for volume in machine["status"].get("volumeStatus", ())}
    copied = False
    for volume in machine["spec"].get("volumes", ()):
        claim = volume.get("persistentVolumeClaim", {}).get("claimName") or volume.get("dataVolume", {}).get(
            "name"
        )
        if claim is None:
            copied = True
            continue
        info = volumes.get(volume["name"], {}).get("persistentVolumeClaimInfo", {})
        if "ReadWriteMany" not in info.get("accessModes", ()):
            message = (
                f"cannot migrate VMI: PVC {claim} is not shared, live migration requires that all PVCs "
                "must be shared (using ReadWriteMany access mode)"
            )
            return {"reason": "DisksNotLiveMigratable", "message": message}, True
    return {}, copied
