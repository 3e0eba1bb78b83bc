"""Looks at what changed and does what the node, its scheduler or its drivers would do about it."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

import urllib3
from kubernetes.client.exceptions import ApiException

from local.node_agent import load_balancers, machines, nodes, pods, storage
from local.node_agent.addresses import PODS, loopback
from local.node_agent.disks import Volumes
from local.node_agent.guests import Hypervisor
from local.node_agent.kube import CONFLICT, MERGE, NOT_FOUND, Api, Key, Object, Watched, key_of
from local.node_agent.own_pods import OwnPods
from local.node_agent.quantities import amount
from local.node_agent.sandbox import ConfigurationError
from local.node_agent.scheduling import place
from local.node_agent.workqueue import Work, WorkQueue

log = logging.getLogger(__name__)

_POOLS_SECONDS = 5.0
_LEASE_SECONDS = 10.0
_HEARTBEAT_SECONDS = 60.0
_RETRY_SECONDS = 2.0
_START_SECONDS = 0.05

_CORE = "/api/v1"
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
_KUBEVIRT = "/apis/kubevirt.io/v1"
_STORAGE = "/apis/storage.k8s.io/v1"
_LONGHORN = "/apis/longhorn.io/v1beta2"


class Agent:
    """All nodes in one process: watches fill a queue of what to look at, and one thread works it off."""

    def __init__(
        self,
        api: Api,
        queue: WorkQueue,
        pools: nodes.Pools,
        hypervisor: Hypervisor,
        own_pods: OwnPods,
        disks: Volumes,
    ) -> None:
        """Watch nothing yet."""
        self._api = api
        self._queue = queue
        self._pools = pools
        self._hypervisor = hypervisor
        self._own_pods = own_pods
        self._disks = disks
        self._instance_pools: frozenset[str] = frozenset()
        self._nodes = Watched(api, f"{_CORE}/nodes", lambda _: self._queue.add(("unscheduled", "", "")))
        self._pods = Watched(api, f"{_CORE}/pods", self._pod_changed)
        self._machines = Watched(api, f"{_KUBEVIRT}/virtualmachineinstances", self._look_at("machine"))
        self._claims = Watched(api, f"{_CORE}/persistentvolumeclaims", self._claim_changed)
        self._volumes = Watched(api, f"{_CORE}/persistentvolumes", self._look_at("volume"))
        self._classes = Watched(api, f"{_STORAGE}/storageclasses", lambda _: None)
        self._services = Watched(api, f"{_CORE}/services", self._look_at("service"))
        self._snapshots = Watched(api, f"{_LONGHORN}/snapshots", self._look_at("snapshot"))
        self._backups = Watched(api, f"{_LONGHORN}/backups", self._look_at("backup"))
        self._handlers: dict[str, Callable[[Key], None]] = {
            "pools": self._follow_pools,
            "leases": self._renew_leases,
            "heartbeats": self._send_heartbeats,
            "unscheduled": self._retry_unscheduled,
            "sweep": self._sweep,
            "ended": self._look_at_ended,
            "guests": self._forget_guests,
            "guest-ended": self._look_at_ended_guest,
            "pod": self._look_at_pod,
            "machine": self._look_at_machine,
            "claim": self._look_at_claim,
            "volume": self._look_at_volume,
            "service": self._look_at_service,
            "snapshot": self._look_at_snapshot,
            "backup": self._look_at_backup,
        }

    def read(self) -> bool:
        """Start all watches and wait for their first lists; False if the queue is closed before."""
        watches = (
            self._nodes,
            self._pods,
            self._classes,
            self._claims,
            self._volumes,
            self._services,
        )
        for installed_later in (self._machines, self._snapshots, self._backups):
            installed_later.start()  # is not waited for
        for watch in watches:
            watch.start()
            while not watch.synced.wait(1):
                if self._queue.closed:
                    return False
        return True

    def machines(self) -> list[Object]:
        """Return the VirtualMachineInstances as last seen."""
        return self._machines.all()

    def run(self) -> None:
        """Work until the queue is closed."""
        for kind in ("pools", "leases", "heartbeats", "sweep", "guests"):
            self._queue.add((kind, "", ""))
        while (work := self._queue.take()) is not None:
            self._do(work)

    def _do(self, work: Work) -> None:
        kind, *key = work
        about = "/".join(part for part in work if part)
        try:
            self._handlers[kind]((key[0], key[1]))
        except ApiException as error:
            if error.status not in (CONFLICT, NOT_FOUND):  # those only say that our copy is behind
                self._api.trouble(about, error)
            self._queue.add(work, _RETRY_SECONDS)
        except ConfigurationError as error:
            self._api.trouble(about, error)
            self._queue.add(work, _RETRY_SECONDS)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            self._api.trouble("Kubernetes API", error)
            self._queue.add(work, _RETRY_SECONDS)
        except Exception:  # one odd object must not stop all nodes
            log.exception("%s: left alone until it changes", about)
        else:
            self._api.well(about)

    def _look_at(self, kind: str) -> Callable[[Object], None]:
        return lambda obj: self._queue.add((kind, *key_of(obj)))

    def _pod_changed(self, pod: Object) -> None:
        gone = self._pods.get(key_of(pod)) is None
        if gone or pods.is_finished(pod):
            self._queue.add(("unscheduled", "", ""))
        if gone and pods.is_own(pod):
            self._queue.add(("sweep", "", ""))
        owner = _owner(pod)
        if pods.is_launcher(pod) and owner is not None:
            self._queue.add(("machine", pod["metadata"]["namespace"], owner["name"]))
        self._queue.add(("pod", *key_of(pod)))

    def _claim_changed(self, claim: Object) -> None:
        self._queue.add(("claim", *key_of(claim)))
        self._queue.add(("unscheduled", "", ""))

    # Nodes

    def _follow_pools(self, _: Key) -> None:
        self._queue.add(("pools", "", ""), _POOLS_SECONDS)
        try:
            wanted = self._pools.nodes()
        except nodes.PoolsUnknownError as error:
            self._api.trouble("Exoscale API", error)
            return
        self._api.well("Exoscale API")
        instance_pools = frozenset(pool.instance_pool for pool in wanted.values())
        if instance_pools != self._instance_pools:
            self._instance_pools = instance_pools
            for service in self._services.all():
                self._queue.add(("service", *key_of(service)))
        known = {node["metadata"]["name"]: node for node in self._our_nodes()}
        for name in known.keys() - wanted.keys():
            self._api.delete(f"{_CORE}/nodes/{name}")
            log.info("node %s: gone with its pool", name)
        for name, pool in wanted.items():
            if name not in known:
                self._api.create(f"{_CORE}/nodes", nodes.node(name, pool))
                log.info("node %s: new", name)
                self._renew_lease(name)
            elif nodes.is_current(known[name], name, pool):
                continue
            else:
                self._api.patch(f"{_CORE}/nodes/{name}", nodes.update(known[name], name, pool), MERGE)
            status = {"status": nodes.status(name, pool, now=_now())}
            self._nodes.put(self._api.patch(f"{_CORE}/nodes/{name}/status", status))

    def _our_nodes(self) -> list[Object]:
        return [node for node in self._nodes.all() if nodes.POOL_LABEL in node["metadata"].get("labels", {})]

    def _renew_leases(self, _: Key) -> None:
        self._queue.add(("leases", "", ""), _LEASE_SECONDS)
        for node in self._our_nodes():
            self._renew_lease(node["metadata"]["name"])

    def _renew_lease(self, name: str) -> None:
        lease = nodes.lease(name, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
        try:
            self._api.patch(f"{_LEASES}/{name}", lease, MERGE)
        except ApiException as error:
            if error.status != NOT_FOUND:
                raise
            self._api.create(_LEASES, lease)

    def _send_heartbeats(self, _: Key) -> None:
        self._queue.add(("heartbeats", "", ""), _HEARTBEAT_SECONDS)
        for node in self._our_nodes():
            self._api.patch(f"{_CORE}/nodes/{node['metadata']['name']}", nodes.heartbeat(_now()), MERGE)

    # Scheduling

    def _retry_unscheduled(self, _: Key) -> None:
        for pod in self._pods.all():
            if not pod["spec"].get("nodeName"):
                self._queue.add(("pod", *key_of(pod)))

    def _schedule(self, pod: Object) -> None:
        if pod["metadata"].get("deletionTimestamp") or pod["spec"].get("schedulingGates"):
            return
        claims = self._claims_of(pod)
        message = self._claims_missing(claims)
        node = None
        if not message:
            placement = place(pod, self._our_nodes(), self._pods.all())
            node, message = placement.node, placement.message
        path = _path(pod, "pods")
        if node is None:
            self._patch_pod_status(pod, pods.unschedulable(pod, message, _now()))
            return
        waiting = [claim for claim in claims.values() if claim and not storage.is_bound(claim)]
        for claim in waiting:
            selected = {"metadata": {"annotations": {storage.SELECTED_NODE: node}}}
            if storage.SELECTED_NODE not in (claim["metadata"].get("annotations") or {}):
                self._claims.put(self._api.patch(_path(claim, "persistentvolumeclaims"), selected, MERGE))
        if waiting:
            return  # looked at again when they are bound
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        self._api.create(f"{path}/binding", binding)
        self._pods.put(self._api.get(path))
        self._queue.add(("pod", *key_of(pod)))

    def _claims_of(self, pod: Object) -> dict[str, Object | None]:
        names = [
            volume["persistentVolumeClaim"]["claimName"]
            for volume in pod["spec"].get("volumes") or ()
            if "persistentVolumeClaim" in volume
        ]
        return {name: self._claims.get((pod["metadata"]["namespace"], name)) for name in names}

    def _claims_missing(self, claims: dict[str, Object | None]) -> str:
        for name, claim in claims.items():
            if claim is None:
                return f'persistentvolumeclaim "{name}" not found'
            if claim["metadata"].get("deletionTimestamp"):
                return f'persistentvolumeclaim "{name}" is being deleted'
            if not storage.is_bound(claim):
                storage_class = self._class_of(claim)
                if storage_class is None or not storage.waits_for_consumer(storage_class):
                    return "pod has unbound immediate PersistentVolumeClaims"
        return ""

    # Pods

    def _look_at_pod(self, key: Key) -> None:
        pod = self._pods.get(key)
        if pod is None:
            return
        if not pod["spec"].get("nodeName"):
            self._schedule(pod)
            return
        node = self._nodes.get(("", pod["spec"]["nodeName"]))
        if node is None:
            return  # the Pod goes with its node, which is kube-controller-manager's to see to
        if pod["metadata"].get("deletionTimestamp"):
            self._end_pod(pod, node)
        elif not pods.is_finished(pod):
            self._run_pod(pod, node)

    def _run_pod(self, pod: Object, node: Object) -> None:
        addresses = self._addresses(pod, node)
        if pods.is_own(pod):
            containers, look = self._own_pods.run(pod, addresses)
            if look is not None:
                self._queue.add(("pod", *key_of(pod)), look)
        else:
            containers = pods.reported(pod, _now())
        self._patch_pod_status(pod, pods.status(pod, containers, addresses, now=_now()))

    def _end_pod(self, pod: Object, node: Object) -> None:
        if pods.is_launcher(pod) and self._has_guest(pod):
            self._queue.add(("pod", *key_of(pod)), _RETRY_SECONDS)
            return
        if not pods.is_finished(pod):
            if pods.is_own(pod):
                containers, look = self._own_pods.end(pod)
                if look is not None:
                    self._queue.add(("pod", *key_of(pod)), look)
                    return
            else:
                containers = pods.reported(pod, _now())
            self._patch_pod_status(pod, pods.status(pod, containers, self._addresses(pod, node), now=_now()))
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        self._api.delete(_path(pod, "pods"), options)

    def _sweep(self, _: Key) -> None:
        self._own_pods.sweep({pod["metadata"]["uid"] for pod in self._pods.all()})

    def _look_at_ended(self, key: Key) -> None:
        """Look at the Pod one of whose processes has ended; it is known by its uid."""
        for pod in self._pods.all():
            if pod["metadata"]["uid"] == key[1]:
                self._queue.add(("pod", *key_of(pod)))

    def _patch_pod_status(self, pod: Object, status: Object) -> None:
        if pods.differs(pod.get("status", {}), status):
            body = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": status}
            self._pods.put(self._api.patch(f"{_path(pod, 'pods')}/status", body))

    def _addresses(self, pod: Object, node: Object) -> dict[str, str]:
        host = next(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")
        own = host if pod["spec"].get("hostNetwork") else pod.get("status", {}).get("podIP")
        if own is None:
            taken = {other.get("status", {}).get("podIP") for other in self._pods.all()}
            own = loopback(PODS, pod["metadata"]["uid"], taken)
        return {"podIP": own, "hostIP": host}

    # Virtual machines

    def _look_at_machine(self, key: Key) -> None:
        machine = self._machines.get(key)
        if machine is None:
            self._queue.add(("guests", "", ""))
            return
        if machines.is_final(machine):
            self._hypervisor.forget(machine["metadata"]["uid"])
        if not machines.is_handed_over(machine):
            return
        launcher = self._launcher(machine)
        node = self._nodes.get(("", machine["status"].get("nodeName", "")))
        if launcher is None or node is None:  # gone with its node: virt-controller declares it failed
            self._hypervisor.shut_down(machine)
            self._queue.add(("machine", *key), _RETRY_SECONDS)
            return
        stopping = any("deletionTimestamp" in obj["metadata"] for obj in (launcher, machine))
        guest = self._hypervisor.find(machine)
        if stopping and guest is not None:
            self._hypervisor.shut_down(machine)
        elif guest is None and not stopping and machine["status"]["phase"] == "Scheduled":
            self._hypervisor.start(machine, launcher)
        guest = self._hypervisor.find(machine)
        if guest is not None and guest.state == "running" and stopping:
            self._queue.add(("machine", *key), _RETRY_SECONDS)
        elif not stopping and (guest is None or guest.state == "starting"):
            self._queue.add(("machine", *key), _START_SECONDS)
        pod_ip = launcher.get("status", {}).get("podIP", "")
        status = machines.status(machine, guest, stopping=stopping, pod_ip=pod_ip, now=_now())
        if status != machine["status"]:
            # Replaced and not patched: a merge patch would take the nulls out of its conditions.
            path = f"{_KUBEVIRT}/namespaces/{key[0]}/virtualmachineinstances/{key[1]}"
            self._machines.put(self._api.replace(path, {**machine, "status": status}, machines.HANDLER))
            if status["phase"] != machine["status"]["phase"]:
                log.info("machine %s/%s: %s", *key, status["phase"])

    def _look_at_ended_guest(self, key: Key) -> None:
        """Look at the machine whose guest has ended; it is known by its uid."""
        for machine in self._machines.all():
            if machine["metadata"]["uid"] == key[1]:
                self._queue.add(("machine", *key_of(machine)))

    def _forget_guests(self, _: Key) -> None:
        """Forget the guests whose machines are gone."""
        if not self._machines.synced.is_set():
            self._queue.add(("guests", "", ""), _RETRY_SECONDS)
            return
        for uid in self._hypervisor.known() - {
            machine["metadata"]["uid"] for machine in self._machines.all()
        }:
            self._hypervisor.forget(uid)

    def _launcher(self, machine: Object) -> Object | None:
        uid = machine["metadata"]["uid"]
        for pod in self._pods.all():
            owner = _owner(pod)
            if owner is not None and owner["uid"] == uid and pods.is_launcher(pod):
                return pod
        return None

    def _has_guest(self, launcher: Object) -> bool:
        """Return whether the guest in a launcher Pod has yet to be seen down, after having it shut down."""
        owner = _owner(launcher)
        if owner is None:
            return False
        key = launcher["metadata"]["namespace"], owner["name"]
        self._look_at_machine(key)
        machine = self._machines.get(key)
        if machine is None or machine["metadata"]["uid"] != owner["uid"]:
            return not self._machines.synced.is_set()
        return machines.is_handed_over(machine)

    # Storage and services

    def _class_of(self, claim: Object) -> Object | None:
        return self._classes.get(("", claim["spec"].get("storageClassName", "")))

    def _look_at_claim(self, key: Key) -> None:
        claim = self._claims.get(key)
        storage_class = self._class_of(claim) if claim else None
        if claim is None or storage_class is None:
            return
        volume = storage.volume_for(claim, storage_class)
        secret = storage.secret_for(claim, storage_class)
        if volume is not None and secret is not None:
            # Without it, there is no volume yet: not found, it is looked for again.
            self._api.get(f"{_CORE}/namespaces/{secret['namespace']}/secrets/{secret['name']}")
        if volume is not None and self._volumes.get(("", volume["metadata"]["name"])) is None:
            self._disks.provide(volume["metadata"]["name"], _size(volume))
            self._volumes.put(self._api.create(f"{_CORE}/persistentvolumes", volume))
        bound = self._volumes.get(("", claim["spec"].get("volumeName", "")))
        size = storage.size_to_grow(claim, bound) if bound else None
        if bound is not None and size is not None:
            self._disks.provide(bound["metadata"]["name"], int(amount(size)))
            self._volumes.put(
                self._api.patch(
                    f"{_CORE}/persistentvolumes/{bound['metadata']['name']}",
                    {"spec": {"capacity": {"storage": size}}},
                )
            )
            self._api.patch(
                f"{_path(claim, 'persistentvolumeclaims')}/status",
                {"status": {"capacity": {"storage": size}}},
            )

    def _look_at_volume(self, key: Key) -> None:
        volume = self._volumes.get(key)
        if volume is not None and storage.is_to_delete(volume):
            self._disks.delete(key[1])
            self._api.delete(f"{_CORE}/persistentvolumes/{key[1]}")

    def _look_at_snapshot(self, key: Key) -> None:
        snapshot = self._snapshots.get(key)
        if snapshot is not None and not snapshot.get("status", {}).get("readyToUse"):
            self._patch_longhorn("snapshots", key, storage.snapshot_status(snapshot))

    def _look_at_backup(self, key: Key) -> None:
        backup = self._backups.get(key)
        if backup is not None and not backup.get("status", {}).get("state"):
            self._patch_longhorn("backups", key, storage.backup_status(backup))

    def _patch_longhorn(self, collection: str, key: Key, status: Object) -> None:
        path = f"{_LONGHORN}/namespaces/{key[0]}/{collection}/{key[1]}/status"
        self._api.patch(path, {"status": status}, MERGE)

    def _look_at_service(self, key: Key) -> None:
        service = self._services.get(key)
        if service is None or not load_balancers.is_wanted(service):
            return
        if reason := load_balancers.obstacle(service, self._instance_pools):
            log.warning("service %s/%s: no load balancer: %s", *key, reason)
            return  # looked at again when it changes, or the pools do
        body = {"status": load_balancers.status(service)}
        self._api.patch(f"{_path(service, 'services')}/status", body)


def _owner(obj: Object) -> Object | None:
    owners: list[Object] = obj["metadata"].get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), None)


def _size(volume: Object) -> int:
    return int(amount(volume["spec"]["capacity"]["storage"]))


def _path(obj: Object, collection: str) -> str:
    metadata = obj["metadata"]
    return f"{_CORE}/namespaces/{metadata['namespace']}/{collection}/{metadata['name']}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
