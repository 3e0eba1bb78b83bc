"""The ready pods behind Services, as their EndpointSlices tell."""

from collections.abc import Collection

from local.node_agent.kube import Api, Object, Watched

_SERVICE = "kubernetes.io/service-name"


class Backends:
    """Kept in step by a watch; while the Kubernetes API is away, those last seen."""

    def __init__(self, api: Api, *, namespace: str, services: Collection[str]) -> None:
        """Look at the Services' pods."""
        path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        self._slices = Watched(api, path, lambda _slice: None)
        self._services = services

    def follow(self) -> None:
        """Start to follow, and wait until the pods are known."""
        self._slices.start()
        self._slices.synced.wait()

    def ready(self, number: int) -> list[tuple[str, int]]:
        """Return the pods that take new connections and have this port, as addresses to connect to."""
        return sorted(
            {
                (address, number)
                for one in self._slices.all()
                if _service(one) in self._services
                for port in one.get("ports") or ()
                if port.get("port") == number
                for endpoint in one.get("endpoints") or ()
                if _takes_connections(endpoint)
                for address in endpoint["addresses"]
            }
        )


def _service(endpoint_slice: Object) -> str | None:
    name: str | None = (endpoint_slice["metadata"].get("labels") or {}).get(_SERVICE)
    return name


def _takes_connections(endpoint: Object) -> bool:
    """Unknown counts as ready, as the API's documentation has it."""
    return (endpoint.get("conditions") or {}).get("ready") is not False
