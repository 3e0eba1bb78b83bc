"""Machines that sleep are woken for an attack, and sleep again after it, however it ends."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rich.console import Console

from local.attack import awake as module
from local.attack.awake import awake
from local.attack.tenants import Tenant
from local.errors import LocalError

ASLEEP, RUNNING, NONE = (
    Tenant({"id": name, "schema": "", "prefix": "", "namespace": "", "vm": vm})
    for name, vm in (("asleep", "tenant-asleep"), ("running", "tenant-running"), ("none", ""))
)


class Machine:
    """A machine that comes up when it is asked to, unless it is broken."""

    broken = False

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.state = "Stopped" if tenant == "asleep" else "Running"
        self.limited = False
        MACHINES[tenant] = self

    def status(self) -> str:
        return self.state

    def start(self) -> None:
        assert self.limited, "it could be suspended before it is used"
        self.state = "Starting" if self.broken else "Running"

    def stop(self) -> None:
        self.state = "Stopped"

    def wait_for(self, status: str, _seconds: float) -> bool:
        return self.state == status

    @contextmanager
    def idle_limit(self, seconds: int) -> Iterator[None]:
        assert seconds > 3600
        self.limited = True
        yield
        self.limited = False


MACHINES: dict[str, Machine] = {}


@pytest.fixture(autouse=True)
def machines(monkeypatch: pytest.MonkeyPatch) -> None:
    MACHINES.clear()
    monkeypatch.setattr(module, "Machine", Machine)


def states() -> dict[str, tuple[str, bool]]:
    return {name: (machine.state, machine.limited) for name, machine in MACHINES.items()}


def test_all_machines_run_for_it_and_afterwards_it_is_as_before() -> None:
    with awake([ASLEEP, RUNNING, NONE], Console(quiet=True)):
        assert states() == {"asleep": ("Running", True), "running": ("Running", True)}
    assert states() == {"asleep": ("Stopped", False), "running": ("Running", False)}


def test_a_machine_that_does_not_come_up_is_told_and_nothing_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Machine, "broken", True)
    with (
        pytest.raises(LocalError, match="machine of asleep is Starting"),
        awake([ASLEEP], Console(quiet=True)),
    ):
        raise AssertionError("it was tried")
    assert states()["asleep"][0] == "Stopped"
