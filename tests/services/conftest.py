"""Tests of the services run against real servers."""

from collections.abc import Iterator

import pytest

from tests.services import valkey


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
