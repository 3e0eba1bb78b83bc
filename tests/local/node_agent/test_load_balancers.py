from typing import Any

import pytest

from local.node_agent import load_balancers


def a_service(*, pool: str | None = None, protocol: str = "UDP", **spec: Any) -> dict[str, Any]:
    annotations = {"service.beta.kubernetes.io/exoscale-loadbalancer-service-instancepool-id": pool}
    return {
        "metadata": {"uid": "u", **({"annotations": annotations} if pool else {})},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 51820, "protocol": protocol}], **spec},
        "status": {"loadBalancer": {}},
    }


def test_each_gets_an_address_once() -> None:
    service = a_service()
    assert load_balancers.is_wanted(service)
    had = service | {"status": load_balancers.status(service)}
    assert had["status"]["loadBalancer"]["ingress"][0]["ip"].startswith("127.32.")
    assert not load_balancers.is_wanted(had)
    assert not load_balancers.is_wanted(a_service(type="ClusterIP"))


@pytest.mark.parametrize(
    ("service", "pools", "told"),
    [
        (a_service(), ["a"], ""),
        (a_service(pool="b"), ["a", "b"], ""),
        (a_service(), ["a", "b"], "multiple Instance Pools"),
        (a_service(), [], "couldn't infer"),
        (a_service(pool="c"), ["a", "b"], "c is not in this cluster"),
        (a_service(protocol="SCTP"), ["a"], "only TCP and UDP"),
    ],
)
def test_the_pool_is_guessed_only_where_there_is_one(
    service: dict[str, Any], pools: list[str], told: str
) -> None:
    obstacle = load_balancers.obstacle(service, pools)
    assert told in obstacle
    assert bool(told) == bool(obstacle)
