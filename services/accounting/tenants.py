"""The tenants that the program declares, with what they pay for."""

from dataclasses import dataclass

from services.gateway import routes
from services.kube import Api, Object, Watched


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """A tenant as the program declares it."""

    route: routes.Route
    since: str
    """The time of its declaration, as RFC 3339."""


def tenants(api: Api, namespace: str) -> Watched[Tenant]:
    """Return the tenants of all ConfigMaps in the gateway's namespace, which are still to be followed."""
    return Watched(api, f"/api/v1/namespaces/{namespace}/configmaps", _read, selector=routes.LABEL)


def _read(config_map: Object) -> Tenant:
    return Tenant(route=routes.parse(config_map), since=config_map["metadata"]["creationTimestamp"])
