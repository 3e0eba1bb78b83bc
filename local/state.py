"""Copies of the stack's state in the backups bucket, made and read as in production (`restore.state`)."""

import json
import os
import subprocess
import sys
from typing import Any

from local import engine
from local.errors import LocalError
from local.paths import ROOT
from local.servers import object_storage


def keep() -> None:
    """Keep a copy of the state as it is now. Raises LocalError."""
    _run("keep", json.dumps(engine.exported(engine.LOCAL_STACK)))


def last() -> dict[str, Any]:
    """Return the last copy. Raises LocalError."""
    found: dict[str, Any] = json.loads(_run("fetch"))
    return found


def _run(action: str, given: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-m", "restore.state", action, "--stack", engine.LOCAL_STACK],
        cwd=ROOT,
        env={**os.environ, **object_storage.environment()},
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise LocalError(f"the copy of the state: {done.stderr.strip().removeprefix('error: ')}")
    return done.stdout
