"""`make drill`: destroys what a disaster destroys, brings it back from backups, and compares it with before.

It runs on a platform that is up and leaves it as it was, but for the data that it writes to have some to
lose.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import psycopg
import yaml
from botocore.config import Config
from psycopg import sql
from rich.console import Console
from rich.table import Table

from infra.platform import administrator
from infra.platform.vault import KV
from infra.tenants.clients import VaultClient
from local import backups, engine, restoring, supervisor
from local.errors import LocalError
from local.paths import ROOT
from local.servers import kubernetes_api, object_storage, postgres, vault

_ROWS = 2000
_OBJECTS = 60
_PREFIX = "artifacts/drill/"
_TABLE = "drill"
_RECORD = "/api/v1/namespaces/gateway/configmaps/last-drill"
_SECRETS = ("drill/one", "drill/two")

State = Mapping[str, str]
"""Names of tables, objects or secrets, each with a digest of its contents."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of one disaster."""

    disaster: str
    lost_seconds: float
    """The time before the disaster whose writes did not come back."""
    seconds: float
    """The time that it took to bring everything back."""
    compared: int
    differences: list[str]


def run(console: Console) -> list[Outcome]:
    """Go through all disasters. Raises LocalError if one cannot be recovered from."""
    active = tenants()
    outcomes: list[Outcome] = []
    with recorded(outcomes), data(active):
        for disaster in (
            _schema_spoilt,
            _schema_dropped,
            _prefix_purged,
            _secrets_spoilt,
            _database_disk_gone,
            _vault_disk_gone,
        ):
            outcomes.append(disaster(active[0], console))
            console.print(_line(outcomes[-1]))
    return outcomes


@contextmanager
def recorded(outcomes: list[Outcome]) -> Iterator[None]:
    """Record what `outcomes` holds in the end, whether the drill came to its end or not."""
    try:
        yield
    except Exception:
        with suppress(LocalError, OSError):  # why it failed is what is to be told
            record(outcomes, completed=False)
        raise
    record(outcomes, completed=True)


def tenants() -> list[str]:
    """Return the tenants that have something to lose. Raises LocalError if there is none."""
    found = [each["id"] for each in engine.tenants(engine.LOCAL_STACK) if each["state"] == "active"]
    if not found:
        raise LocalError("drill: no tenant is active, so there is nothing to lose; run `make up` first.")
    return found


def table(outcomes: list[Outcome]) -> Table:
    """Return what became of them as a table."""
    shown = Table("disaster", "compared", "differences", "data lost, s", "back after, s")
    for each in outcomes:
        shown.add_row(
            each.disaster,
            str(each.compared),
            str(len(each.differences)),
            f"{each.lost_seconds:.1f}",
            f"{each.seconds:.1f}",
        )
    return shown


def as_data(outcomes: list[Outcome], *, completed: bool = True) -> str:
    """Return it as JSON."""
    told = {
        "at": datetime.now(UTC).isoformat(),
        "completed": completed,
        "disasters": [asdict(each) for each in outcomes],
    }
    return json.dumps(told, indent=2)


def record(outcomes: list[Outcome], *, completed: bool) -> None:
    """Write it to where the exporter reads it, as the workflow does in production."""
    kubernetes_api.merge(_RECORD, {"data": {"drill.json": as_data(outcomes, completed=completed)}})


def _line(outcome: Outcome) -> str:
    return (
        f"{outcome.disaster}: {len(outcome.differences)} of {outcome.compared} differ, "
        f"{outcome.lost_seconds:.1f} s of data lost, back after {outcome.seconds:.1f} s"
    )


def _schema_spoilt(tenant: str, console: Console) -> Outcome:
    """A tenant's rows and tables are changed by mistake, and its schema is still there."""

    def destroy() -> None:
        name = sql.Identifier(f"tenant_{tenant}", _TABLE)
        with _administration() as connection:
            connection.execute(sql.SQL("UPDATE {} SET text = 'spoilt' WHERE n % 3 = 0").format(name))
            connection.execute(sql.SQL("ALTER TABLE {} ADD COLUMN more text DEFAULT 'x'").format(name))

    return _restored("one schema spoilt", tenant, "database", database_state, destroy, console)


