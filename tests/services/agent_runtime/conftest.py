"""The real object storage, and keys that are each confined to a tenant's prefix."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config

from local.servers import object_storage
from tests.local.servers.conftest import Running, running, up

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["running", "up"]

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


@pytest.fixture(scope="session")
def _bucket(running: Running) -> Iterator[Storage]:
    with running(object_storage):
        said = object_storage.environment()
        owner = boto3.client(
            "s3",
            endpoint_url=object_storage.url(),
            region_name=object_storage.REGION,
            aws_access_key_id=said["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=said["AWS_SECRET_ACCESS_KEY"],
            config=Config(s3={"addressing_style": "path"}),
        )
        owner.create_bucket(Bucket=BUCKET)
        owner.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        for tenant in ("acme", "globex"):
            actions = [f"{action}:{BUCKET}/tenant_{tenant}/*" for action in ("Read", "Write", "List")]
            object_storage.put_identity(tenant, f"EXO{tenant}", f"secret-{tenant}", actions)
        yield Storage(owner)


@pytest.fixture
def storage(_bucket: Storage) -> Storage:
    """The bucket with the tenants' folders, as the platform makes them, and nothing in them."""
    pages = _bucket.owner.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    for key in [item["Key"] for page in pages for item in page.get("Contents", [])]:
        _bucket.owner.delete_object(Bucket=BUCKET, Key=key)
    for tenant in ("acme", "globex"):
        _bucket.owner.put_object(Bucket=BUCKET, Key=f"tenant_{tenant}/workspace/", Body=b"")
    return _bucket
