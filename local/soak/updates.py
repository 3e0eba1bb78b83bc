"""The updates: each is `up` in a process of its own, on a roster that was written for it."""

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import boto3
import psycopg
import yaml
from hvac.exceptions import VaultError  # type: ignore[import-untyped]
from rich.console import Console

from infra.tenants import migrations
from local import engine
from local.attack.campaign import HARMED
from local.attack.object_storage import client
from local.attack.postgres import connect
from local.attack.tenants import Tenant
from local.paths import ROOT
from local.soak import cast

_STEPS = ROOT / "infra" / "tenants" / "migrations" / "versions"
_STEP = '''"""A step for every schema."""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{before}"


def upgrade() -> None:
    """Add a column, and an index on a table that everybody writes to."""
    op.add_column("agents", sa.Column("soak_{revision}", sa.Text), if_not_exists=True)
    op.create_index("soak_{revision}", "execution_logs", ["status", "started_at"], if_not_exists=True)
'''
_TOLD = 15
"""As many of an update's last lines are kept if it fails."""
_LONGEST = 1500.0
_LOWER = 10
"""An update's priority is this much below the servers': in production its engine runs elsewhere."""


@dataclass(frozen=True)
class Update:
    """One update, as it ended."""

    name: str
    began: float
    """In seconds since the epoch."""
    ended: float
    failure: str
    """Empty if it ended well."""


class Updates:
    """The updates, one after the other, and what came of each."""

    def __init__(self, console: Console) -> None:
        """Nobody is there yet."""
        self.done: list[Update] = []
        self._reached: dict[cast.Party, cast.Stage] = {}
        self._settled: dict[cast.Party, ExitStack] = {}
        self._console = console

    def begin(self) -> Update:
        """Bring up everybody who stays."""
        # It starts the servers, which keep the priority that they are started with.
        return self._up("the first", priority=0)

    def go_on(self, party: cast.Party, stage: cast.Stage) -> Update:
        """Have a party go on to a stage; for a migration, everybody does.

        When they leave, each has rows, a secret and an object, and has left what is hard to remove.
        """
        if stage == "migrate":
            _write_step()
        if stage == "offboard" and not any(update.failure for update in self.done):
            self._settled[party] = _settled(guests(party))
        self._reached[party] = stage
        update = self._up(f"{stage}, {party}", priority=_LOWER)
        if stage == "remove" and party in self._settled:
            # What each would take back is gone with the tenant.
            with suppress(psycopg.Error, VaultError):
                self._settled[party].close()
        self.done.append(update)
        return update

    def _up(self, name: str, priority: int) -> Update:
        roster = yaml.safe_dump(cast.roster(self._reached), sort_keys=False)
        (ROOT / "tenants.yaml").write_text(roster, encoding="utf-8")
        began = time.time()
        output, failed = _run(priority)
        update = Update(name, began, time.time(), "\n".join(output.splitlines()[-_TOLD:]) if failed else "")
        outcome = "failed" if failed else "well"
        self._console.print(f"update ({name}): {outcome} after {update.ended - began:.0f} s")
        return update


def _run(priority: int) -> tuple[str, bool]:
    """Run `up`, its priority lowered by `priority`; return its output and whether it failed."""
    try:
        done = subprocess.run(
            ["nice", f"--adjustment={priority}", sys.executable, "-m", "local", "up"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_LONGEST,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return f"not over after {late.timeout:.0f} s", True
    return done.stdout, done.returncode != 0


def _write_step() -> None:
    before = max(path.name.partition("_")[0] for path in _STEPS.glob("[0-9]*.py"))
    revision = f"{int(before) + 1:0{len(before)}}"
    (_STEPS / f"{revision}_soak.py").write_text(
        _STEP.format(revision=revision, before=before), encoding="utf-8"
    )
    # The harm of this process takes a victim's steps, too.
    migrations.head.cache_clear()


def guests(party: cast.Party) -> list[Tenant]:
    """A party as the last update declared it, each let in to Vault."""
    ids = cast.guests(party)
    found = [Tenant(known) for known in engine.tenants(engine.LOCAL_STACK) if known["id"] in ids]
    for guest in found:
        _ = guest.vault
    return found


def _settled(guests: Sequence[Tenant]) -> ExitStack:
    """Have them leave things behind, and leave what is hard to remove until the block ends."""
    for guest in guests:
        with connect(guest.database, *guest.login) as connection:
            connection.execute("INSERT INTO agents (name, model) VALUES ('leaving', 'soak')")
        guest.vault.secrets.kv.v2.create_or_update_secret(
            f"{guest.id}/own", {"a": "b"}, mount_point="tenants"
        )
        storage = client(boto3.Session(), guest.key["access_key"], guest.key["secret_key"])
        storage.put_object(Bucket=guest.key["bucket"], Key=f"{guest.prefix}left", Body=b"left")
    stack = ExitStack()
    for entered in HARMED.values():
        harmed = stack.enter_context(entered(guests))
        for harm in (each for each in harmed.harms if each.kind == "cannot be removed"):
            for own, victim in zip(guests, [*guests[1:], *guests[:1]], strict=True):
                stack.enter_context(harm.done(harmed.sessions[own], own, victim))
    return stack
