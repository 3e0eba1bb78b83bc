"""Bring back what a tenant had at a time: plan it, ask, do it, and compare.

The environment says where the servers are: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for
object storage; for a database also libpq's variables, for secrets VAULT_ADDR, VAULT_TOKEN and VAULT_CACERT.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
from botocore.exceptions import BotoCoreError, ClientError
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from infra.tenants import receipt
from restore import storage
from restore.database import Database
from restore.errors import RestoreError
from restore.objects import Objects
from restore.source import Plan, Source

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_ID = re.compile(r"[a-z][a-z0-9]{2,30}")
_SHOWN = 40
"""Changes of a plan that are shown one by one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; what goes wrong is one message on standard error."""
    parser = argparse.ArgumentParser(prog="python -m restore", description=__doc__)
    parser.add_argument("tenant", help="its id")
    parser.add_argument("what", choices=("database", "objects", "secrets"))
    parser.add_argument("--at", required=True, metavar="TIME", help="such as 2026-11-28T10:00Z")
    parser.add_argument("--stack", default="prod", help="the stack whose Pulumi.STACK.yaml names the buckets")
    parser.add_argument("--recovered", metavar="HOST:PORT", help="a PostgreSQL recovered to that time")
    parser.add_argument("--plan", action="store_true", help="only plan")
    parser.add_argument("--yes", metavar="TENANT", help="do not ask; the tenant's id once more")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 150)
    try:
        return _restore(options, console)
    except (RestoreError, RuntimeError, OSError, psycopg.Error, BotoCoreError, ClientError) as error:
        sys.stderr.write(f"error: {_plain(str(error))}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted. Run the same command again: it goes on from there.\n")
        return 130


def _restore(options: argparse.Namespace, console: Console) -> int:
    if not _ID.fullmatch(options.tenant):
        raise RestoreError(f"{options.tenant!r} is no tenant's id, so nothing was changed.")
    at = _time(options.at)
    buckets = storage.buckets(options.stack)
    client = storage.client()
    _refuse_gone(options.tenant, client, buckets["logsBucket"])
    source = _source(options, at, client, buckets)
    begun = time.monotonic()
    plan = source.plan()
    _print(plan, options, at, console)
    if not plan.changes:
        kept = "differs by what cannot come back" if plan.lost else "is as it was then"
        console.print(f"{options.tenant}: its {options.what} {kept}; nothing was changed.")
        return int(bool(plan.lost))
    if options.plan:
        return 0
    _ask(options, console)
    # Somebody may have thought for long.
    plan = source.plan()
    console.print(source.prepare(plan))
    source.apply(plan)
    differences = source.differences()
    for difference in differences:
        sys.stderr.write(f"error: {_plain(difference)}\n")
    console.print(
        f"{options.tenant}: its {options.what} is back as of {at:%Y-%m-%dT%H:%M:%SZ}, "
        f"{len(differences)} differences, after {time.monotonic() - begun:.1f} s"
    )
    return int(bool(differences))


def _source(
    options: argparse.Namespace, at: datetime, client: "S3Client", buckets: Mapping[str, str]
) -> Source:
    if options.what == "objects":
        return Objects(client, buckets["artifactsBucket"], f"tenant_{options.tenant}/", at)
    if options.what == "secrets":
        from restore.secrets import Secrets  # the program's SDKs, which nothing else here needs

        return Secrets(options.tenant, at)
    if not options.recovered:
        raise RestoreError(
            "--recovered: is missing, so there is no server to take the schema from; "
            "docs/runbooks/restore.md says how to recover one."
        )
    return Database(options.tenant, at, options.recovered)


def _time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
        at = at.astimezone(UTC) if at.tzinfo else at
    except (ValueError, OverflowError):
        raise RestoreError(f"--at {text!r} is no time; write it as 2026-11-28T10:00Z.") from None
    if at.tzinfo is None:
        raise RestoreError(f"--at {text} names no time zone, so it could be hours off; end it in Z for UTC.")
    if at > datetime.now(UTC):
        raise RestoreError(f"--at {text} has not come yet, so nothing is known of it.")
    return at


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _refuse_gone(tenant: str, client: "S3Client", logs: str) -> None:
    """Refuse a tenant that has left, and tell what is kept of it."""
    try:
        body = client.get_object(Bucket=logs, Key=receipt.key(tenant))["Body"].read()
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404"):
            return
        raise RestoreError(f"{logs}: cannot be read ({error}), so nothing was changed.") from None
    except BotoCoreError as error:
        raise RestoreError(f"object storage does not answer ({error}), so nothing was changed.") from None
    kept: list[dict[str, Any]] = json.loads(body).get("remains", [])
    told = "; ".join(f"{each['what']} until {each['until']} ({each['where']})" for each in kept)
    raise RestoreError(
        f"{tenant} has left, so there is no place to bring anything back to. Its receipt, {logs}/"
        f"{receipt.key(tenant)}, says what is kept: {told or 'nothing'}. "
        "docs/runbooks/restore-a-customers-last-backup.md says how to get at that."
    )


def _print(plan: Plan, options: argparse.Namespace, at: datetime, console: Console) -> None:
    lost = datetime.now(UTC) - at
    console.print(
        f"{options.tenant}: {options.what} as of {at:%Y-%m-%dT%H:%M:%SZ}; what was written in the "
        f"{lost.total_seconds() / 3600:.2f} hours since is replaced"
    )
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("what", "now", "then"):
        table.add_column(title)
    for change in plan.changes[:_SHOWN]:
        # A tenant chooses its names: they are neither markup nor orders to a terminal.
        table.add_row(*(Text(_plain(text)) for text in (change.what, change.now, change.then)))
    if plan.changes:
        console.print(table)
    if (more := len(plan.changes) - _SHOWN) > 0:
        console.print(f"and {more} more")
    for told in plan.lost:
        console.print(Text(_plain(f"cannot come back: {told}")))
    console.print(f"{len(plan.changes)} to change, {plan.same} the same. {plan.way_back}")


def _ask(options: argparse.Namespace, console: Console) -> None:
    if options.yes is None:
        if not sys.stdin.isatty():
            raise RestoreError(f"nobody can be asked, so nothing was changed; add --yes {options.tenant}.")
        options.yes = console.input(f"Type {options.tenant} to go on: ")
    if options.yes != options.tenant:
        raise RestoreError(f"{options.yes!r} is not {options.tenant}, so nothing was changed.")


if __name__ == "__main__":
    sys.exit(main())
