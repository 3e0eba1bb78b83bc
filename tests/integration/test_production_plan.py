"""`make preview STACK=prod` shows the whole production plan, with no server and no network."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from local import scratch
from tests.integration.conftest import ROOT, Platform

pytestmark = pytest.mark.integration


def test_the_production_plan_needs_neither_server_nor_network() -> None:
    with scratch.checkout() as root:
        planned = _offline(root)
        started = list((root / ".local/run").glob("*.json"))

    told = planned.stdout + planned.stderr
    assert planned.returncode == 0, told
    tenants = yaml.safe_load((ROOT / "tenants.yaml").read_text(encoding="utf-8"))["tenants"]
    for expected in (
        "exoscale:index:SksCluster",
        "exoscale:index:SksNodepool",
        "kubernetes:helm.sh/v3:Release",
        "vault:index:Policy",
        "postgresql:index:Schema",
        *(tenant["id"] for tenant in tenants),
    ):
        assert expected in told
    assert "0 delete" in told
    assert not started


def _offline(root: Path) -> subprocess.CompletedProcess[str]:
    """Run it in a network namespace of its own with loopback only, where this user may make one."""
    command = [sys.executable, "-m", "local", "preview", "--stack", "prod"]
    isolated = [
        "unshare",
        "--net",
        "--map-root-user",
        "sh",
        "-c",
        'ip link set lo up 2>/dev/null; exec "$@"',
        "sh",
    ]
    allowed = (
        shutil.which("unshare")
        and not subprocess.run(
            ["unshare", "--net", "--map-root-user", "true"], check=False, capture_output=True
        ).returncode
    )
    return subprocess.run(
        [*(isolated if allowed else []), *command],
        cwd=root,
        env=Platform(root).environment(),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
