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
from tests.integration.conftest import Platform, edited_roster

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
    os.kill(platform.process(name), signal.SIGKILL)


@dataclass(frozen=True)
class Seen:
    """Everything there was after a run of `up` that nothing struck."""

    state: dict[str, dict[str, Any]]
    changes: dict[str, int]
    """By a preview."""
    doubles: list[str]
    """Held by Exoscale more than once."""


@dataclass
class Story:
    """Two newcomers whose arrivals were cut off again and again."""

    sample: set[str]
    """The resources of the sample roster."""
    statuses: dict[str, int] = field(default_factory=dict)
    """The exit status of each run of `up`, by what struck it."""
    refused: list[subprocess.CompletedProcess[str]] = field(default_factory=list)
    """Each `up` that was called while another ran."""
    arrived: dict[str, Seen] = field(default_factory=dict)
    """By the newcomer that had arrived."""
    left: set[str] = field(default_factory=set)
    """The resources once both were gone."""


FIRST, SECOND = "newcomer0x", "newcomer1x"


def entry(newcomer: str) -> dict[str, Any]:
    """One that is leaving from its first day on, so that one step removes it."""
    return {
        "id": newcomer,
        "name": "Newcomer",
        "tier": "enterprise",
        "owner": "ops@newcomer.example",
        "state": "offboarding",
        "offboarding": {"backup": "waived", "reason": "it never had anything"},
    }


@pytest.fixture(scope="module")
def story(platform: Platform) -> Iterator[Story]:
    """Each arrives in one run of `up` after the other; the second's arrival takes the first away."""
    with edited_roster(platform) as edit:
        told = Story(set(platform.state()))

        def announce(newcomer: str) -> None:
            edit(lambda tenants: tenants.append(entry(newcomer)))

        def killing(server: str) -> Callable[[subprocess.Popen[str]], None]:
            pid = platform.process(server)
            return lambda _running: os.kill(pid, signal.SIGKILL)

        def struck(
            newcomer: str, after: int, by: str, strike: Callable[[subprocess.Popen[str]], None]
        ) -> None:
            told.statuses[by] = cut_off(platform, newcomer, after_resources=after, strike=strike)

        def arrives(newcomer: str) -> None:
            told.arrived[newcomer] = Seen(platform.state(), platform.changes(), doubles(platform))

        announce(FIRST)
        struck(FIRST, 1, "an engine killed soon", lambda _running: os.kill(engine(platform), signal.SIGKILL))
        struck(FIRST, 2, "a killed database", killing("postgres"))
        struck(FIRST, 1, "a second up", lambda _running: told.refused.append(platform.run("up")))
        arrives(FIRST)
        announce(SECOND)
        struck(
            SECOND, 8, "an engine killed later", lambda _running: os.kill(engine(platform), signal.SIGKILL)
        )
        struck(SECOND, 2, "a killed API server", killing("kube-apiserver"))
        struck(SECOND, 3, "Ctrl-C", lambda running: os.killpg(running.pid, signal.SIGINT))
        platform.up()
        arrives(SECOND)
        edit(lambda _tenants: None)
        platform.up()
        told.left = set(platform.state())
        yield told


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


def test_an_update_that_is_cut_off_fails(story: Story) -> None:
    for by in ("an engine killed soon", "an engine killed later", "Ctrl-C"):
        assert story.statuses[by] != 0, by


@pytest.mark.parametrize("newcomer", [FIRST, SECOND])
def test_wherever_it_is_cut_off_the_next_updates_complete_it(story: Story, newcomer: str) -> None:
    seen = story.arrived[newcomer]
    new = set(seen.state) - story.sample
    assert story.sample < set(seen.state)
    assert all(newcomer in urn for urn in new)
    assert sum(seen.state[urn]["type"] == "agent-platform:tenants:Tenant" for urn in new) == 1
    assert seen.changes == {}
    assert seen.doubles == []


def test_a_second_up_while_one_runs_is_told_so(story: Story) -> None:
    (refused,) = story.refused
    assert refused.returncode == 1
    assert "another command" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert story.statuses["a second up"] == 0


def test_no_server_has_anything_left_of_those_that_came_and_went(platform: Platform, story: Story) -> None:
    assert story.left == story.sample
    for gone in (FIRST, SECOND):
        assert traces(platform, gone) == []


def test_a_killed_node_agent_leaves_machines_as_they_are(platform: Platform) -> None:
    kill_server(platform, "node-agent")
    platform.start_servers()

    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        states = [tenant["status"] for tenant in platform.status()["tenants"]]
        if set(states) == {"Running", "Available"}:
            return
        time.sleep(1)
    raise AssertionError(states)