def _schema_dropped(tenant: str, console: Console) -> Outcome:
    """A tenant's schema is dropped by mistake."""

    def destroy() -> None:
        with _administration() as connection:
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(f"tenant_{tenant}")))

    return _restored("one schema dropped", tenant, "database", database_state, destroy, console)


def _prefix_purged(tenant: str, console: Console) -> Outcome:
    """All of a tenant's objects are deleted."""

    def destroy() -> None:
        client, bucket = _storage()
        for key in [key for key in objects_state() if key.startswith(f"tenant_{tenant}/")]:
            client.delete_object(Bucket=bucket, Key=key)

    return _restored("one prefix purged", tenant, "objects", objects_state, destroy, console)


def _secrets_spoilt(tenant: str, console: Console) -> Outcome:
    """A tenant's secrets are overwritten and deleted, and one is added."""

    def destroy() -> None:
        server = _vault()
        server.call("POST", f"{KV}/data/{tenant}/{_SECRETS[0]}", {"data": {"value": "spoilt"}})
        server.call("DELETE", f"{KV}/data/{tenant}/{_SECRETS[1]}")

    return _restored("one tenant's secrets spoilt", tenant, "secrets", vault.digests, destroy, console)


def _database_disk_gone(_tenant: str, console: Console) -> Outcome:
    """PostgreSQL's disk is lost; what it had archived is not."""
    before = database_state()
    at = datetime.now(UTC)
    backups.archive_all()
    write_what_is_lost()
    gone = datetime.now(UTC)
    supervisor.kill("postgres")
    postgres.forget_disk()
    begun = time.monotonic()
    backups.recover_disk(console)
    found = outcome("PostgreSQL's disk gone", before, database_state(), gone - at, begun)
    backups.base_backup()
    return found


def _vault_disk_gone(_tenant: str, console: Console) -> Outcome:
    """Vault's disk is lost; its last snapshot is not."""
    before = vault.digests()
    at = datetime.now(UTC)
    key = keep_snapshot(at)
    gone = datetime.now(UTC)
    supervisor.kill("vault")
    vault.forget_disk()
    begun = time.monotonic()
    vault.restore(snapshot(key), console)
    return outcome("Vault's disk gone", before, vault.digests(), gone - at, begun)


def write_what_is_lost() -> None:
    """Write to PostgreSQL what is in no archive yet."""
    with _administration() as connection:
        connection.execute("CREATE TABLE agent_platform.drill_lost AS SELECT now()")


def keep_snapshot(at: datetime) -> str:
    """Put a snapshot of Vault into the backups bucket; return its key."""
    client, _ = _storage()
    key = f"vault/{at:%Y-%m-%dT%H%M%SZ}.snap"
    client.put_object(Bucket=backups.bucket(), Key=key, Body=vault.snapshot())
    return key


def snapshot(key: str) -> bytes:
    """Return a snapshot from the backups bucket."""
    client, _ = _storage()
    body: bytes = client.get_object(Bucket=backups.bucket(), Key=key)["Body"].read()
    return body


def _restored(
    disaster: str,
    tenant: str,
    what: str,
    state: Callable[[], State],
    destroy: Callable[[], None],
    console: Console,
) -> Outcome:
    """Destroy something of a tenant's, and have `restore` bring it back as of just before."""
    before, at = state(), _whole_second()
    destroy()
    destroyed, begun = datetime.now(UTC), time.monotonic()
    with restoring.recovered(what, at, console) as place:
        arguments = [tenant, what, "--at", f"{at:%Y-%m-%dT%H:%M:%SZ}"]
        if restoring.run(arguments, place, tenant, sys.stderr):
            raise LocalError(f"drill: {tenant}'s {what} was not brought back; see above.")
    return outcome(disaster, before, state(), destroyed - at, begun)


def outcome(disaster: str, before: State, after: State, lost: timedelta, begun: float) -> Outcome:
    """Compare what is there with what was there before."""
    return Outcome(
        disaster=disaster,
        lost_seconds=lost.total_seconds(),
        seconds=time.monotonic() - begun,
        compared=len(before),
        differences=[
            f"{name}: {after.get(name, 'gone')} instead of {before.get(name, 'nothing')}"
            for name in sorted(before.keys() | after.keys())
            if before.get(name) != after.get(name)
        ],
    )


def _whole_second() -> datetime:
    """Let a second pass, since object storage tells times in whole ones; return the one that has passed."""
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
    while datetime.now(UTC) < at + timedelta(seconds=1):
        time.sleep(0.05)
    return at


