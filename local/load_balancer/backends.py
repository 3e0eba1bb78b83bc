"""The ready pods of a Deployment, by their label.

Not by EndpointSlices: Kubernetes takes no loopback address into one, and all pods here have one.
"""

from local.node_agent.kube import Api, Object, Watched

_NAME = "app.kubernetes.io/name"


class Backends:
    """Kept in step by a watch; while the Kubernetes API is away, those last seen."""

    def __init__(self, api: Api, *, namespace: str, name: str) -> None:
        """Look at the pods with that name in their labels."""
        self._pods = Watched(api, f"/api/v1/namespaces/{namespace}/pods", lambda _pod: None)
        self._name = name

    def follow(self) -> None:
        """Start to follow, and wait until the pods are known."""
        self._pods.start()
        self._pods.synced.wait()

    def ready(self, port: int) -> list[tuple[str, int]]:
        """Return where the pods listen on `port` that take new connections."""
        addresses = (_address(pod) for pod in self._pods.all() if self._is_one(pod))
        return sorted((address, port) for address in addresses if address)

    def _is_one(self, pod: Object) -> bool:
        return bool((pod["metadata"].get("labels") or {}).get(_NAME) == self._name)


def _address(pod: Object) -> str | None:
    """Return where the pod takes new connections; None while it takes none."""
    status = pod.get("status") or {}
    conditions = {one.get("type"): one.get("status") for one in status.get("conditions") or ()}
    ready = conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]
    return status.get("podIP") if ready else None
