"""Keys of the platform's own services to object storage, each with a role that is confined to its work.

The policy language is that of <https://community.exoscale.com/product/iam/iam/how-to/policy-guide/>.
"""

from dataclasses import dataclass

import pulumi
import pulumiverse_exoscale as exoscale


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
        bucket.apply(lambda name: f"parameters.bucket == '{name}'"),
        opts,
    )


def storage_key(
    prefix: str, name: str, description: str, allowed: pulumi.Output[str], opts: pulumi.ResourceOptions
) -> StorageKey:
    """Declare a role that may do in object storage what the expression allows and nothing else, and a key."""
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
                    rules=[exoscale.IamRolePolicyServicesRuleArgs(action="allow", expression=allowed)],
                )
            },
        ),
        opts=opts,
    )
    key = exoscale.IamApiKey(f"{prefix}-key", name=name, role_id=role.id, opts=opts)
    return StorageKey(access_key=key.key, secret_key=key.secret)
