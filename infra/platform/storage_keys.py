"""Keys of the platform's own services to object storage, each with a role that is confined to its work.

The policy language is that of <https://community.exoscale.com/product/iam/iam/how-to/policy-guide/>.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pulumi
import pulumiverse_exoscale as exoscale

from infra.cluster.object_storage import ObjectStorage

CREDENTIALS_FOLDER = "/etc/object-storage"
"""The folder in which a service finds the Secret with `storage_credentials`."""
_CREDENTIALS = "credentials"


@dataclass(frozen=True, kw_only=True)
class StorageKey:
    """An Exoscale key, which is also an S3 key."""

    access_key: pulumi.Output[str]
    secret_key: pulumi.Output[str]
    """Secret."""


def backup_key(
    prefix: str, service: str, bucket: pulumi.Output[str], stack_name: str, opts: pulumi.ResourceOptions
) -> StorageKey:
    """Declare a role that may enter the backups bucket and nothing else, and a key for it."""
    return storage_key(
        f"{prefix}-backup",
        f"{stack_name}-backup-{service}",
        f"Backups of {service}",
        [bucket.apply(lambda name: f"parameters.bucket == '{name}'")],
        opts,
    )


def below(
    operations: Sequence[str], bucket: pulumi.Output[str], parameter: Literal["key", "prefix"], start: str
) -> pulumi.Output[str]:
    """Return the expression that lets operations pass below a prefix of a bucket.

    `parameter` is what the operations have: listings a `prefix`, all others a `key`.
    """
    names = ", ".join(f"'{operation}'" for operation in operations)
    return bucket.apply(
        lambda name: (
            f"operation in [{names}] && parameters.bucket == '{name}' && "
            f"parameters.{parameter}.startsWith('{start}')"
        )
    )


def storage_key(
    prefix: str,
    name: str,
    description: str,
    allowed: Sequence[pulumi.Output[str]],
    opts: pulumi.ResourceOptions,
) -> StorageKey:
    """Declare a role that may do in object storage what an expression allows and nothing else, and a key."""
    role = exoscale.IamRole(
        f"{prefix}-role",
        name=name,
        description=description,
        editable=True,
        policy=exoscale.IamRolePolicyArgs(
            default_service_strategy="deny",
            services={
                "sos": exoscale.IamRolePolicyServicesArgs(
                    type="rules",
                    rules=[
                        exoscale.IamRolePolicyServicesRuleArgs(action="allow", expression=expression)
                        for expression in allowed
                    ],
                )
            },
        ),
        opts=opts,
    )
    key = exoscale.IamApiKey(f"{prefix}-key", name=name, role_id=role.id, opts=opts)
    return StorageKey(access_key=key.key, secret_key=key.secret)


def storage_credentials(key: StorageKey) -> dict[str, pulumi.Output[str]]:
    """Return the contents of a Secret with the key as a file, as SDKs read it."""
    return {
        _CREDENTIALS: pulumi.Output.concat(
            *("[default]\naws_access_key_id = ", key.access_key),
            *("\naws_secret_access_key = ", key.secret_key, "\n"),
        )
    }


def credentials_environment() -> dict[str, str]:
    """Return the variables by which SDKs find the key, and speak as SOS does."""
    return {
        "AWS_SHARED_CREDENTIALS_FILE": f"{CREDENTIALS_FOLDER}/{_CREDENTIALS}",
        # SOS knows no trailing checksums.
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    }


def storage_environment(
    storage: ObjectStorage, bucket: pulumi.Output[str]
) -> Mapping[str, pulumi.Input[str]]:
    """Return the environment of a service of ours that enters one bucket."""
    return {
        "OBJECT_STORAGE_ENDPOINT": storage.endpoint,
        "OBJECT_STORAGE_REGION": storage.region,
        "OBJECT_STORAGE_BUCKET": bucket,
        **credentials_environment(),
    }
