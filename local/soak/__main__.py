"""The soak itself, in the checkout that is thrown away: what came of it is printed as JSON."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.exceptions import ClientError

from infra.tenants import receipt
from local import consoles, credentials, engine
from local.attack.awake import awake
from local.attack.campaign import Report
from local.attack.object_storage import client
from local.attack.tenants import Tenant
from local.errors import LocalError
from local.paths import ROOT
from local.soak import cast, figures, witness
from local.soak.attackers import Attackers
from local.soak.updates import Updates, guests


def main() -> None:
    """Carry it out."""
    console = consoles.console(stderr=True)
    seed, seconds = int(os.environ["SOAK_SEED"]), float(os.environ["SOAK_SECONDS"])
    updates, attackers = Updates(console), Attackers(seed, console)
    begun = updates.begin()
    if begun.failure:
        raise LocalError(f"soak: the platform did not come up, so nothing was tried:\n{begun.failure}")
    known = engine.tenants(engine.LOCAL_STACK)
    machines = [Tenant(summary) for summary in known if summary["id"] in cast.ATTACKERS]
    with awake(machines, console), _witnesses() as pieces:
        quiet, loud = _stages(updates, attackers, seconds)
    report = Report(attackers.attempts)
    console.print(report.table())
    found: figures.Soaked = {
        "updates": [{"name": each.name, "failure": each.failure} for each in updates.done],
        "receipts": _receipts([*cast.guests("quiet"), *cast.guests("loud")]),
        "attempts": len(report.attempts),
        "denied": sum(attempt.outcome == "denied" for attempt in report.attempts),
        "leaked": sum(attempt.outcome == "leaked" for attempt in report.attempts),
        "findings": report.findings(),
        "left": _left(),
        "work": figures.work(pieces, quiet, loud),
    }
    sys.stdout.write(json.dumps(found))


def _stages(
    updates: Updates, attackers: Attackers, seconds: float
) -> tuple[list[figures.Window], list[figures.Window]]:
    """Have both parties go through all stages; when updates ran without harm, and when with it.

    They take turns, so that what else the machine has to do falls on both alike. Harm is done for `seconds`
    in all, at the end without an update.
    """
    quiet, loud, harm = [], [], 0.0
    for stage in cast.STAGES:
        update = updates.go_on("quiet", stage)
        quiet.append((update.began, update.ended))
        # Who comes or goes cannot be logged in as.
        attackers.guests = guests("loud") if stage in ("migrate", "move") else []
        with attackers.at_work():
            began = time.monotonic()
            update = updates.go_on("loud", stage)
            loud.append((update.began, update.ended))
            harm += time.monotonic() - began
            if stage == cast.STAGES[-1]:
                time.sleep(max(0.0, seconds - harm))
    return quiet, figures.without(loud, attackers.entering)


@contextmanager
def _witnesses() -> Iterator[list[witness.Piece]]:
    """Have the witnesses work meanwhile; what they did is there in the end."""
    pieces: list[witness.Piece] = []
    with tempfile.TemporaryFile() as told:
        working = subprocess.Popen([sys.executable, "-m", witness.__name__], cwd=ROOT, stdout=told)
        try:
            yield pieces
        finally:
            working.terminate()
            working.wait()
            told.seek(0)
            # The last line may have been cut off.
            pieces.extend(json.loads(line) for line in told if line.endswith(b"\n"))


def _receipts(removed: Sequence[str]) -> dict[str, str]:
    """Return the fault of each removed tenant's receipt; empty for a good one."""
    key, secret = credentials.secret("exoscale-api-key"), credentials.secret("exoscale-api-secret")
    storage = client(boto3.Session(), key, secret)
    logs = next(each["Name"] for each in storage.list_buckets()["Buckets"] if "logs" in each["Name"])
    return {tenant: _wrong(storage, logs, tenant) for tenant in removed}


def _wrong(storage: Any, logs: str, tenant: str) -> str:
    try:
        held = json.loads(storage.get_object(Bucket=logs, Key=receipt.key(tenant))["Body"].read())
    except ClientError as error:
        return f"there is none: {error}"
    left = [place for place in held["places"] if place["found"] != "nothing"]
    return f"something is left: {left}" if left or not held["places"] else ""


def _left() -> str:
    """Return the changes that a preview shows, or its error; empty if there is none."""
    preview = [sys.executable, "-m", "local", "preview", "--json"]
    done = subprocess.run(preview, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return done.stderr.strip()
    counts: dict[str, int] = json.loads(done.stdout)["changes"]
    return ", ".join(f"{count} {step}" for step, count in counts.items() if count and step != "same")


if __name__ == "__main__":
    try:
        main()
    except LocalError as error:
        sys.exit(str(error))
