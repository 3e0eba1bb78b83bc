"""Access to the backups bucket, one key for each service that writes there.

The policy language is that of <https://community.exoscale.com/product/iam/iam/how-to/policy-guide/>.
"""

from dataclasses import dataclass

import pulumi
import pulumiverse_exoscale as exoscale


@dataclass(frozen=True, kw_only=True)
class BackupKey:
    """An Exoscale key, which is also an S3 key."""

    access_key: pulumi.Output[str]
    secret_key: pulumi.Output[str]
    """Secret."""


def backup_key(
    prefix: str, service: str, bucket: pulumi.Output[str], stack_name: str, opts: pulumi.ResourceOptions
) -> BackupKey:
    """Declare a role that may enter the backups bucket and nothing else, and a key for it."""
    name = f"{stack_name}-backup-{service}"
    confined = bucket.apply(lambda name: f"parameters.bucket == '{name}'")
    role = exoscale.IamRole(
        f"{prefix}-backup-role",
        name=name,
        description=f"Backups of {service}",
        editable=True,
        policy=exoscale.IamRolePolicyArgs(
            default_service_strategy="deny",
            services={
                "sos": exoscale.IamRolePolicyServicesArgs(
                    type="rules",
                    rules=[exoscale.IamRolePolicyServicesRuleArgs(action="allow", expression=confined)],
                )
            },
        ),
        opts=opts,
    )
    key = exoscale.IamApiKey(
        f"{prefix}-backup-key",
        name=name,
        role_id=role.id,
        opts=opts,
    )
    return BackupKey(access_key=key.key, secret_key=key.secret)
