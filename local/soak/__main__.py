"""The soak itself, in the checkout that is thrown away: what came of it is printed as JSON."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError
from rich.console import Console

from infra.tenants import receipt
from local import consoles, credentials, engine
from local.attack.attempt import Attempt
from local.attack.awake import awake
from local.attack.campaign import Report
from local.attack.object_storage import client
from local.attack.tenants import Tenant
from local.errors import LocalError
from local.paths import ROOT
from local.soak import cast, figures, rounds, witness
from local.soak.attackers import Attackers


def main() -> None:
    """Carry it out."""
    console = consoles.console(stderr=True)
    seed, seconds = int(os.environ["SOAK_SEED"]), float(os.environ["SOAK_SECONDS"])
    begun = rounds.begin(console)
    if begun.failure:
        raise LocalError(f"soak: the platform did not come up, so nothing was tried:\n{begun.failure}")
    with _witnesses() as work:
        quiet = rounds.carry_out(1, lambda _guests: None, console)
        attempts, loud = _attacked(seed, seconds, console)
    updates = [*quiet.updates, *loud.updates]
    console.print(Report(attempts).table())
    found: figures.Soaked = {
        "updates": [{"name": each.name, "failure": each.failure} for each in updates],
        "receipts": _receipts([*cast.guests(1), *cast.guests(2)]),
        "attempts": len(attempts),
        "findings": Report(attempts).findings(),
        "denied": sum(attempt.outcome == "denied" for attempt in attempts),
        "leaked": sum(attempt.outcome == "leaked" for attempt in attempts),
        "left": _left(),
        "work": figures.work(_pieces(work), (quiet.began, quiet.ended), (loud.began, loud.ended)),
    }
    sys.stdout.write(json.dumps(found))


def _attacked(seed: int, seconds: float, console: Console) -> tuple[Sequence[Attempt], rounds.Round]:
    """One round while harm is done, which goes on until it has lasted as long as it should."""
    known = engine.tenants(engine.LOCAL_STACK)
    machines = [Tenant(summary) for summary in known if summary["id"] in cast.ATTACKERS]
    attackers = Attackers(seed, console)
    with awake(machines, console):
        attackers.begin()
        began = time.monotonic()
        try:
            loud = rounds.carry_out(2, attackers.receive, console)
            time.sleep(max(0.0, began + seconds - time.monotonic()))
        finally:
            attackers.end()
    return attackers.attempts, loud


@contextmanager
def _witnesses() -> Iterator[Path]:
    """Have the witnesses work meanwhile; gives the file with what they tell."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "work"
        with told.open("wb") as file:
            working = subprocess.Popen([sys.executable, "-m", witness.__name__], cwd=ROOT, stdout=file)
        try:
            yield told
        finally:
            working.terminate()
            working.wait()


def _pieces(told: Path) -> list[witness.Piece]:
    # The last line may have been cut off.
    lines = told.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _receipts(removed: Sequence[str]) -> dict[str, str]:
    """What is wrong with the receipt of each that was removed; nothing, if it is as it should be."""
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
    """What an update would still change, or why that is not known; nothing, if nothing."""
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
