"""Tests of the services run against real servers."""

from collections.abc import Iterator

import pytest

# Also says where local servers keep their data, before anything reads it.
from tests.local.conftest import _nothing_is_left, console
from tests.services import valkey

__all__ = ["_nothing_is_left", "console"]


@pytest.fixture(scope="session")
def server() -> Iterator[valkey.Valkey]:
    with valkey.serve() as started:
        yield started


@pytest.fixture
def redis_server(server: valkey.Valkey) -> valkey.Valkey:
    """The server, empty, at a time of the test's."""
    server.operator().flushall()
    server.set_clock(valkey.NOW)
    return server
