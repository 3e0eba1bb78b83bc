"""What is said of a Deployment, in the words that KubeVirt has for machines."""

from types import SimpleNamespace
from typing import Any

import pytest

from local import machines
from local.machines import Seen


def deployment(replicas: int, *, there: int = 0, available: int = 0, progressing: str = "True") -> Any:
    condition = SimpleNamespace(type="Progressing", status=progressing)
    status = SimpleNamespace(replicas=there, available_replicas=available or None, conditions=[condition])
    return SimpleNamespace(spec=SimpleNamespace(replicas=replicas), status=status)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (deployment(0), "Stopped"),
        (deployment(0, there=1), "Stopping"),
        (deployment(1, there=1, available=1), "Available"),
        (deployment(2, there=2, available=1), "Starting"),
        (deployment(1, there=1, progressing="False"), "Unavailable"),
    ],
)
def test_the_state_of_a_deployment(found: Any, told: str) -> None:
    assert machines._state(found) == told


def test_each_tenant_has_the_status_of_what_serves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "_machines", lambda: iter([("acme", Seen("Running", 5.0))]))
    deployments = [("corvus", Seen("Starting")), ("runtime", Seen("Available", 7.0))]
    monkeypatch.setattr(machines, "_deployments", lambda: iter(deployments))

    def tenant(identifier: str, served_by: str, state: str = "active") -> dict[str, str]:
        return {"id": identifier, "served_by": served_by, "state": state}

    seen = machines.observe(
        [
            tenant("acme", "machine"),
            tenant("corvus", "deployment"),
            tenant("bluebird", "shared runtime"),
            tenant("dodo", "shared runtime", "suspended"),
            tenant("ember", "machine"),
        ]
    )

    assert {one["id"]: (one["status"], one["since"]) for one in seen} == {
        "acme": ("Running", 5.0),
        "corvus": ("Starting", None),
        "bluebird": ("Available", 7.0),
        "dodo": ("NotServed", None),
        "ember": ("absent", None),
    }
