"""Copies of the stack's state in the backups bucket, made and read as in production (`restore.state`)."""

import json
import os
import subprocess
import sys
from typing import Any

from pulumi import automation as auto

from local import engine
from local.errors import LocalError
from local.paths import ROOT
from local.servers import object_storage


def keep() -> None:
    """Keep a copy of the state as it is now. Raises LocalError."""
    _run("keep", given=json.dumps(engine.exported(engine.LOCAL_STACK)))


def bring_back(selected: auto.Stack) -> None:
    """Have the stack take the last copy, but for the objects of a cluster that is gone. Raises LocalError."""
    found: dict[str, Any] = json.loads(_run("fetch", "--cluster-lost"))
    try:
        selected.import_stack(auto.Deployment(found["version"], found["deployment"]))
    except auto.CommandError as error:
        raise LocalError(
            f"the copy of the state cannot be taken: {str(error).rpartition('error: ')[2].strip()}"
        ) from None


def _run(action: str, *options: str, given: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-m", "restore.state", action, "--stack", engine.LOCAL_STACK, *options],
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
