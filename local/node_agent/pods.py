"""The status of a Pod, as the kubelet derives it from its containers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from local.node_agent.kube import Object

OWN_IMAGE = "/agent-platform/"
"""Part of the path of the images we build: their containers really run, as processes of this machine.

All other Pods are reported as running.
"""


@dataclass(frozen=True, kw_only=True)
class Container:
    """What is known of a container: `state` and `last` as in the API (`{"running": {...}}`)."""

    state: Object
    last: Object = field(default_factory=dict)
    restarts: int = 0
    ready: bool = True


def is_own(pod: Object) -> bool:
    """Return whether every container of `pod` has an image of ours."""
    return all(OWN_IMAGE in container["image"] for container in pod["spec"]["containers"])


def sidecars(pod: Object) -> list[Object]:
    """Return the init containers of `pod` that run beside its other containers."""
    return [each for each in pod["spec"].get("initContainers") or () if each.get("restartPolicy") == "Always"]


def containers(pod: Object) -> list[Object]:
    """Return all containers of `pod` that run side by side, in the order in which they are started."""
    return [*sidecars(pod), *pod["spec"]["containers"]]


def is_launcher(pod: Object) -> bool:
    """Return whether `pod` holds a KubeVirt guest."""
    return (pod["metadata"].get("labels") or {}).get("kubevirt.io") == "virt-launcher"


def is_finished(pod: Object) -> bool:
    """Return whether every container has ended for good."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def reported(pod: Object, now: str) -> dict[str, Container]:
    """Return the containers of a Pod that is only reported: running, or ended once the Pod is deleted."""
    known = {status["name"]: status for status in pod.get("status", {}).get("containerStatuses") or ()}
    containers = {}
    for container in pod["spec"]["containers"]:
        name = container["name"]
        started = known.get(name, {}).get("state", {}).get("running", {}).get("startedAt", now)
        if pod["metadata"].get("deletionTimestamp"):
            state = {"terminated": ended(0, started, now)}
        else:
            state = {"running": {"startedAt": started}}
        containers[name] = Container(state=state)
    return containers


def ended(exit_code: int, started: str, finished: str) -> Object:
    """Return the state of a container that ended."""
    return {
        "exitCode": exit_code,
        "reason": "Completed" if exit_code == 0 else "Error",
        "startedAt": started,
        "finishedAt": finished,
    }


def status(
    pod: Object, containers: Mapping[str, Container], addresses: Mapping[str, str], *, now: str
) -> Object:
    """Return the status of a Pod on a node; the times of what did not change stay.

    `containers` has the sidecars of a Pod of ours, too.
    """
    before = pod.get("status", {})
    phase = _phase(pod, [containers[container["name"]] for container in pod["spec"]["containers"]])
    ready = phase == "Running" and all(
        "running" in container.state and container.ready for container in containers.values()
    )
    gates = [gate["conditionType"] for gate in pod["spec"].get("readinessGates") or ()]
    met = {condition["type"]: condition["status"] for condition in before.get("conditions") or ()}
    unmet = [gate for gate in gates if met.get(gate) != "True"]
    done = phase in ("Succeeded", "Failed")
    unready = "PodCompleted" if phase == "Succeeded" else "PodFailed" if done else "ContainersNotReady"
    conditions = [
        _condition(before, "PodReadyToStartContainers", not done, "", now),
        _condition(before, "Initialized", True, "PodCompleted" if phase == "Succeeded" else "", now),
        _condition(before, "ContainersReady", ready, "" if ready else unready, now),
        _condition(
            before,
            "Ready",
            ready and not unmet,
            "ReadinessGatesNotReady" if ready and unmet else "" if ready else unready,
            now,
        ),
        _condition(before, "PodScheduled", True, "", now),
    ]
    return {
        "phase": phase,
        "conditions": conditions,
        "hostIP": addresses["hostIP"],
        "hostIPs": [{"ip": addresses["hostIP"]}],
        "podIP": addresses["podIP"],
        "podIPs": [{"ip": addresses["podIP"]}],
        "startTime": before.get("startTime", now),
        "initContainerStatuses": [
            _container(container, containers[container["name"]])
            if container["name"] in containers
            else _init(pod, container, now)
            for container in pod["spec"].get("initContainers") or ()
        ],
        "containerStatuses": [
            _container(container, containers[container["name"]]) for container in pod["spec"]["containers"]
        ],
    }


def unschedulable(pod: Object, message: str, now: str) -> Object:
    """Return the status of a Pod that no node can take now."""
    condition = _condition(pod.get("status", {}), "PodScheduled", False, "Unschedulable", now)
    return {"conditions": [{**condition, "message": message}]}


def differs(before: Object, after: Object) -> bool:
    """Return whether a status patch of `after` would change `before`; conditions are compared by type."""
    known = {condition["type"]: condition for condition in before.get("conditions") or ()}
    if any(known.get(condition["type"]) != condition for condition in after["conditions"]):
        return True
    return any(
        (before.get(name) or None) != (value or None) for name, value in after.items() if name != "conditions"
    )


def _phase(pod: Object, containers: Sequence[Container]) -> str:
    policy = pod["spec"].get("restartPolicy", "Always")
    if all("terminated" in container.state for container in containers):
        codes = [container.state["terminated"]["exitCode"] for container in containers]
        stays = pod["metadata"].get("deletionTimestamp") or policy == "Never"
        if stays or (policy == "OnFailure" and not any(codes)):
            return "Failed" if any(codes) else "Succeeded"
        return "Running"
    if any("waiting" in container.state and not container.restarts for container in containers):
        return "Pending"
    return "Running"


def _condition(before: Object, kind: str, value: bool, reason: str, now: str) -> Object:
    wanted = "True" if value else "False"
    known: Object = next((c for c in before.get("conditions") or () if c["type"] == kind), {})
    since = known.get("lastTransitionTime", now) if known.get("status") == wanted else now
    condition = {"type": kind, "status": wanted, "lastProbeTime": None, "lastTransitionTime": since}
    return {**condition, "reason": reason} if reason else condition


def _container(container: Object, known: Container) -> Object:
    running = "running" in known.state
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": container["image"],
        "ready": running and known.ready,
        "started": running,
        "restartCount": known.restarts,
        "state": known.state,
        "lastState": known.last,
    }


def _init(pod: Object, container: Object, now: str) -> Object:
    statuses: list[Object] = pod.get("status", {}).get("initContainerStatuses") or []
    for known in statuses:
        if known["name"] == container["name"]:
            return known
    sidecar = container.get("restartPolicy") == "Always"
    state = {"running": {"startedAt": now}} if sidecar else {"terminated": ended(0, now, now)}
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": container["image"],
        "ready": True,
        "started": sidecar,
        "restartCount": 0,
        "state": state,
        "lastState": {},
    }
