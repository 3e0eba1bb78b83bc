"""The cluster as the gateway sees it: machines, addresses to send requests to, and who a token belongs to."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Literal

from services.gateway.routes import Route
from services.kube import UNREACHABLE, Api, ApiError, Key, Object, Watched
from services.parts import together

log = logging.getLogger(__name__)

AGENT_PORT = 8080

TroubleKind = Literal["no-capacity", "image", "crash-loop", "volume", "unknown"]

_TENANT = "tenant-id"
_AGENTS = "app.kubernetes.io/part-of=agent-platform,kubevirt.io!=virt-launcher"
"""The platform's pods, in which agents run or the platform itself, and none that holds a machine."""
_SHARED_NAMESPACE = "runtime"
_KUBEVIRT = "/apis/kubevirt.io/v1"
_SUBRESOURCES = "/apis/subresources.kubevirt.io/v1"
_MACHINE_USER = "system:serviceaccount:tenant-"

# KubeVirt's words for a machine that is not to come soon (VirtualMachinePrintableStatus, KubeVirt 1.8), and
# for how many seconds it may mend: a scheduler, a registry or a storage driver may come to it a moment later.
_TROUBLE: dict[str, tuple[TroubleKind, float]] = {
    "ErrorUnschedulable": ("no-capacity", 10),
    "ErrImagePull": ("image", 5),
    "ImagePullBackOff": ("image", 5),
    "CrashLoopBackOff": ("crash-loop", 0),
    "ErrorPvcNotFound": ("volume", 5),
    "DataVolumeError": ("volume", 5),
    "WaitingForVolumeBinding": ("volume", 60),
}
_UNNAMED_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What keeps a machine from running, in the cluster's words."""

    kind: TroubleKind
    detail: str
    patience: float
    """Seconds after which it is not worth waiting for it to mend."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A tenant's machine as last seen."""

    status: Literal["missing", "halted", "off", "stopping", "starting", "running"]
    instance: str = ""
    """The uid of what runs; another one after each start or crash."""
    address: str = ""
    """Where its agents listen once it runs, `http://ip:port`."""
    trouble: Trouble | None = None
    since: float | None = None
    """When it became ready or ceased to be, in seconds since the epoch."""


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What counts of a VirtualMachine: there may be ten thousand, so no more is kept."""

    going: bool
    halted: bool
    """It is declared not to run: to start it, KubeVirt would rewrite what the program declared."""
    status: str
    requests: tuple[str, ...]
    messages: Mapping[str, str]
    since: float | None


@dataclass(frozen=True, kw_only=True)
class Instance:
    """What counts of a VirtualMachineInstance."""

    uid: str
    phase: str
    going: bool
    ip: str
    messages: Mapping[str, str]


class Cluster:
    """Machines and agents' pods, followed by watches. Requests raise `ApiError` or one of `UNREACHABLE`."""

    def __init__(self, api: Api) -> None:
        """Follow what belongs to tenants."""
        self._api = api
        self._changes: dict[str, asyncio.Event] = {}
        self._machines = Watched(
            api, f"{_KUBEVIRT}/virtualmachines", read_declared, self._changed, selector=_TENANT
        )
        self._instances = Watched(
            api, f"{_KUBEVIRT}/virtualmachineinstances", read_instance, self._changed, selector=_TENANT
        )
        self._pods = Watched(api, "/api/v1/pods", read_pod, self._changed, selector=_AGENTS)
        self._watched = (self._machines, self._instances, self._pods)

    @property
    def synced(self) -> bool:
        """Return whether everything has been seen once."""
        return all(watched.synced.is_set() for watched in self._watched)

    @property
    def silence(self) -> float:
        """Return for how many seconds nothing has been heard of machines, of instances or of pods."""
        return max(watched.silence for watched in self._watched)

    async def follow(self) -> None:
        """Stay in step until cancelled."""
        names = ("machines", "instances", "pods")
        followers = (watched.follow() for watched in self._watched)
        await together(dict(zip(names, followers, strict=True)))

    def machine(self, route: Route) -> Machine:
        """Return the tenant's machine as last seen."""
        key = (route.namespace, route.namespace)
        if odd := self._machines.unreadable(key) or self._instances.unreadable(key):
            detail = f"what KubeVirt says of the machine cannot be read: {odd}"
            trouble = Trouble(kind="unknown", detail=detail, patience=0)
            return Machine(status="missing", trouble=trouble)
        return seen(self._machines.get(key), self._instances.get(key))

    def endpoints(self, route: Route) -> list[str]:
        """Return where the agents of a tenant without a machine listen, those that are ready."""
        namespace = _namespace(route)
        return sorted(address for key, address in self._pods.items() if key[0] == namespace and address)

    async def change(self, route: Route, seconds: float) -> None:
        """Return when something of the tenant's has changed, after `seconds` at the latest."""
        event = self._changes.setdefault(_namespace(route), asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()

    async def latest(self, route: Route) -> Machine:
        """Return how the tenant's machine is declared and stands, by the API server's word, not a watch's."""
        query = {"fieldSelector": f"metadata.name={route.namespace}"}
        answer = await self._api.request(
            "GET", f"{_KUBEVIRT}/namespaces/{route.namespace}/virtualmachines", query=query
        )
        try:
            return seen(next((read_declared(item) for item in answer["items"]), None), None)
        except (AttributeError, LookupError, TypeError) as error:
            raise ValueError(f"the machine {route.namespace} cannot be read ({error!r})") from None

    async def start(self, route: Route) -> bool:
        """Ask for the tenant's machine; returns False if it is asked for already or still stopping."""
        name = route.namespace
        try:
            await self._api.request(
                "PUT", f"{_SUBRESOURCES}/namespaces/{name}/virtualmachines/{name}/start", body={}
            )
        except ApiError as error:
            if error.status == HTTPStatus.CONFLICT:
                return False
            raise
        return True

    async def record(self, route: Route, reason: str, message: str, *, warning: bool = False) -> None:
        """Leave an Event with the tenant's machine, if that can be done."""
        name, now = route.namespace, datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        event: Object = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{name}-", "namespace": name},
            "involvedObject": {
                "apiVersion": "kubevirt.io/v1",
                "kind": "VirtualMachine",
                "namespace": name,
                "name": name,
            },
            "reason": reason,
            "message": message[:1000],
            "type": "Warning" if warning else "Normal",
            "source": {"component": "gateway"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await self._api.request("POST", f"/api/v1/namespaces/{name}/events", body=event)
        except (ApiError, *UNREACHABLE) as error:
            log.warning("no event %s for %s: %s", reason, name, error)

    async def tenant_of(self, token: str) -> str | None:
        """Return the tenant whose service account `token` is of, None if it is of none or no longer valid."""
        review = await self._api.request(
            "POST",
            "/apis/authentication.k8s.io/v1/tokenreviews",
            body={
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenReview",
                "spec": {"token": token},
            },
        )
        status = review.get("status") or {}
        user = (status.get("user") or {}).get("username") or ""
        if not status.get("authenticated") or not user.startswith(_MACHINE_USER):
            return None
        return str(user.removeprefix(_MACHINE_USER).partition(":")[0])

    def _changed(self, key: Key) -> None:
        if event := self._changes.pop(key[0], None):
            event.set()


def seen(declared: Declared | None, instance: Instance | None) -> Machine:
    """Return what the two objects of a machine say together; either may be behind the other."""
    if declared is None or declared.going:
        return Machine(status="missing")
    running = instance is not None and instance.phase not in ("Succeeded", "Failed")
    if instance is None or not running:
        if declared.halted:
            return Machine(status="halted", since=declared.since)
        if _is_off(declared):
            return Machine(status="off", since=declared.since)
        return Machine(status="starting", trouble=_trouble(declared, None), since=declared.since)
    if instance.going or "Stop" in declared.requests or declared.status in ("Stopping", "Stopped"):
        return Machine(status="stopping", instance=instance.uid, since=declared.since)
    if instance.phase == "Running" and instance.ip:
        address = f"http://{_host(instance.ip)}:{AGENT_PORT}"
        return Machine(status="running", instance=instance.uid, address=address, since=declared.since)
    trouble = _trouble(declared, instance)
    return Machine(status="starting", instance=instance.uid, trouble=trouble, since=declared.since)


def _namespace(route: Route) -> str:
    return _SHARED_NAMESPACE if route.served_by == "shared runtime" else route.namespace


def _is_off(declared: Declared) -> bool:
    return declared.status == "Stopped" and "Start" not in declared.requests


def read_declared(item: Object) -> Declared:
    """Return what counts of a VirtualMachine."""
    status, spec = item.get("status") or {}, item.get("spec") or {}
    conditions = status.get("conditions") or []
    ready: Object = next((condition for condition in conditions if condition["type"] == "Ready"), {})
    return Declared(
        going=_is_going(item),
        halted=spec.get("runStrategy") == "Halted" or spec.get("running") is False,
        status=status.get("printableStatus") or "Unknown",
        requests=tuple(request["action"] for request in status.get("stateChangeRequests") or ()),
        messages=_messages(conditions),
        since=_seconds(ready.get("lastTransitionTime")),
    )


def read_instance(item: Object) -> Instance:
    """Return what counts of a VirtualMachineInstance."""
    status = item.get("status") or {}
    interfaces = status.get("interfaces") or [{}]
    return Instance(
        uid=item["metadata"]["uid"],
        phase=status.get("phase") or "",
        going=_is_going(item),
        ip=interfaces[0].get("ipAddress") or "",
        messages=_messages(status.get("conditions") or []),
    )


def read_pod(item: Object) -> str:
    """Return where the agents in a Pod listen, nothing while it takes no requests."""
    status = item.get("status") or {}
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions") or ()}
    ready = conditions.get("Ready") == "True" and not _is_going(item)
    ip = status.get("podIP")
    return f"http://{_host(ip)}:{AGENT_PORT}" if ready and ip else ""


def _is_going(item: Object) -> bool:
    return item["metadata"].get("deletionTimestamp") is not None


def _messages(conditions: Sequence[Object]) -> dict[str, str]:
    """Return what the failed conditions say, by type; `Failure` is the one that is bad when true."""
    return {
        condition["type"]: condition.get("message", "")
        for condition in conditions
        if (condition["status"] == "True") == (condition["type"] == "Failure") and condition.get("message")
    }


def _trouble(declared: Declared, instance: Instance | None) -> Trouble | None:
    # A VirtualMachine keeps what was said of its last instance, until there is another.
    of_instance = instance.messages if instance else {}
    said = (
        of_instance.get("PodScheduled")
        or of_instance.get("Synchronized")
        or declared.messages.get("Failure", "")
    )
    if declared.status in _TROUBLE:
        kind, patience = _TROUBLE[declared.status]
        detail = f"{declared.status}: {said}" if said else declared.status
        return Trouble(kind=kind, detail=detail, patience=patience)
    if not said:
        return None
    # What the namespace's quota or a node's limits refuse never gets as far as the scheduler.
    quota: TroubleKind = "no-capacity" if "exceeded quota" in said else "unknown"
    return Trouble(kind=quota, detail=said, patience=_UNNAMED_SECONDS)


def _host(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip


def _seconds(text: str | None) -> float | None:
    return datetime.fromisoformat(text).timestamp() if text else None
