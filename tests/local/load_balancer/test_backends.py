"""Which pods the load balancer gives connections to."""

from typing import Any

from local.load_balancer.backends import Backends
from local.node_agent.kube import Api


class OneList(Api):
    """An API whose collection never changes."""

    def __init__(self, *items: dict[str, Any]) -> None:
        self._items = list(items)

    def well(self, about: str) -> None:
        pass

    def get(self, path: str) -> dict[str, Any]:
        assert path == "/api/v1/namespaces/gateway/pods"
        return {"metadata": {"resourceVersion": "1"}, "items": self._items}


def pod(name: str, address: str, ready: str, **metadata: str) -> dict[str, Any]:
    status: dict[str, Any] = {"conditions": [{"type": "Ready", "status": ready}]}
    if address:
        status["podIP"] = address
    return {
        "metadata": {
            "name": f"{name}-{address}",
            "namespace": "gateway",
            "resourceVersion": "1",
            "labels": {"app.kubernetes.io/name": name},
            **metadata,
        },
        "status": status,
    }


def test_ready_pods_of_that_name_that_are_to_stay() -> None:
    api = OneList(
        pod("gateway", "127.64.0.2", "True"),
        pod("gateway", "127.64.0.3", "False"),
        pod("gateway", "127.64.0.1", "True"),
        pod("gateway", "127.64.0.4", "True", deletionTimestamp="2026-11-24T18:00:00Z"),
        pod("another", "127.64.0.9", "True"),
        {"metadata": {"name": "new", "namespace": "gateway"}, "status": {}},
        pod("gateway", "", "True"),
        {**pod("gateway", "127.64.0.5", "True"), "status": None},
    )
    backends = Backends(api, namespace="gateway", name="gateway")
    backends._pods._list()

    assert backends.ready(8443) == [("127.64.0.1", 8443), ("127.64.0.2", 8443)]
