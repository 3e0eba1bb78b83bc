"""A checkout to throw away, with servers of its own: what a test or a bench brings a platform up in."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from local.paths import ROOT

_FOREIGN = (
    *("AGENT_PLATFORM_DATA", "PYTHONDONTWRITEBYTECODE"),
    *("PULUMI_", "EXOSCALE_", "VAULT_", "PG", "AWS_", "KUBECONFIG"),
)


@contextmanager
def checkout() -> Iterator[Path]:
    """A copy of this work tree in a folder of its own, which is removed at the end."""
    root = Path(tempfile.mkdtemp(prefix="agent-platform-"))
    # The servers that run as another user read programs below it.
    root.chmod(0o755)
    try:
        copy_checkout(root)
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def copy_checkout(target: Path) -> None:
    """Copy the files of a fresh clone, with the uncommitted changes of this work tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def run_module(root: Path, variables: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m ARGUMENTS` in a checkout; what it prints is kept, errors go where ours go."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=root,
        env=dict(variables),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )


def environment(guests: str) -> dict[str, str]:
    """The caller's, without what would move the platform or stand in for its servers."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return inherited | {"AGENT_PLATFORM_GUESTS": guests}
