"""An update that is cut off anywhere is mended by the next `make up`: nothing twice, nothing left behind."""

import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from exoscale.api.v2 import Client  # type: ignore[import-untyped]

from tests.integration.belongings import traces
from tests.integration.conftest import Edit, Platform

pytestmark = pytest.mark.integration

_numbers = itertools.count(1)


def cut_off(
    platform: Platform, *, after_resources: int, strike: Callable[[subprocess.Popen[str]], None]
) -> int:
    """Start `up`, let it create some of the newcomer's resources, strike, wait; the exit status."""
    running = platform.start("up")
    created = 0
    assert running.stdout is not None
    for line in running.stdout:
        created += "created" in line and "newcomer" in line
        if created >= after_resources:
            strike(running)
            break
    rest = running.stdout.read()
    status = running.wait(timeout=300)
    assert created >= after_resources, f"the update ended before it could be struck: {rest}"
    return status


def engine(platform: Platform) -> int:
    """The process id of the engine that serves this copy."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if command[0] == os.fsencode(platform.root / ".local/bin/pulumi") and b"up" in command:
            return int(entry.name)
    raise AssertionError("no engine is running")


def kill_server(platform: Platform, name: str) -> None:
    """End a server without giving it a chance to clean up."""
    os.kill(platform.status()["services"][name]["pid"], signal.SIGKILL)


@pytest.fixture
def with_newcomer(platform: Platform, edit_roster: Edit) -> Iterator[set[str]]:
    """A roster with one tenant more; afterwards the newcomer must be gone from every server.

    It is leaving from its first day on, so that one step removes it.
    """
    before = set(platform.state())
    newcomer = {
        "id": f"newcomer{next(_numbers)}x",
        "name": "Newcomer",
        "tier": "enterprise",
        "owner": "ops@newcomer.example",
        "state": "offboarding",
        "offboarding": {"backup": "waived", "reason": "it never had anything"},
    }
    edit_roster(lambda tenants: tenants.append(newcomer))
    yield before
    edit_roster(lambda _tenants: None)
    platform.up()
    assert set(platform.state()) == before
    assert traces(platform, str(newcomer["id"])) == []


def assert_whole(platform: Platform, before: set[str]) -> None:
    """The newcomer is complete, and every server has exactly what the state says."""
    after = platform.state()
    assert before < set(after)
    assert sum(resource["type"] == "agent-platform:tenants:Tenant" for resource in after.values()) == 5
    assert platform.changes() | {"same": 0} == {
        "create": 0,
        "update": 0,
        "replace": 0,
        "delete": 0,
        "same": 0,
    }
    assert doubles(platform) == []


def doubles(platform: Platform) -> list[str]:
    """Names that Exoscale holds more than once among the things of one kind."""
    exports = platform.exports()
    api = Client(
        exports["EXOSCALE_API_KEY"], exports["EXOSCALE_API_SECRET"], url=exports["EXOSCALE_API_ENDPOINT"]
    )
    kinds: list[list[dict[str, Any]]] = [
        api.list_api_keys()["api-keys"],
        api.list_iam_roles()["iam-roles"],
        api.list_security_groups()["security-groups"],
        api.list_sks_clusters()["sks-clusters"],
    ]
    names = [[item["name"] for item in kind] for kind in kinds]
    return [name for kind in names for name in set(kind) if kind.count(name) > 1]


@pytest.mark.parametrize("after_resources", [1, 8])
def test_a_killed_engine(platform: Platform, with_newcomer: set[str], after_resources: int) -> None:
    status = cut_off(
        platform,
        after_resources=after_resources,
        strike=lambda _running: os.kill(engine(platform), signal.SIGKILL),
    )

    assert status == 1
    platform.up()
    assert_whole(platform, with_newcomer)


@pytest.mark.parametrize("server", ["kube-apiserver", "postgres"])
def test_a_killed_server(platform: Platform, with_newcomer: set[str], server: str) -> None:
    pid = platform.status()["services"][server]["pid"]

    cut_off(platform, after_resources=2, strike=lambda _running: os.kill(pid, signal.SIGKILL))

    platform.up()
    assert_whole(platform, with_newcomer)


def test_ctrl_c(platform: Platform, with_newcomer: set[str]) -> None:
    status = cut_off(
        platform, after_resources=3, strike=lambda running: os.killpg(running.pid, signal.SIGINT)
    )

    assert status != 0
    platform.up()
    assert_whole(platform, with_newcomer)


def test_a_second_up_while_one_runs_is_told_so(platform: Platform, with_newcomer: set[str]) -> None:
    refused: list[subprocess.CompletedProcess[str]] = []

    cut_off(platform, after_resources=1, strike=lambda _running: refused.append(platform.run("up")))

    assert refused[0].returncode == 1
    assert "another command" in refused[0].stderr
    assert "Traceback" not in refused[0].stderr
    assert_whole(platform, with_newcomer)


def test_a_killed_node_agent_leaves_machines_as_they_are(platform: Platform) -> None:
    kill_server(platform, "node-agent")
    platform.up()

    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        states = [tenant["status"] for tenant in platform.status()["tenants"]]
        if set(states) == {"Running", "Available"}:
            return
        time.sleep(1)
    raise AssertionError(states)
