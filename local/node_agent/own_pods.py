"""Pods of our own images: their containers started, restarted and ended as their spec says."""

import signal
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from local.node_agent import pods
from local.node_agent.containers import Attempt, Containers
from local.node_agent.kube import Api, Object
from local.node_agent.pods import Container, ended
from local.node_agent.sandbox import ConfigurationError, Sandbox

_RETRY_SECONDS = 10.0
_LONGEST_BACKOFF = 300.0
_WELL_AFTER = 600.0
"""Seconds after which a container that ends is started anew at once."""


class OwnPods:
    """Runs the containers of Pods in `containers`, against the API server at `server`."""

    def __init__(self, api: Api, server: str, containers: Containers) -> None:
        """Start nothing yet; what an earlier agent started is found as it is asked for."""
        self._api = api
        self._server = server
        self._containers = containers
        self._renewals: dict[str, float] = {}
        self._terminating: set[tuple[str, str]] = set()

    def run(self, pod: Object, addresses: Mapping[str, str]) -> tuple[dict[str, Container], float | None]:
        """Start what is to run; return all containers, and in how many seconds to look again."""
        uid = pod["metadata"]["uid"]
        now = time.time()
        sandbox = Sandbox(self._api, pod, self._containers.folder(uid), self._server, addresses)
        looks = []
        try:
            sidecars = pods.sidecars(pod)
            if len(sidecars) != len(pod["spec"].get("initContainers") or ()):
                raise ConfigurationError(
                    "an init container of our own images has to be a sidecar here (restartPolicy: Always)"
                )
            if now >= self._renewals.get(uid, 0):
                self._renewals[uid] = sandbox.write_volumes() or float("inf")
            if self._renewals[uid] != float("inf"):
                looks.append(self._renewals[uid] - now)
        except ConfigurationError as error:
            return {c["name"]: _misconfigured(error) for c in pods.containers(pod)}, _RETRY_SECONDS
        known = {}
        for container in pods.containers(pod):
            known[container["name"]], look = self._container(pod, container, sandbox, now)
            looks += [look] if look is not None else []
        return known, min(looks, default=None)

    def end(self, pod: Object) -> tuple[dict[str, Container], float | None]:
        """Let the containers end in the Pod's grace period; return them, and when to look if some run.

        Sidecars are told to end once all others have.
        """
        uid = pod["metadata"]["uid"]
        left = datetime.fromisoformat(pod["metadata"]["deletionTimestamp"]).timestamp() - time.time()
        known: dict[str, Container] = {}
        for group in (pod["spec"]["containers"], pods.sidecars(pod)):
            served = any("running" in container.state for container in known.values())
            for container in group:
                known[container["name"]] = self._end(uid, container["name"], left, told=not served)
        running = any("running" in container.state for container in known.values())
        return known, (max(left, 0.1) if running else None)

    def _end(self, uid: str, name: str, left: float, *, told: bool) -> Container:
        """Let a container end, if it is `told` to; kill it once nothing of the grace period is left."""
        attempt = self._containers.last(uid, name)
        if attempt is None:
            return Container(state={"terminated": ended(0, *[_time(time.time())] * 2)})
        if attempt.exit_code is None and left <= 0:
            self._containers.signal(uid, name, signal.SIGKILL)
        elif attempt.exit_code is None and told and (uid, name) not in self._terminating:
            self._containers.signal(uid, name, signal.SIGTERM)
            self._terminating.add((uid, name))
        return _reported(attempt)

    def sweep(self, uids: set[str]) -> None:
        """Kill and remove what is left of all Pods but those with `uids`."""
        for uid in self._containers.known() - uids:
            self._containers.remove(uid)
            self._renewals.pop(uid, None)
            self._terminating = {told for told in self._terminating if told[0] != uid}

    def _container(
        self, pod: Object, container: Object, sandbox: Sandbox, now: float
    ) -> tuple[Container, float | None]:
        uid, name = pod["metadata"]["uid"], container["name"]
        attempt = self._containers.last(uid, name)
        if attempt is not None:
            if attempt.exit_code is None or not _restarts(pod, container, attempt):
                return _reported(attempt), None
            wait = attempt.finished + _backoff(attempt) - now
            if wait > 0:
                return _backing_off(attempt), wait
        number = attempt.number + 1 if attempt else 0
        label = f"{pod['metadata']['namespace']}_{pod['metadata']['name']}"
        try:
            self._containers.start(uid, name, number, sandbox.command(container), label=label)
        except ConfigurationError as error:
            return _misconfigured(error), _RETRY_SECONDS
        except OSError as error:
            waiting = {"reason": "CreateContainerError", "message": str(error)}
            return Container(state={"waiting": waiting}, restarts=number), _RETRY_SECONDS
        started = self._containers.last(uid, name)
        return (_reported(started) if started else Container(state={"waiting": {}})), None


def _restarts(pod: Object, container: Object, attempt: Attempt) -> bool:
    policy = container.get("restartPolicy") or pod["spec"].get("restartPolicy", "Always")
    return bool(policy == "Always" or (policy == "OnFailure" and attempt.exit_code != 0))


def _backoff(attempt: Attempt) -> float:
    if attempt.number == 0 or attempt.finished - attempt.started > _WELL_AFTER:
        return 0
    return min(10 * 2.0 ** (attempt.number - 1), _LONGEST_BACKOFF)


def _reported(attempt: Attempt) -> Container:
    if attempt.exit_code is None:
        return Container(state={"running": {"startedAt": _time(attempt.started)}}, restarts=attempt.number)
    return Container(state=_terminated(attempt), restarts=attempt.number)


def _backing_off(attempt: Attempt) -> Container:
    message = f"back-off {_backoff(attempt):.0f}s restarting failed container"
    waiting = {"reason": "CrashLoopBackOff", "message": message}
    return Container(state={"waiting": waiting}, last=_terminated(attempt), restarts=attempt.number)


def _terminated(attempt: Attempt) -> Object:
    code = attempt.exit_code or 0
    return {"terminated": ended(code, _time(attempt.started), _time(attempt.finished))}


def _misconfigured(error: ConfigurationError) -> Container:
    return Container(state={"waiting": {"reason": "CreateContainerConfigError", "message": str(error)}})


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
