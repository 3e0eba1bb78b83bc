"""Object storage: what a tenant can write below its prefix and is hard to delete."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import uuid4

import boto3

from infra.tenants.objects import Folder
from local import credentials
from local.attack.harm import Harm, Harmed
from local.attack.object_storage import client
from local.attack.tenants import Tenant

Write = Callable[[Folder], object]
"""Leave something below a prefix."""


@contextmanager
def _left(write: Write, s3: Any, own: Tenant, _victim: Tenant) -> Iterator[Folder]:
    """Write with a key below a prefix that is thrown away; give it to the administrator."""
    bucket, prefix = own.key["bucket"], f"{own.prefix}attack/{uuid4().hex}/"
    administrator = Folder(client=_administrator(), bucket=bucket, prefix=prefix)
    write(Folder(client=s3, bucket=bucket, prefix=prefix))
    try:
        yield administrator
    finally:
        administrator.empty()


def _put(name: str, folder: Folder) -> None:
    folder.client.put_object(Bucket=folder.bucket, Key=f"{folder.prefix}{name}", Body=b"attack")


def _begin(folder: Folder) -> None:
    folder.client.create_multipart_upload(Bucket=folder.bucket, Key=f"{folder.prefix}attack")


def _delete_as_listed(folder: Folder) -> None:
    """Delete a page of versions by the keys that the listing shows, in one request."""
    found: list[Any] = [{"Key": held.key, "VersionId": held.id} for held in folder.versions()]
    if found:
        folder.client.delete_objects(Bucket=folder.bucket, Delete={"Objects": found})
    if folder.versions(limit=1) or folder.uploads(limit=1):
        raise RuntimeError("something is left")


def _harm(name: str, tried: str, write: Write) -> Harm[Any]:
    return Harm(
        kind="cannot be removed",
        name=name,
        tried=tried,
        done=partial(_left, write),
        # What the program does to a tenant's prefix when the tenant leaves.
        withstood=Folder.empty,
        unguarded=_delete_as_listed,
    )


_HARMS = (
    _harm("put a key that XML cannot say", r"put_object OWN/a\x01b", partial(_put, "a\x01b")),
    _harm("put a key of a long name", "put_object OWN/nnn…, 256 bytes", partial(_put, "n" * 256)),
    _harm("begin an upload and leave it", "create_multipart_upload OWN/attack", _begin),
)


@contextmanager
def entered(tenants: Sequence[Tenant]) -> Iterator[Harmed[Any]]:
    """Have every tenant's key do harm; each undoes its own."""
    boto = boto3.Session()
    yield Harmed(
        server="Object storage",
        sessions={
            tenant: client(boto, tenant.key["access_key"], tenant.key["secret_key"]) for tenant in tenants
        },
        administrator=_administrator(),
        harms=_HARMS,
    )


def _administrator() -> Any:
    key, secret = credentials.secret("exoscale-api-key"), credentials.secret("exoscale-api-secret")
    return client(boto3.Session(), key, secret)
