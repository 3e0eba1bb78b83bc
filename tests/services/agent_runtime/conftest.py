"""The real object storage, with keys that are confined to a tenant's prefix, and a tenant's real tables."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from infra.platform import administrator
from infra.tenants import roles
from infra.tenants.migration import MigrationProvider
from local.exoscale.policy import storage_statements
from local.servers import object_storage
from services.agent_runtime import arrival, tenants
from tests import s3
from tests.infra.tenants.conftest import connect, database, schema
from tests.infra.tenants.test_migrations import properties
from tests.local.exoscale.conftest import confined
from tests.local.servers.conftest import Running, running, up

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["connect", "database", "running", "schema", "up"]

BUCKET = "artifacts"


@dataclass(frozen=True)
class Storage:
    """The bucket, seen by its owner, and what Vault tells of each tenant's part."""

    owner: "S3Client"

    def secret(self, tenant: str) -> dict[str, str]:
        """The secret `object-storage` of a tenant."""
        return {
            "endpoint": object_storage.url(),
            "region": object_storage.REGION,
            "bucket": BUCKET,
            "prefix": f"tenant_{tenant}/",
            "access_key": f"EXO{tenant}",
            "secret_key": f"secret-{tenant}",
        }

    def keys(self, prefix: str = "tenant_acme/workspace/") -> list[str]:
        """The keys of all objects there are below a prefix."""
        listed = self.owner.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return [item["Key"].removeprefix(prefix) for item in listed.get("Contents", [])]

    def unfinished(self) -> list[str]:
        """The keys of all uploads that are not completed."""
        uploads = self.owner.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        return [upload["Key"] for upload in uploads]


@pytest.fixture(autouse=True)
def nothing_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no runtime of a test do what it does a while later in the middle of another test."""
    monkeypatch.setattr(arrival, "_LATE_AFTER", 3600.0)
    monkeypatch.setattr(tenants, "_PRELOAD_AFTER", 3600.0)


@pytest.fixture(autouse=True)
def volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a test's folders for volumes."""
    monkeypatch.setattr(os.path, "ismount", lambda path: "no-volume" not in str(path))


@pytest.fixture(scope="session")
def bucket(running: Running) -> Iterator[Storage]:
    """The bucket of all tenants."""
    with running(object_storage):
        owner = s3.owner()
        owner.create_bucket(Bucket=BUCKET)
        owner.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        for tenant in ("acme", "globex"):
            statements = storage_statements(confined(BUCKET, f"tenant_{tenant}/"))
            object_storage.put_identity(tenant, f"EXO{tenant}", f"secret-{tenant}", statements)
        yield Storage(owner)


@pytest.fixture
def storage(bucket: Storage) -> Storage:
    """The bucket with the tenants' folders, as the platform makes them, and nothing in them."""
    pages = bucket.owner.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    for key in [item["Key"] for page in pages for item in page.get("Contents", [])]:
        bucket.owner.delete_object(Bucket=BUCKET, Key=key)
    for tenant in ("acme", "globex"):
        bucket.owner.put_object(Bucket=BUCKET, Key=f"tenant_{tenant}/workspace/", Body=b"")
    return bucket


@dataclass(frozen=True)
class Tables:
    """The tables of acme."""

    url: str
    """Of the database, without a login."""
    login: dict[str, str]
    """As Vault issues one."""


@contextmanager
def acmes_tables(database: dict[str, Any]) -> Iterator[Tables]:
    """Acme's tables, as the platform makes them, and nothing in them, until the block ends."""
    with administrator.connect(database) as server:
        server.execute("CREATE ROLE tenant_acme; GRANT CONNECT, TEMPORARY ON DATABASE agents TO tenant_acme")
        server.execute("CREATE SCHEMA tenant_acme AUTHORIZATION tenant_acme")
        MigrationProvider().create(properties(database, "tenant_acme"))
        server.execute(
            "CREATE ROLE \"v-acme\" LOGIN PASSWORD 'x' NOINHERIT IN ROLE tenant_acme;"
            'GRANT tenants TO "v-acme" WITH INHERIT TRUE, SET FALSE;'
            "ALTER ROLE \"v-acme\" SET role = 'tenant_acme';"
            "ALTER ROLE \"v-acme\" SET search_path = 'tenant_acme'"
        )
        where = f"postgresql://{database['host']}:{int(database['port'])}/agents?sslmode=disable"
        try:
            yield Tables(where, {"username": "v-acme", "password": "x"})
        finally:
            server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'v-acme'")
            server.execute("DROP SCHEMA tenant_acme CASCADE")
            server.execute("DELETE FROM agent_platform.revisions WHERE schema = 'tenant_acme'")
            roles.end_tenant(database, "tenant_acme")


@pytest.fixture
def tables(database: dict[str, Any]) -> Iterator[Tables]:
    """Acme's tables for one test."""
    with acmes_tables(database) as tables:
        yield tables
