"""Tests of the embedded platform's parts leave no server behind."""

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("AGENT_PLATFORM_GUESTS", "reported")

from rich.console import Console

from local import supervisor
from local.paths import RUN


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    for record in RUN.glob("*.json"):
        if record.name != "ports.json":
            supervisor.stop(record.stem)


@pytest.fixture(scope="session")
def console() -> Console:
    return Console(stderr=True)
