"""Retired tenants that a stack still has, and the options by which Pulumi removes them alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from infra.tenants.retired import part_of

_TENANT = "agent-platform:tenants:Tenant"
_STACK = "urn:pulumi:prod::agent-platform::"


def export(*names: str) -> str:
    urns = [f"{_STACK}pulumi:pulumi:Stack::agent-platform-prod"]
    urns += [f"{_STACK}{_TENANT}{'$x:y:Z' if '-' in name else ''}::{name}" for name in names]
    return json.dumps({"version": 3, "deployment": {"resources": [{"urn": urn} for urn in urns]}})


def options(told: str, *, retired: str, folder: Path) -> subprocess.CompletedProcess[str]:
    roster = folder / "tenants.yaml"
    roster.write_text(f"tenants: []\nretired: [{retired}]\n")
    command = [sys.executable, "-m", "infra.tenants.retired", str(roster)]
    return subprocess.run(command, input=told, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("urn", "part"),
    [
        (f"{_TENANT}::acme", ("acme", "")),
        (f"{_TENANT}$x:y:Z::acme-first-part", ("acme", "first-part")),
        (f"{_TENANT}$a:b:C$x:y:Z::acme-part", ("acme", "part")),
        ("agent-platform:platform:Platform$x:y:Z::acme-part", None),
    ],
)
def test_a_resource_is_of_the_tenant_below_which_it_is_declared(
    urn: str, part: tuple[str, str] | None
) -> None:
    assert part_of(_STACK + urn) == part


def test_each_retired_tenant_is_a_line_that_names_its_resources_alone(tmp_path: Path) -> None:
    """An id that begins like another's, or like the project, takes nothing else along."""
    told = export("agent", "agent-role", "agents", "agents-role", "acme", "acme-role", "leaver-role")

    done = options(told, retired="agent, leaver, gone", folder=tmp_path)

    of = f"--target {_STACK}{_TENANT}"
    assert done.stdout.splitlines() == [
        f"{of}::agent {of}$x:y:Z::agent-role",
        f"{of}$x:y:Z::leaver-role",
    ]


@pytest.mark.parametrize("told", ["", "error: no stack named 'prod' found", "{}", "[]", '{"deployment": 1}'])
def test_what_is_no_export_is_told_and_removes_nobody(told: str, tmp_path: Path) -> None:
    done = options(told, retired="agent", folder=tmp_path)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: what was read is no export of a stack")


def test_a_stack_without_resources_has_nobody_left(tmp_path: Path) -> None:
    done = options('{"deployment": {}}', retired="agent", folder=tmp_path)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
