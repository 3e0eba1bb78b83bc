"""A real PostgreSQL that archives its log, and real object storage with versions."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import psycopg
import pytest
from botocore.config import Config
from rich.console import Console

from infra.platform.control_schema import ControlSchemaProvider
from local import backups, supervisor
from local.servers import object_storage, postgres

BUCKET = "restore-artifacts"
ARTIFACTS, LOGS = "agent-platform-local-artifacts", "agent-platform-local-logs"
"""Of the stack `local`."""
LOGIN = ("v-acme", "drawn")
CONSOLE = Console(stderr=True)

Connect = Callable[..., "psycopg.Connection[Any]"]


@pytest.fixture(scope="session")
def servers() -> Iterator[None]:
    """Both servers, and a tenant acme with its schema, its role, and a login."""
    started = []
    for module in (object_storage, postgres):
        module.prepare()
        for service in module.services():
            supervisor.start(service, CONSOLE)
            started.append(service.name)
        supervisor.wait_until(module.bootstrap, timeout=60, what="its first contents")
    try:
        s3 = client()
        for name in (BUCKET, ARTIFACTS, LOGS, backups.bucket()):
            s3.create_bucket(Bucket=name)
            s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        with administrator() as admin:
            for statement in (
                "CREATE ROLE vault",
                "CREATE ROLE tenant_acme",
                "CREATE SCHEMA tenant_acme AUTHORIZATION tenant_acme",
                "CREATE ROLE \"v-acme\" LOGIN NOINHERIT PASSWORD 'drawn' IN ROLE tenant_acme",
                'ALTER ROLE "v-acme" SET role = tenant_acme',
                'ALTER ROLE "v-acme" SET search_path = tenant_acme',
                "CREATE ROLE tenant_bluebird",
                "CREATE SCHEMA tenant_bluebird AUTHORIZATION tenant_bluebird",
            ):
                admin.execute(statement)
        where = postgres.environment()
        entrance = {
            name.lower(): where[f"PG{name}"] for name in ("HOST", "PORT", "USER", "PASSWORD", "DATABASE")
        }
        ControlSchemaProvider().create({**entrance, "sslMode": where["PGSSLMODE"], "issuer": "vault"})
        backups.keep(CONSOLE)
        yield
    finally:
        for name in reversed(started):
            supervisor.stop(name)


def client() -> Any:
    where = object_storage.environment()
    return boto3.client(
        "s3",
        endpoint_url=where["AWS_ENDPOINT_URL"],
        aws_access_key_id=where["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=where["AWS_SECRET_ACCESS_KEY"],
        region_name=where["AWS_REGION"],
        config=Config(s3={"addressing_style": "path"}),
    )


def administrator(user: str = "", password: str = "", place: str = "") -> "psycopg.Connection[Any]":
    """Connect to the server, or to the one at `place`."""
    where = postgres.environment()
    host, _, port = place.rpartition(":")
    return psycopg.connect(
        host=host or where["PGHOST"],
        port=port or where["PGPORT"],
        dbname=where["PGDATABASE"],
        user=user or where["PGUSER"],
        password=password or where["PGPASSWORD"],
        sslmode="disable",
        autocommit=True,
    )


def second() -> datetime:
    """Let a whole second pass, and return it: object storage tells no finer times."""
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
    while datetime.now(UTC) < at + timedelta(seconds=1):
        time.sleep(0.02)
    return at
