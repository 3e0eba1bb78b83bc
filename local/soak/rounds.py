"""The updates: each is `up` in a process of its own, on a roster that was written for it."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import boto3
import psycopg
import yaml
from hvac.exceptions import VaultError  # type: ignore[import-untyped]
from rich.console import Console

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


@dataclass(frozen=True)
class Update:
    """One update, as it ended."""

    name: str
    seconds: float
    failure: str
    """Empty if it ended well."""


@dataclass(frozen=True)
class Round:
    """The updates of a round, and when the first began and the last ended."""

    updates: Sequence[Update]
    began: float
    ended: float


def begin(console: Console) -> Update:
    """Bring up everybody who stays."""
    return _update("the first", cast.roster(1, None), console)


def carry_out(turn: int, told: Callable[[Sequence[Tenant]], None], console: Console) -> Round:
    """Have five tenants come, move and leave, and everybody migrate; `told` gets those who are there.

    When they leave, each has rows, a secret and an object, and has left what is hard to remove.
    """
    began, updates = time.time(), []
    with ExitStack() as stack:
        for stage in cast.STAGES:
            if stage == "migrate":
                _write_step(turn)
            if stage == "offboard":
                told([])
                stack.enter_context(_settled(_guests(turn)))
            updates.append(_update(f"{stage} {turn}", cast.roster(turn, stage), console))
            if stage in ("add", "move"):
                told(_guests(turn))
    return Round(updates, began, time.time())


def _update(name: str, roster: dict[str, object], console: Console) -> Update:
    (ROOT / "tenants.yaml").write_text(yaml.safe_dump(roster, sort_keys=False), encoding="utf-8")
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "local", "up"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_LONGEST,
            check=False,
        )
        failed, output = done.returncode != 0, done.stdout
    except subprocess.TimeoutExpired as late:
        failed, output = True, f"not over after {late.timeout:.0f} s"
    seconds = time.monotonic() - began
    console.print(f"update {name}: {'failed' if failed else 'well'} after {seconds:.0f} s")
    return Update(name, seconds, "\n".join(output.splitlines()[-_TOLD:]) if failed else "")


def _write_step(turn: int) -> None:
    before = max(path.name.partition("_")[0] for path in _STEPS.glob("[0-9]*.py"))
    revision = f"{int(before) + 1:0{len(before)}}"
    (_STEPS / f"{revision}_soak_{turn}.py").write_text(
        _STEP.format(revision=revision, before=before), encoding="utf-8"
    )


def _guests(turn: int) -> list[Tenant]:
    """Those of a round, as the last update declared them, each let in to Vault."""
    ids = cast.guests(turn)
    found = [Tenant(known) for known in engine.tenants(engine.LOCAL_STACK) if known["id"] in ids]
    for guest in found:
        _ = guest.vault
    return found


@contextmanager
def _settled(guests: Sequence[Tenant]) -> Iterator[None]:
    """Have them leave things behind, and leave what is hard to remove where it is until they are removed."""
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
    try:
        yield
    finally:
        # What each would take back is gone with the tenant.
        with suppress(psycopg.Error, VaultError):
            stack.close()
