"""Tests of the embedded platform's parts write to a folder of their own, gone afterwards."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything imports `local.paths`, which reads it once.
_FOLDER = tempfile.mkdtemp(prefix="agent-platform-tests-")
os.environ["AGENT_PLATFORM_DATA"] = _FOLDER
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)

from rich.console import Console

from local import supervisor
from local.paths import DATA, RUN


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    for record in RUN.glob("*.json"):
        if record.name != "ports.json":
            supervisor.stop(record.stem)


@pytest.fixture(scope="session")
def console() -> Console:
    return Console(stderr=True)


@pytest.fixture(scope="session")
def data() -> Path:
    return DATA
