"""Tests of the embedded platform's parts write to a folder of their own, gone afterwards."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything imports `local.paths`, which reads it once.
os.environ["AGENT_PLATFORM_DATA"] = tempfile.mkdtemp(prefix="agent-platform-tests-")

from rich.console import Console

from local import supervisor
from local.paths import DATA, RUN


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    for record in RUN.glob("*.json"):
        if record.name != "ports.json":
            supervisor.stop(record.stem)
    shutil.rmtree(DATA)


@pytest.fixture(scope="session")
def console() -> Console:
    return Console(stderr=True)


@pytest.fixture(scope="session")
def data() -> Path:
    return DATA
