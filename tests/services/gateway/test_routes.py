"""Routes as the program declares them, and what is refused."""

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from services.gateway.routes import RouteError, Routes, parse


def declared(tenant: str = "acme", **fields: Any) -> dict[str, Any]:
    key = json.loads(OKPAlgorithm.to_jwk(Ed25519PrivateKey.generate().public_key()))
    content = {
        "tenant": tenant,
        "tier": "enterprise",
        "state": "active",
        "servedBy": "machine",
        "namespace": f"tenant-{tenant}",
        "idleSeconds": 900,
        "keys": {"keys": [{"kid": "one", **{name: key[name] for name in ("kty", "crv", "x")}}]},
        "size": {"cpu": 2, "memoryGib": 4, "workspaceGib": 20},
        "price": {"awakeHourChf": 0.1, "monthChf": 20},
        **fields,
    }
    return config_map(tenant, json.dumps(content))


def config_map(tenant: str, text: str) -> dict[str, Any]:
    return {
        "metadata": {"name": f"route-{tenant}", "labels": {"agent-platform/route": tenant}},
        "data": {"route.json": text},
    }


def test_a_route() -> None:
    route = parse(declared())
    assert (route.tenant, route.served_by, route.idle_seconds) == ("acme", "machine", 900)
    assert list(route.keys) == ["one"]
    assert route.price is not None
    assert route.price.month_chf == 20


def _private(found: dict[str, Any]) -> None:
    content = json.loads(found["data"]["route.json"])
    content["keys"]["keys"][0]["d"] = content["keys"]["keys"][0]["x"]
    found["data"]["route.json"] = json.dumps(content)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda found: found.update(data={}), "no route.json"),
        (lambda found: found["data"].update({"route.json": "{"}), "no JSON"),
        (lambda found: found["data"].update({"route.json": "[" * 100_000}), "no JSON"),
        (lambda found: found["metadata"].update(name="route-globex"), "names the tenant acme"),
        (lambda found: found["metadata"].update(labels={}), "names the tenant acme"),
        (_private, "keys.keys.0.d"),
    ],
)
def test_what_is_no_route(change: Callable[[dict[str, Any]], None], says: str) -> None:
    found = declared()
    change(found)
    with pytest.raises(RouteError, match=says):
        parse(found)


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "asleep"},
        {"servedBy": "nobody"},
        {"namespace": "../kube-system"},
        {"idleSeconds": "900"},
        {"keys": {"keys": []}},
        {"unheardOf": 1},
        {"price": {"awakeHourChf": 0.1, "monthChf": float("inf")}},
        {"price": {"awakeHourChf": float("nan"), "monthChf": 1}},
    ],
)
def test_a_field_that_is_wrong(fields: dict[str, Any]) -> None:
    with pytest.raises(RouteError, match=next(iter(fields))):
        parse(declared(**fields))


def test_a_bad_one_is_told_once_and_its_tenant_alone_is_unknown(caplog: pytest.LogCaptureFixture) -> None:
    routes = Routes(None, "gateway")  # type: ignore[arg-type]
    with caplog.at_level(logging.ERROR):
        assert routes._read(config_map("globex", "{")) is None
        assert routes._read(config_map("globex", "{")) is None
        assert routes._read(declared()) is not None
    assert len(caplog.records) == 1
    assert "ConfigMap gateway/route-globex is no route" in caplog.text
