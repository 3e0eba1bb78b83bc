"""The commands of the operators' pages run on the platform as they stand, and print what the pages say."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.servers import postgres
from tests.integration.conftest import Platform
from tests.integration.machines import wait_for
from tests.runbooks import KINDS, PAGES, Command, commands

pytestmark = pytest.mark.integration

ELSEWHERE = ("cert-manager.io", "postgresql.cnpg.io")
"""Groups whose charts the embedded platform does not install."""
TRIED = list(dict.fromkeys(command for page in PAGES for command in commands(page) if command.tried))


@pytest.fixture(scope="module")
def shell(platform: Platform) -> Iterator[dict[str, str]]:
    """A shell's variables after `eval "$(make env)"`, in a checkout whose packages are installed."""
    wait_for(platform, "acme", "Running")
    deadline = time.monotonic() + 150
    while platform.run("costs").returncode:
        # Of a platform that has just come up nothing is counted yet.
        assert time.monotonic() < deadline
        time.sleep(2)
    packages = platform.root / ".venv"
    packages.mkdir()
    for path in Path(sys.prefix).iterdir():
        if path.name != ".ready":
            (packages / path.name).symlink_to(path)
    (packages / ".ready").touch()
    programs = os.pathsep.join(map(str, (packages / "bin", postgres.BIN)))
    yield {**platform.exports(), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    shutil.rmtree(packages)


def run(platform: Platform, shell: dict[str, str], text: str) -> str:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", text],
        cwd=platform.root,
        env=shell,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{text}\n{done.stderr}"
    return done.stdout


def shows(output: str, line: str) -> bool:
    """Whether the output has such a line; `…` stands for anything, and a gap may have any width."""
    parts = (r"\s+".join(map(re.escape, part.split())) for part in line.split("…"))
    return re.search(r".*?".join(parts), output, re.DOTALL) is not None


@pytest.mark.parametrize("command", TRIED, ids=str)
def test_a_command_prints_what_its_page_says(
    platform: Platform, shell: dict[str, str], command: Command
) -> None:
    output = run(platform, shell, command.text)
    missing = [line for line in command.output if not shows(output, line)]
    assert not missing, f"{missing} is not in\n{output}"


def test_the_server_has_every_kind_that_a_page_names(platform: Platform, shell: dict[str, str]) -> None:
    here = [kind for kind in KINDS if not kind.endswith(ELSEWHERE)]
    assert len(here) > 20
    run(platform, shell, f"kubectl get --all-namespaces --ignore-not-found --output=name {','.join(here)}")


def test_kubectl_sorts_no_list_of_several_kinds(platform: Platform, shell: dict[str, str]) -> None:
    """Why `tests/infra` lets no page do it."""
    with pytest.raises(AssertionError, match="couldn't find any field"):
        run(platform, shell, "kubectl -n tenant-acme get vm,vmi,events --sort-by=.lastTimestamp")
