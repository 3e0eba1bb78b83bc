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
        assert path == "/apis/discovery.k8s.io/v1/namespaces/gateway/endpointslices"
        return {"metadata": {"resourceVersion": "1"}, "items": self._items}


def endpoint_slice(name: str, service: str, *endpoints: dict[str, Any]) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "gateway",
            "resourceVersion": "1",
            "labels": {"kubernetes.io/service-name": service},
        },
        "ports": [{"name": "https", "port": 8443}, {"name": "agents", "port": 8444}],
        "endpoints": list(endpoints),
    }


def pod(address: str, **conditions: bool) -> dict[str, Any]:
    return {"addresses": [address], "conditions": conditions}


def test_ready_pods_of_the_service_on_its_port() -> None:
    api = OneList(
        endpoint_slice("a", "gateway", pod("127.64.0.2", ready=True), pod("127.64.0.3", ready=False)),
        endpoint_slice("b", "gateway", pod("127.64.0.1"), pod("127.64.0.2", ready=True)),
        endpoint_slice("c", "another", pod("127.64.0.9", ready=True)),
        {**endpoint_slice("d", "gateway"), "endpoints": None, "ports": None},
    )
    backends = Backends(api, namespace="gateway", services=("gateway-public", "gateway"))
    backends._slices._list()

    assert backends.ready(8443) == [("127.64.0.1", 8443), ("127.64.0.2", 8443)]
