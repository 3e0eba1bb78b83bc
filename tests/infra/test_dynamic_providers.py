"""The modules that Pulumi's host for dynamic resources imports, which every update waits for."""

import subprocess
import sys
from pathlib import Path

from tests.infra.recording import ROOT

HEAVY = {
    "pulumi_kubernetes",
    "pulumi_postgresql",
    "pulumi_vault",
    "pulumiverse_exoscale",
    "alembic",
    "sqlalchemy",
}


def test_they_import_no_cloud_sdk() -> None:
    """It takes seconds to import one, and no provider of ours needs it."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in Path(ROOT / "infra").rglob("*.py")
        if "(ResourceProvider):" in path.read_text()
    ]
    assert "infra.tenants.migration" in modules

    program = f"import sys, {', '.join(modules)}; print(*sys.modules, sep='\\n')"
    imported = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()

    assert not HEAVY & set(imported)
