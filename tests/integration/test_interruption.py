"""An update that is cut off anywhere is mended by the next `make up`: nothing twice, nothing left behind."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from exoscale.api.v2 import Client  # type: ignore[import-untyped]

from tests.integration.belongings import traces
from tests.integration.conftest import Edit, Platform, edited_roster

pytestmark = pytest.mark.integration


def cut_off(
    platform: Platform,
    newcomer: str,
    *,
    after_resources: int,
    strike: Callable[[subprocess.Popen[str]], None],
) -> int:
    """Start `up`, let it create some of the newcomer's resources, strike, wait; the exit status."""
    running = platform.start("up")
    created = 0
    assert running.stdout is not None
    for line in running.stdout:
        created += "created" in line and newcomer in line
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


@dataclass
class Arrivals:
    """Tenants that come one after the other: the update that brings one takes away the one before."""

    edit: Edit
    sample: set[str]
    """The resources of the sample roster."""
    ids: list[str] = field(default_factory=list)

    def announce(self) -> None:
        """Put the next into the roster: leaving from its first day on, so that one step removes it."""
        self.ids.append(f"newcomer{len(self.ids)}x")
        entry = {
            "id": self.ids[-1],
            "name": "Newcomer",
            "tier": "enterprise",
            "owner": "ops@newcomer.example",
            "state": "offboarding",
            "offboarding": {"backup": "waived", "reason": "it never had anything"},
        }
        self.edit(lambda tenants: tenants.append(entry))


@pytest.fixture(scope="module")
def arrivals(platform: Platform) -> Iterator[Arrivals]:
    with edited_roster(platform) as edit:
        yield Arrivals(edit, set(platform.state()))


@pytest.fixture
def newcomer(arrivals: Arrivals) -> str:
    """The id of a tenant that the next update brings."""
    arrivals.announce()
    return arrivals.ids[-1]


def assert_whole(platform: Platform, arrivals: Arrivals) -> None:
    """The last newcomer is complete, those before are gone, and every server has what the state says."""
    after = platform.state()
    assert arrivals.sample < set(after)
    assert all(arrivals.ids[-1] in urn for urn in set(after) - arrivals.sample)
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
def test_a_killed_engine(platform: Platform, arrivals: Arrivals, newcomer: str, after_resources: int) -> None:
    status = cut_off(
        platform,
        newcomer,
        after_resources=after_resources,
        strike=lambda _running: os.kill(engine(platform), signal.SIGKILL),
    )

    assert status == 1
    platform.up()
    assert_whole(platform, arrivals)


@pytest.mark.parametrize("server", ["kube-apiserver", "postgres"])
def test_a_killed_server(platform: Platform, arrivals: Arrivals, newcomer: str, server: str) -> None:
    pid = platform.status()["services"][server]["pid"]

    cut_off(platform, newcomer, after_resources=2, strike=lambda _running: os.kill(pid, signal.SIGKILL))

    platform.up()
    assert_whole(platform, arrivals)


def test_ctrl_c(platform: Platform, arrivals: Arrivals, newcomer: str) -> None:
    status = cut_off(
        platform, newcomer, after_resources=3, strike=lambda running: os.killpg(running.pid, signal.SIGINT)
    )

    assert status != 0
    platform.up()
    assert_whole(platform, arrivals)


def test_a_second_up_while_one_runs_is_told_so(platform: Platform, arrivals: Arrivals, newcomer: str) -> None:
    refused: list[subprocess.CompletedProcess[str]] = []

    cut_off(platform, newcomer, after_resources=1, strike=lambda _running: refused.append(platform.run("up")))

    assert refused[0].returncode == 1
    assert "another command" in refused[0].stderr
    assert "Traceback" not in refused[0].stderr
    assert_whole(platform, arrivals)


def test_no_server_has_anything_left_of_those_that_came_and_went(
    platform: Platform, arrivals: Arrivals
) -> None:
    arrivals.edit(lambda _tenants: None)
    platform.up()

    assert set(platform.state()) == arrivals.sample
    assert arrivals.ids
    for gone in arrivals.ids:
        assert traces(platform, gone) == []


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
