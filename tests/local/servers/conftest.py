"""Real servers, brought up once per test module."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from rich.console import Console

from local import supervisor
from local.servers import Module
from local.supervisor import NotReady, Service

Running = Callable[[Module], AbstractContextManager[None]]


@pytest.fixture(scope="session")
def up(console: Console) -> Callable[[Module], None]:
    """Bring a module's servers up, as `make up` does."""

    def up(module: Module) -> None:
        module.prepare()
        for service in module.services():
            supervisor.start(service, console)
        module.bootstrap()

    return up


@pytest.fixture(scope="session")
def running(up: Callable[[Module], None]) -> Running:
    """As a context manager: the module's servers are up in it."""

    @contextmanager
    def running(module: Module) -> Iterator[None]:
        up(module)
        try:
            yield
        finally:
            for service in reversed(module.services()):
                supervisor.stop(service.name)

    return running


@pytest.fixture(scope="session")
def kill() -> Callable[[Module], None]:
    """End a module's servers as the kernel does when memory is short."""

    def kill(module: Module) -> None:
        for service in module.services():
            pid = supervisor.status(service).pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)

            def gone(service: Service = service) -> None:
                if supervisor.is_running(service.name):
                    raise NotReady("alive")

            supervisor.wait_until(gone, timeout=10, what=f"the end of {service.name}")

    return kill
