"""`make review` whole: the real engine over two trees of a repository of its own, planned from nothing."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from local.scratch import copy_checkout
from review.model import Plan
from tests.integration.conftest import ROOT

pytestmark = pytest.mark.integration

UMBRELLA = """
  - id: umbrella
    name: Umbrella | <b>Research</b>
    tier: professional
    owner: platform@umbrella.example
"""


@dataclass(frozen=True)
class Checkout:
    """A repository whose `main` is this checkout."""

    root: Path
    data: Path

    def git(self, *command: str) -> str:
        who = ["-c", "user.name=t", "-c", "user.email=t@t"]
        return subprocess.run(
            ["git", "-C", str(self.root), *who, *command], capture_output=True, text=True, check=True
        ).stdout

    def edit(self, path: str, change: Callable[[str], str]) -> None:
        file = self.root / path
        before = file.read_text(encoding="utf-8")
        file.write_text(change(before), encoding="utf-8")
        assert file.read_text(encoding="utf-8") != before

    def review(self, base: str = "main", stack: str = "prod") -> "subprocess.CompletedProcess[str]":
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PULUMI_")}
        return subprocess.run(
            [sys.executable, "-m", "review", "--base", base, "--stack", stack],
            cwd=self.root,
            env=clean | {"AGENT_PLATFORM_DATA": str(self.data), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    def written(self) -> tuple[str, dict[str, Any]]:
        folder = self.data / "review"
        return (folder / "review.md").read_text(encoding="utf-8"), json.loads(
            (folder / "review.json").read_text(encoding="utf-8")
        )

    def state(self) -> str:
        """What of the repository a review must leave as it is."""
        return self.git("status", "--porcelain") + self.git("for-each-ref") + self.git("worktree", "list")


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    root = tmp_path / "checkout"
    root.mkdir()
    copy_checkout(root)
    made = Checkout(root, tmp_path / "data")
    made.git("init", "-q", "-b", "main")
    made.git("add", "--all")
    made.git("commit", "-q", "-m", "main")
    return made


def refusal(checkout: Checkout, done: "subprocess.CompletedProcess[str]") -> str:
    """The one message of a review that was refused, told the same everywhere."""
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    page, data = checkout.written()
    assert "Who must approve" not in page
    assert data["passes"] is False
    [problem] = data["problems"]
    assert done.stderr.count(f"error: {problem}") == 1
    assert problem.splitlines()[0] in page
    return str(problem)


def test_a_change_set_is_told_per_tenant_and_leaves_the_repository_as_it_is(checkout: Checkout) -> None:
    checkout.edit("tenants.yaml", lambda text: text.rstrip() + "\n" + UMBRELLA)
    leaves = "    state: offboarding\n    offboarding:\n      backup: final\n"
    owner = "    owner: platform@acme.example\n"
    checkout.edit("tenants.yaml", lambda text: text.replace(owner, owner + leaves))
    checkout.edit("Pulumi.prod.yaml", lambda text: text.replace("        size: 3\n", "        size: 4\n"))
    before = checkout.state()
    done = checkout.review()
    page, data = checkout.written()
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(checkout.data / f"review/review.{kind}") for kind in ("md", "json")]
    assert checkout.state() == before
    assert {tenant["id"]: tenant["fate"] for tenant in data["tenants"]} == {
        "acme": "offboarding",
        "umbrella": "added",
    }
    umbrella = next(tenant for tenant in data["tenants"] if tenant["id"] == "umbrella")
    assert umbrella["counts"].keys() == {"create"}
    assert (umbrella["cost_before"], umbrella["cost_after"] > 0) == (0, True)
    [nodes] = data["cluster"]
    assert [(item["path"], item["before"], item["after"]) for item in nodes["properties"]] == [
        ("size", "3", "4")
    ]
    assert data["cost"]["after"] > data["cost"]["before"]
    assert {approval["person"] or approval["approver"] for approval in data["approvals"]} == {
        "platform@acme.example",
        "the platform team",
    }
    assert "`Umbrella \\| <b>Research</b>`" in page


def test_a_preview_that_fails_half_way_is_one_message(checkout: Checkout) -> None:
    stop = '        if entry.id == "corvus":\n            raise pulumi.RunError("half way")\n'
    first = '        super().__init__("agent-platform:tenants:Tenant"'
    checkout.edit("infra/tenants/tenant.py", lambda text: text.replace(first, stop + first))
    told = refusal(checkout, checkout.review())
    assert told == "the preview failed. Nothing was changed.\nerror: half way"


def test_a_broken_roster_is_one_message(checkout: Checkout) -> None:
    checkout.edit("tenants.yaml", lambda _: "tenants: []\nsurprise: 1\n")
    assert "`surprise` is no key" in refusal(checkout, checkout.review())


def test_a_tree_of_another_kind_is_one_message(tmp_path: Path) -> None:
    package = tmp_path / "tree/infra/tenants"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "tiers.py").write_text("TIERS = {}\n")
    (package / "roster.py").write_text("def load_roster(path): return ()\n")
    tree, out = str(tmp_path / "tree"), tmp_path / "plan.json"
    command = [sys.executable, "-m", "review.plan", tree, str(out), "--stack", "prod", "--plugins", "any"]
    subprocess.run(command, cwd=ROOT, check=True)
    assert Plan.read(out).error.startswith("its roster and tiers cannot be read (AttributeError: ")


def test_an_id_that_the_base_has_got_meanwhile_is_the_rosters_refusal(checkout: Checkout) -> None:
    checkout.git("switch", "-q", "-c", "change")
    checkout.edit("tenants.yaml", lambda text: text.replace("tenants:\n", f"tenants:{UMBRELLA}\n", 1))
    checkout.git("commit", "-q", "-a", "-m", "ours")
    checkout.git("switch", "-q", "main")
    checkout.edit("tenants.yaml", lambda text: text.rstrip() + "\n" + UMBRELLA)
    checkout.git("commit", "-q", "-a", "-m", "theirs")
    checkout.git("switch", "-q", "change")
    assert "umbrella: the id stands in line" in refusal(checkout, checkout.review())


@pytest.mark.parametrize(
    ("base", "stack", "told"),
    [
        ("no-such-ref", "prod", "git knows no such commit"),
        ("main", "nowhere", "There is no Pulumi.nowhere.yaml"),
    ],
)
def test_a_base_or_a_stack_that_does_not_exist_is_one_message(
    checkout: Checkout, base: str, stack: str, told: str
) -> None:
    assert told in refusal(checkout, checkout.review(base, stack))
