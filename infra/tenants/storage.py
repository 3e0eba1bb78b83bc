"""A tenant's part of the artifacts bucket, and the key that opens it, its own logs and nothing else.

The policy language is that of <https://community.exoscale.com/product/iam/iam/how-to/policy-guide/>.
"""

from dataclasses import dataclass

import pulumi
import pulumiverse_exoscale as exoscale

from infra.cluster.object_storage import LISTING, ObjectStorage
from infra.platform.storage_keys import below
from infra.tenants.lifecycle import protected
from infra.tenants.prefix import Prefix
from infra.tenants.roster import TenantEntry

_READING = ("get-object", "head-object")
_OBJECTS = (
    *(*_READING, "put-object", "delete-object"),
    *("create-multipart-upload", "upload-part", "complete-multipart-upload", "abort-multipart-upload"),
    "list-parts",
)
"""Deleting many at once (`delete-objects`) is missing: its keys are in the body, where no policy looks."""


@dataclass(frozen=True, kw_only=True)
class TenantStorage:
    """Where a tenant's objects are, and the key to them."""

    bucket: pulumi.Output[str]
    prefix: str
    logs: pulumi.Output[str]
    """The bucket with its logs, which lie below the same prefix; the key only reads them."""
    access_key: pulumi.Output[str]
    secret_key: pulumi.Output[str]
    """Secret."""


def declare_storage(
    tenant: TenantEntry, storage: ObjectStorage, opts: pulumi.ResourceOptions
) -> TenantStorage:
    """Declare the prefix with its folders, and a key confined to it."""
    name, prefix = tenant.id, f"{tenant.underscored}/"
    folders = Prefix(
        f"{name}-prefix",
        bucket=storage.artifacts,
        prefix=prefix,
        endpoint=storage.endpoint,
        region=storage.region,
        opts=protected(opts, tenant),
    )
    role = exoscale.IamRole(
        f"{name}-storage-role",
        name=tenant.dashed,
        description=f"Objects of tenant {name}",
        editable=True,
        policy={
            "default_service_strategy": "deny",
            "services": {
                "sos": {
                    "type": "rules",
                    # The bucket's name comes through the prefix, so that the key goes first and nothing is
                    # written any more while the prefix is emptied.
                    "rules": [
                        {"action": "allow", "expression": expression}
                        for expression in (
                            below(LISTING, folders.bucket, "prefix", prefix),
                            below(_OBJECTS, folders.bucket, "key", prefix),
                            below(LISTING, storage.logs, "prefix", prefix),
                            below(_READING, storage.logs, "key", prefix),
                        )
                    ],
                }
            },
        },
        opts=opts,
    )
    key = exoscale.IamApiKey(f"{name}-storage-key", name=tenant.dashed, role_id=role.id, opts=opts)
    return TenantStorage(
        bucket=folders.bucket,
        prefix=prefix,
        logs=storage.logs,
        access_key=key.key,
        secret_key=key.secret,
    )
