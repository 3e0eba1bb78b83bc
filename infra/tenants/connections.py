"""A check that the connections of all tenants at their limits fit into the server."""

from collections.abc import Iterable

import pulumi

from infra.platform.vault import DATABASE_CONNECTIONS
from infra.tenants.roster import TenantEntry


def bound(tenants: Iterable[TenantEntry]) -> int:
    """The most connections that the tenants hold; into a database of its own Vault has a way of its own."""
    return sum(
        tenant.parts.logins.bound + (DATABASE_CONNECTIONS if tenant.own_database else 0) for tenant in tenants
    )


def advise_connections(tenants: Iterable[TenantEntry], connections: int) -> None:
    """Say so if the server could not hold all at once; no tenant alone can take more than its own."""
    wanted = bound(tenants)
    if wanted > connections:
        pulumi.log.warn(
            f"The roster's tenants may hold {wanted} connections to PostgreSQL, and the server has "
            f"{connections} for them: all at their limits at once, some would be refused. Raise "
            "`connections` of agent-platform:database, each of which takes a few MiB of the server; where it "
            "is given, raise its own max_connections first."
        )