@contextmanager
def data(owners: list[str]) -> Iterator[None]:
    """Give every tenant rows, secrets, and objects, some with older versions, as long as the drill lasts."""
    client, bucket = _storage()
    with _administration() as connection:
        for tenant in owners:
            _fill(connection, f"tenant_{tenant}")
    for tenant in owners:
        for number in range(_OBJECTS):
            key = f"tenant_{tenant}/{_PREFIX}{number}"
            for version in range(1 + number % 2):
                body = hashlib.sha256(f"{key} {version}".encode()).digest() * (1 + number)
                client.put_object(Bucket=bucket, Key=key, Body=body)
        for secret in _SECRETS:
            _vault().call("POST", f"{KV}/data/{tenant}/{secret}", {"data": {"value": f"{tenant} {secret}"}})
    yield
    # A drill that failed leaves it, for whoever looks into that; the next one writes it anew.
    with _administration() as connection:
        for tenant in owners:
            name = sql.Identifier(f"tenant_{tenant}", _TABLE)
            connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(name))
    for tenant in owners:
        for secret in _SECRETS:
            _vault().call("DELETE", f"{KV}/metadata/{tenant}/{secret}")
        for number in range(_OBJECTS):
            client.delete_object(Bucket=bucket, Key=f"tenant_{tenant}/{_PREFIX}{number}")


def _fill(connection: "psycopg.Connection[Any]", schema: str) -> None:
    name = sql.Identifier(schema, _TABLE)
    connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(name))
    connection.execute(
        sql.SQL("CREATE TABLE {} AS SELECT n, md5(n::text) AS text FROM generate_series(1, {}) AS n").format(
            name, sql.Literal(_ROWS)
        )
    )
    connection.execute(sql.SQL("ALTER TABLE {} OWNER TO {}").format(name, sql.Identifier(schema)))


def database_state() -> State:
    """Return a digest of every table of tenants and of the platform."""
    found = {}
    with _administration() as connection:
        rows = connection.execute(
            "SELECT nspname, relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
            "WHERE relkind = 'r' AND (nspname LIKE 'tenant\\_%' OR nspname = 'agent_platform') "
            # What the platform itself goes on writing, and what is to be lost.
            "AND relname NOT IN ('meter', 'metered', 'counters', 'limits', 'drill_lost') ORDER BY 1, 2"
        ).fetchall()
        for schema, name in rows:
            statement = sql.SQL(
                # By nothing that a tenant can have defined, such as a cast to text.
                "SELECT count(*), coalesce(sum(hashtextextended(format('%s', ROW(each.*)), 0)::numeric), 0) "
                "FROM {} AS each"
            ).format(sql.Identifier(schema, name))
            count, digest = connection.execute(statement).fetchone() or (0, 0)
            found[f"{schema}.{name}"] = f"{count} rows, {digest}"
    return found


def objects_state() -> State:
    """Return the digest of every object of tenants."""
    client, bucket = _storage()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    items = (item for page in pages for item in page.get("Contents", []))
    # What only shows a folder has no contents, and SeaweedFS keeps no older versions of it.
    return {item["Key"]: item["ETag"] for item in items if not item["Key"].endswith("/")}


def _storage() -> tuple[Any, str]:
    """Return a client, and the bucket with tenants' objects."""
    where = object_storage.environment()
    client = boto3.client(
        "s3",
        endpoint_url=where["AWS_ENDPOINT_URL"],
        aws_access_key_id=where["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=where["AWS_SECRET_ACCESS_KEY"],
        region_name=where["AWS_REGION"],
        config=Config(s3={"addressing_style": "path"}),
    )
    config = yaml.safe_load((ROOT / "Pulumi.local.yaml").read_text(encoding="utf-8"))["config"]
    return client, config["agent-platform:objectStorage"]["artifactsBucket"]


def _vault() -> VaultClient:
    return VaultClient({"address": vault.url(), "token": vault.root_token()})


def _administration() -> "psycopg.Connection[Any]":
    where = postgres.environment()
    names = ("host", "port", "database", "user", "password")
    entrance = {name: where[f"PG{name.upper()}"] for name in names}
    return administrator.connect({**entrance, "sslMode": where["PGSSLMODE"]})
