"""When a new object counts as there: what the official plugin waits for, kind by kind."""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from local.providers.kubernetes.cluster import Cluster, RefusedError, UnreachableError
from local.providers.kubernetes.manifest import Manifest, annotation, name, namespace
from local.providers.provider import Call, ProviderError

SKIP = "pulumi.com/skipAwait"
WAIT_FOR = "pulumi.com/waitFor"
TIMEOUT = "pulumi.com/timeoutSeconds"

_DEFAULT_SECONDS = 600.0
_FIRST_POLL, _LAST_POLL = 0.1, 1.0
"""Seconds between two looks: soon at first, then less often."""


class NotReadyError(Exception):
    """It exists, and was still not ready when the time was up or the user interrupted."""

    def __init__(self, message: str, reasons: list[str], live: Manifest) -> None:
        """`reasons` say what is missing; `live` is how it was last seen."""
        super().__init__(message)
        self.message = message
        self.reasons = reasons
        self.live = live


class FailedError(NotReadyError):
    """It will not become ready any more."""


@dataclass(frozen=True)
class _Look:
    live: Manifest
    cluster: Cluster

    def status(self, *path: str) -> Any:
        return _at(self.live.get("status"), path)

    def spec(self, *path: str) -> Any:
        return _at(self.live.get("spec"), path)

    def condition(self, wanted: str) -> Mapping[str, Any]:
        conditions = self.status("conditions") or []
        return next((each for each in conditions if each.get("type") == wanted), {})

    def observed(self) -> bool:
        generation: int = self.live["metadata"].get("generation", 0)
        return (self.status("observedGeneration") or 0) >= generation


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value


_Check = Callable[[_Look], list[str]]
"""What is still missing; nothing when it is ready."""


def validate(inputs: Manifest) -> None:
    """Raises `ProviderError` for a `pulumi.com/waitFor` that cannot be read, while nothing is made yet."""
    if wanted := annotation(inputs, WAIT_FOR):
        _custom(wanted)


def wait_ready(cluster: Cluster, live: Manifest, inputs: Manifest, call: Call) -> Manifest:
    """The object once it is ready. Raises `NotReadyError`."""
    check = _check_for(inputs, live)
    if check is None:
        return live
    seconds = _seconds(call, inputs)
    deadline = time.monotonic() + (seconds or _OWN_SECONDS.get(_key(live), _DEFAULT_SECONDS))
    pause = _FIRST_POLL
    missing = _missing(check, cluster, live)
    while missing:
        if time.monotonic() > deadline:
            raise NotReadyError(f"'{name(live)}' timed out waiting to be Ready", missing, live)
        if call.cancelled.wait(pause):
            raise NotReadyError(f'Resource operation was cancelled for "{name(live)}"', missing, live)
        pause = min(pause * 1.5, _LAST_POLL)
        try:
            live = cluster.get(live)
        except UnreachableError as error:
            # What was made must not be forgotten because the API is away for a moment.
            missing = [str(error)]
        except RefusedError as error:
            raise FailedError(f"'{name(live)}' can no longer be read", [str(error)], live) from error
        else:
            missing = _missing(check, cluster, live)
    return live


def _missing(check: _Check, cluster: Cluster, live: Manifest) -> list[str]:
    try:
        return check(_Look(live, cluster))
    except UnreachableError as error:
        return [str(error)]


def check_ready(cluster: Cluster, live: Manifest, inputs: Manifest) -> None:
    """Raises `NotReadyError` when it is not ready now, for the kinds that a refresh looks at."""
    if annotation(inputs, SKIP) == "true" or _key(live) not in _CHECKED_IN_REFRESH:
        return
    missing = _CHECKS[_key(live)](_Look(live, cluster))
    if missing:
        raise NotReadyError(f"Resource '{name(live)}' was created but failed to initialize", missing, live)


def wait_gone(cluster: Cluster, live: Manifest, inputs: Manifest, call: Call) -> None:
    """Return once the object is gone (or another is in its place). Raises `NotReadyError`."""
    if annotation(inputs, SKIP) == "true" and _key(live) in _SKIPPABLE_DELETION:
        return
    deadline = time.monotonic() + (_seconds(call, inputs) or _DEFAULT_SECONDS)
    pause = _FIRST_POLL
    uid = live["metadata"].get("uid")
    while (found := cluster.find(live)) is not None and found["metadata"].get("uid") == uid:
        if time.monotonic() > deadline:
            finalizers = ", ".join(found["metadata"].get("finalizers", []))
            raise NotReadyError(
                f"'{name(live)}' timed out waiting to be deleted",
                [f"finalizers might be preventing deletion ({finalizers})"],
                found,
            )
        if call.cancelled.wait(pause):
            raise NotReadyError(f'Resource operation was cancelled for "{name(live)}"', [], found)
        pause = min(pause * 1.5, _LAST_POLL)


