"""What `make status` says of the gateway's pods."""

from types import SimpleNamespace
from typing import Any

from local import edge


def container(name: str, *, ready: bool, **state: Any) -> Any:
    reasons = SimpleNamespace(**{"waiting": None, "terminated": None, **state})
    return SimpleNamespace(name=name, ready=ready, state=reasons)


def pod(name: str, *containers: Any, ready: str) -> Any:
    sidecars = [each for each in containers if each.name == "envoy"]
    status = SimpleNamespace(
        conditions=[SimpleNamespace(type="Ready", status=ready)],
        init_container_statuses=sidecars,
        container_statuses=[each for each in containers if each not in sidecars],
    )
    return SimpleNamespace(metadata=SimpleNamespace(name=name), status=status)


def test_pods_that_take_requests_are_counted() -> None:
    well = pod("a", container("envoy", ready=True), container("gateway", ready=True), ready="True")
    assert edge.describe([well, well]) == "2 of 2 pods take requests"
    assert edge.describe([]) == "0 of 0 pods take requests"


def test_an_envoy_that_does_not_start_is_named() -> None:
    waiting = SimpleNamespace(reason="CrashLoopBackOff", message="back-off 10s restarting failed container")
    ended = SimpleNamespace(exit_code=1)
    pods = [
        pod(
            "a",
            container("envoy", ready=False, waiting=waiting),
            container("gateway", ready=True),
            ready="False",
        ),
        pod(
            "b",
            container("envoy", ready=True),
            container("gateway", ready=False, terminated=ended),
            ready="False",
        ),
    ]
    assert edge.describe(pods) == (
        "0 of 2 pods take requests; envoy of a waits (CrashLoopBackOff: back-off 10s restarting failed "
        "container); gateway of b has ended with 1"
    )
