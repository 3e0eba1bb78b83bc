"""Tests of the embedded platform's parts write to a folder of their own, gone afterwards."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

# Before anything imports `local.paths`, which reads it once.
os.environ["AGENT_PLATFORM_DATA"] = tempfile.mkdtemp(prefix="agent-platform-tests-")
os.environ.setdefault("AGENT_PLATFORM_GUESTS", "reported")

from rich.console import Console

from local import supervisor
from local.paths import DATA, RUN

atexit.register(shutil.rmtree, DATA, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    for record in RUN.glob("*.json"):
        if record.name != "ports.json":
            supervisor.stop(record.stem)


@pytest.fixture(scope="session")
def console() -> Console:
    return Console(stderr=True)