def _seconds(call: Call, inputs: Manifest) -> float | None:
    text = annotation(inputs, TIMEOUT)
    return call.timeout or (float(text) if re.fullmatch(r"\d+", text) else None)


def _key(live: Manifest) -> str:
    return f"{live['apiVersion']}/{live['kind']}"


def _check_for(inputs: Manifest, live: Manifest) -> _Check | None:
    if annotation(inputs, SKIP) == "true":
        return None
    if wanted := annotation(inputs, WAIT_FOR):
        return _custom(wanted)
    return _CHECKS.get(_key(live))


def _deployment(look: _Look) -> list[str]:
    if not look.observed():
        return ["The Deployment controller has not seen the change yet"]
    available, progressing = look.condition("Available"), look.condition("Progressing")
    missing = []
    if available.get("status") != "True":
        missing.append(str(available.get("message") or "Minimum number of live Pods was not attained"))
    replaced = progressing.get("status") == "True" and progressing.get("reason") == "NewReplicaSetAvailable"
    if progressing and not replaced:
        missing.append(str(progressing.get("message")))
    if (look.status("updatedReplicas") or 0) < (look.spec("replicas") or 0):
        missing.append("Minimum number of Pods to consider the application live was not attained")
    return missing


def _stateful_set(look: _Look) -> list[str]:
    if not look.observed():
        return ["The StatefulSet controller has not seen the change yet"]
    wanted, ready = look.spec("replicas") or 0, look.status("readyReplicas") or 0
    missing = []
    if ready != wanted:
        missing.append(f"{ready} out of {wanted} replicas succeeded readiness checks")
    if look.status("updateRevision") != look.status("currentRevision"):
        missing.append("StatefulSet controller failed to advance from revision to the updated one")
    return missing


def _daemon_set(look: _Look) -> list[str]:
    if not look.observed():
        return ["The DaemonSet controller has not seen the change yet"]
    wanted = look.status("desiredNumberScheduled") or 0
    ready = min(look.status("numberAvailable") or 0, look.status("updatedNumberScheduled") or 0)
    return [f"{ready} out of {wanted} Pods are available"] if ready < wanted else []


def _job(look: _Look) -> list[str]:
    failed = look.condition("Failed")
    if failed.get("status") == "True":
        raise FailedError(f"Job failed: {failed.get('message', '')}", [], look.live)
    return [] if look.condition("Complete").get("status") == "True" else ["The Job has not completed"]


def _pod(look: _Look) -> list[str]:
    if look.status("phase") == "Succeeded" or look.condition("Ready").get("status") == "True":
        return []
    about = [
        str(each["message"])
        for each in look.status("conditions") or []
        if each.get("status") == "False" and each.get("message")
    ]
    return about or [f"The Pod is {look.status('phase') or 'Pending'}"]


def _service(look: _Look) -> list[str]:
    missing = []
    if look.spec("type") == "LoadBalancer" and not look.status("loadBalancer", "ingress"):
        missing.append("Service was not allocated an IP address; does your cloud provider support this?")
    if look.spec("type") == "ExternalName" or look.spec("clusterIP") == "None" or not look.spec("selector"):
        return missing
    endpoints = look.cluster.find({**look.live, "kind": "Endpoints"})
    pending = endpoints is None or any(
        subset.get("notReadyAddresses") for subset in endpoints.get("subsets", [])
    )
    if pending:
        missing.append(
            "Service does not target any Pods. Selected Pods may not be ready, or field '.spec.selector' "
            "may not match labels on any Pods"
        )
    return missing


def _ingress(look: _Look) -> list[str]:
    if look.status("loadBalancer", "ingress"):
        return []
    return ["Ingress .status.loadBalancer field was not updated with a hostname/IP address"]


def _claim(look: _Look) -> list[str]:
    phase = look.status("phase")
    if phase == "Bound" or (phase == "Pending" and _binds_late(look)):
        return []
    return [f"The claim is {phase or 'not seen yet'}, not Bound"]


def _binds_late(look: _Look) -> bool:
    storage_class = look.cluster.find(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": look.spec("storageClassName") or "-"},
        }
    )
    return storage_class is not None and storage_class.get("volumeBindingMode") == "WaitForFirstConsumer"


def _volume(look: _Look) -> list[str]:
    return [] if look.status("phase") in ("Available", "Bound") else ["The volume is not available"]


