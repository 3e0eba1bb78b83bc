"""What the roster says may happen to a tenant's data, as the engine has to know it (docs/decisions/0038).

A protected resource is not deleted, nor replaced: the engine refuses the plan. Only an update takes the
protection off, so whatever destroys data takes two: one that says so, and one that does it.
"""

from typing import Literal

import pulumi

from infra.tenants.roster import TenantEntry


def is_kept(tenant: TenantEntry, what: Literal["workspace", "database"] | None = None) -> bool:
    """Return True if the tenant stays, and the roster lets no change destroy `what`."""
    may_go = workspace_may_go(tenant) if what == "workspace" else what in tenant.discard
    return tenant.state != "offboarding" and not may_go


def protected(
    opts: pulumi.ResourceOptions, tenant: TenantEntry, what: Literal["workspace", "database"] | None = None
) -> pulumi.ResourceOptions:
    """`opts` of a resource that holds data."""
    return pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(protect=is_kept(tenant, what)))


def workspace_may_go(tenant: TenantEntry) -> bool:
    """Return True if the volume and its key may be deleted while the tenant stays.

    Those of a tenant that is moving may go once the workspace is in the prefix, which `Registration.check`
    looks at.
    """
    return tenant.state == "moving" or "workspace" in tenant.discard
