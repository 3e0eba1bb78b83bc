"""A tenant's machine in an operator's hands; whatever is changed is put back."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from kubernetes import client as kubernetes_client
from kubernetes.client.exceptions import ApiException

from local.errors import LocalError
from local.servers import kubernetes

_VIRTUAL_MACHINES = ("kubevirt.io", "v1")
_IDLE_SECONDS = "agent-platform/idle-seconds"
_SUSPENDER = ("idle-suspender", "platform-system")
_SWEEP_SECONDS = 60
_PAUSE = 0.5


class Machine:
    """The virtual machine of a tenant."""

    def __init__(self, tenant: str) -> None:
        """Nothing is asked yet."""
        self._api = kubernetes.client()
        self._place = (*_VIRTUAL_MACHINES, f"tenant-{tenant}", "virtualmachines", f"tenant-{tenant}")

    def status(self) -> str:
        """Return what KubeVirt prints of it."""
        status: str = self._get().get("status", {}).get("printableStatus", "Unknown")
        return status

    def stop(self) -> None:
        """Ask KubeVirt to shut it down."""
        self._ask("stop")

    def start(self) -> None:
        """Ask KubeVirt to start it."""
        self._ask("start")

    def wait_for(self, status: str, seconds: float) -> bool:
        """Wait until it has that status; tell whether it came to that."""
        deadline = time.monotonic() + seconds
        while self.status() != status:
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE)
        return True

    @contextmanager
    def idle_limit(self, seconds: int) -> Iterator[None]:
        """Meanwhile, it may be suspended after so many seconds without activity.

        The program declares the annotation and compares what it declared before, so this is no change to it.
        """
        before = self._get()["metadata"].get("annotations", {}).get(_IDLE_SECONDS)
        self._annotate(str(seconds))
        try:
            yield
        finally:
            self._annotate(before)

    def _ask(self, action: str) -> None:
        group, version, namespace, plural, name = self._place
        url = f"{self._api.configuration.host}/apis/subresources.{group}/{version}"
        answer = self._api.call_api(
            "PUT",
            f"{url}/namespaces/{namespace}/{plural}/{name}/{action}",
            {"Content-Type": "application/json"},
            {},
        )
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise ApiException(status=answer.status, reason=f"{action} is refused")

    def _get(self) -> dict[str, Any]:
        found: dict[str, Any] = self._objects().get_namespaced_custom_object(*self._place)
        return found

    def _annotate(self, value: str | None) -> None:
        self._objects().patch_namespaced_custom_object(
            *self._place, {"metadata": {"annotations": {_IDLE_SECONDS: value}}}
        )

    def _objects(self) -> Any:
        return kubernetes_client.CustomObjectsApi(self._api)


def sweep() -> None:
    """Have the suspender look at all machines now, as `kubectl create job --from=cronjob/…` does."""
    name, namespace = _SUSPENDER
    batch: Any = kubernetes_client.BatchV1Api(kubernetes.client())
    template = batch.read_namespaced_cron_job(name, namespace).spec.job_template
    job = batch.create_namespaced_job(
        namespace,
        kubernetes_client.V1Job(
            metadata=kubernetes_client.V1ObjectMeta(
                generate_name=f"{name}-by-hand-",
                labels=template.metadata.labels,
                annotations={"cronjob.kubernetes.io/instantiate": "manual"},
            ),
            spec=template.spec,
        ),
    )
    by_hand = job.metadata.name
    try:
        deadline = time.monotonic() + _SWEEP_SECONDS
        while not (status := batch.read_namespaced_job_status(by_hand, namespace).status).succeeded:
            if status.failed or time.monotonic() > deadline:
                raise LocalError(
                    f"demo: the suspender's sweep (job {by_hand} in {namespace}) did not succeed, so nothing "
                    "is suspended; its log is among those of `make logs`. The tour has put its changes back."
                )
            time.sleep(_PAUSE)
    finally:
        batch.delete_namespaced_job(by_hand, namespace, propagation_policy="Background")