def _replication_controller(look: _Look) -> list[str]:
    wanted, ready = look.spec("replicas") or 0, look.status("availableReplicas") or 0
    return [f"{ready} out of {wanted} replicas are available"] if ready != wanted else []


def _quota(look: _Look) -> list[str]:
    return [] if look.spec("hard") == look.status("hard") else ["The quota is not in force yet"]


def _secret(look: _Look) -> list[str]:
    if look.live.get("type") != "kubernetes.io/service-account-token" or look.live.get("data"):
        return []
    return [f"No token was issued; is there a ServiceAccount for it in {namespace(look.live)}?"]


_CHECKS: Mapping[str, _Check] = {
    "apps/v1/Deployment": _deployment,
    "apps/v1/StatefulSet": _stateful_set,
    "apps/v1/DaemonSet": _daemon_set,
    "batch/v1/Job": _job,
    "networking.k8s.io/v1/Ingress": _ingress,
    "v1/PersistentVolume": _volume,
    "v1/PersistentVolumeClaim": _claim,
    "v1/Pod": _pod,
    "v1/ReplicationController": _replication_controller,
    "v1/ResourceQuota": _quota,
    "v1/Secret": _secret,
    "v1/Service": _service,
}
_CHECKED_IN_REFRESH = frozenset(
    {
        "apps/v1/Deployment",
        "apps/v1/StatefulSet",
        "apps/v1/DaemonSet",
        "batch/v1/Job",
        "networking.k8s.io/v1/Ingress",
        "v1/Pod",
        "v1/Service",
    }
)
_SKIPPABLE_DELETION = frozenset(
    {
        "v1/Namespace",
        "v1/Pod",
        "v1/ReplicationController",
        "apps/v1/DaemonSet",
        "apps/v1/Deployment",
        "apps/v1/StatefulSet",
        "batch/v1/Job",
    }
)
_OWN_SECONDS: Mapping[str, float] = {
    "v1/PersistentVolume": 300,
    "v1/PersistentVolumeClaim": 300,
    "v1/ResourceQuota": 60,
    "v1/Secret": 5,
}


def _custom(text: str) -> _Check:
    """The conditions of a `pulumi.com/waitFor` annotation: one, or a JSON list of them; all must hold."""
    try:
        parsed = json.loads(text)
    except ValueError:
        parsed = text
    expressions = parsed if isinstance(parsed, list) else [text]
    if not expressions:
        raise ProviderError("at least one condition must be specified")
    checks = [_expression(str(expression)) for expression in expressions]

    def check(look: _Look) -> list[str]:
        return [reason for each in checks for reason in each(look)]

    return check


def _expression(text: str) -> _Check:
    kind, separator, rest = text.partition("=")
    if separator and kind == "condition":
        wanted, _, value = rest.partition("=")
        return _condition(wanted, value or "True")
    if separator and kind == "jsonpath":
        return _json_path(rest)
    raise ProviderError(f'expected a "jsonpath=" or "condition=" prefix, got {json.dumps(text)}')


def _condition(wanted: str, value: str) -> _Check:
    def check(look: _Look) -> list[str]:
        found = look.condition(wanted)
        if str(found.get("status", "")).lower() == value.lower():
            return []
        about = f": {found['message']}" if found.get("message") else ""
        return [f"condition {wanted} is {found.get('status', 'not set')}, not {value}{about}"]

    return check


_NAME = r"(?:[^\s.,\[\]{}$@'\"\\]|\\.)+"
_STEP = rf"\.({_NAME})|\[(\d+)\]|\[['\"]({_NAME})['\"]\]"
_PLAIN_PATH = re.compile(rf"\{{(?P<path>(?:{_STEP})+)\}}(?:==?(?P<value>.+))?")


def _json_path(text: str) -> _Check:
    r"""`{.status.phase}=Running`, or `{.status.phase}` for any value; a dot in a name is written `\.`."""
    match = _PLAIN_PATH.fullmatch(text)
    if match is None:
        raise ProviderError(
            f"The {WAIT_FOR} path {text!r} cannot be read by this stand-in, which takes plain paths "
            "such as {.status.phase}=Running or {.status.conditions[0].status}=True."
        )
    steps = [
        int(index) if index else (key or quoted).replace("\\", "")
        for key, index, quoted in re.findall(_STEP, match["path"])
    ]
    path, wanted = match["path"], match["value"]

    def check(look: _Look) -> list[str]:
        value: Any = look.live
        for step in steps:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                return [f"{path} is not set"]
        shown = value if isinstance(value, str) else json.dumps(value)
        return [] if wanted is None or shown == wanted else [f"{path} is {shown}, not {wanted}"]

    return check
