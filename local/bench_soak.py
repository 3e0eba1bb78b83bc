"""Twenty tenants do harm while updates run: the soak (`local.soak`), in a checkout that is thrown away."""

import json
import os
import secrets
import subprocess
import sys

from rich.console import Console
from rich.table import Table

from local import scratch, soak
from local.errors import LocalError
from local.soak.figures import Soaked

_SECONDS = 600


def measure(console: Console) -> Soaked:
    """Carry it out; raises LocalError if it could not be.

    SOAK_SECONDS is how long harm is done, or until the updates are through; SOAK_SEED is what draws it.
    """
    seed = os.environ.get("SOAK_SEED") or str(secrets.randbits(32))
    seconds = os.environ.get("SOAK_SECONDS") or str(_SECONDS)
    console.print(f"soak: seed {seed}, harm for {seconds} s (SOAK_SEED, SOAK_SECONDS)")
    environment = scratch.environment("reported") | {"SOAK_SEED": seed, "SOAK_SECONDS": seconds}
    with scratch.checkout() as root:
        try:
            done = subprocess.run(
                [sys.executable, "-m", soak.__name__],
                cwd=root,
                env=environment,
                stdout=subprocess.PIPE,
                check=False,
            )
        finally:
            down = [sys.executable, "-m", "local", "down", "--delete-data"]
            subprocess.run(down, cwd=root, env=environment, check=False)
    if done.returncode:
        raise LocalError(f"soak: it could not be carried out (seed {seed}): see above.")
    found: Soaked = json.loads(done.stdout)
    return found


def table(found: Soaked) -> Table:
    """The witnesses' work, by kind."""
    columns = ("work of others", "pieces", "failed", "p95 without harm", "p95 with it")
    shown = Table(*columns, title="Beside the soak")
    for kind, done in found["work"].items():
        quiet, loud = f"{1000 * done['quiet']:.0f} ms", f"{1000 * done['loud']:.0f} ms"
        shown.add_row(kind, str(done["pieces"]), str(done["failed"]), quiet, loud)
    return shown
