"""Runs all examples through the engine, once for those that break rules and once for those that keep them."""

from pathlib import Path

import pytest
from rich.console import Console

from local import engine, toolchain
from tests.policy.examples import FAILING, PASSING
from tests.policy.run import Run, preview


@pytest.fixture(scope="session")
def engine_ready() -> None:
    """The engine with its plugins; no server runs, and none is asked."""
    toolchain.ensure(Console(stderr=True), "pulumi")
    engine.install_plugins("prod", official_only=False)


@pytest.fixture(scope="session")
def failing(engine_ready: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The preview of every failing example."""
    return preview(FAILING, _folder(tmp_path_factory))


@pytest.fixture(scope="session")
def passing(engine_ready: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The preview of every passing example."""
    return preview(PASSING, _folder(tmp_path_factory))


def _folder(factory: pytest.TempPathFactory) -> Path:
    return factory.mktemp("policy")
