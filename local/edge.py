"""Whether the gateway's pods take requests, and if not, which container keeps them from it."""

from collections.abc import Iterator, Sequence
from typing import Any

from kubernetes import client as kubernetes_client

from local.servers import kubernetes

_NAMESPACE = "gateway"


def told() -> str:
    """Return in a line how many of the pods are ready, and what is said of every container that is not."""
    found = kubernetes_client.CoreV1Api(kubernetes.client()).list_namespaced_pod(
        _NAMESPACE, label_selector=f"app.kubernetes.io/name={_NAMESPACE}"
    )
    return describe(found.items)


def describe(pods: Sequence[Any]) -> str:
    """Return that line for these pods, as the Kubernetes API tells of them."""
    ready = sum(_is_ready(pod) for pod in pods)
    troubles = [trouble for pod in pods for trouble in _troubles(pod)]
    return "; ".join([f"{ready} of {len(pods)} pods take requests", *troubles])


def _is_ready(pod: Any) -> bool:
    return any(one.type == "Ready" and one.status == "True" for one in pod.status.conditions or ())


def _troubles(pod: Any) -> Iterator[str]:
    for container in [*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ())]:
        if container.ready:
            continue
        waiting, ended = container.state.waiting, container.state.terminated
        why = "is not ready"
        if waiting:
            why = f"waits ({': '.join(filter(None, (waiting.reason, waiting.message)))})"
        elif ended:
            why = f"has ended with {ended.exit_code}"
        yield f"{container.name} of {pod.metadata.name} {why}"
