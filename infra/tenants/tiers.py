"""What each tier is made of, what may be said of it, and what it costs: one table that drives everything.

The tiers are those of the architecture guide ("Infrastructure Isolation Tiers", "Honest Marketing"). Code
asks this table what a tenant has, never the tier's name. Every tier has a schema, a path in Vault, a prefix.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

TierName = Literal["starter", "professional", "enterprise", "private-cloud"]


@dataclass(frozen=True)
class Size:
    """What a tenant buys for itself: all of it reaches its agents, the platform adds its own overhead."""

    cpu: int
    """CPUs: the guest's virtual ones, or the pod's."""
    memory_gib: int
    """Memory in GiB."""
    workspace_gib: int
    """The workspace volume in GiB; 0: there is none, the workspace is the prefix's `workspace/`."""


@dataclass(frozen=True)
class Logins:
    """What a tenant may hold of PostgreSQL's connections, with all the logins that Vault makes for it."""

    at_once: int
    """Logins that can be used; a further one retires the one that was not renewed for longest."""
    connections: int
    """Connections of each login."""

    @property
    def bound(self) -> int:
        """All that the tenant can hold: one that is being retired may come in until that is committed."""
        return (self.at_once + 1) * self.connections


@dataclass(frozen=True, kw_only=True)
class Tier:
    """What a tenant of the tier has, and how far it can grow."""

    default: Size
    """As sold."""
    maximum: Size
    """The largest that an entry's `sizes` may ask for."""
    shared_runtime: bool = False
    """Its agents run with those of others, in the runtime that all such tenants share."""
    namespace: bool = False
    """A Kubernetes namespace of its own: closed network, quota, limits."""
    dedicated_agent: bool = False
    """Its agents run in a Deployment of its own."""
    machine: bool = False
    """Its agents run in a virtual machine of its own, with a volume as workspace."""
    idle_seconds: int | None = None
    """How long nobody uses its machine until it is put to sleep; None: it has none."""
    encrypted_workspace: bool = False
    """The volume is encrypted with a key of its own."""
    vpn: bool = False
    """It may have a VPN into its machine."""
    commands: bool = False
    """Its agents may run what the tenant brings, such as MCP servers over stdio: nobody else's run there."""
    node_pool: bool = False
    """Nodes of its own, on which nobody else's machine runs."""
    logins: Logins
    """Its logins to PostgreSQL, and their connections."""
    database_gib: int
    """The most that it may have in PostgreSQL, in GiB, tables, indexes and large objects together."""
    own_database: bool = False
    """It may have a PostgreSQL database of its own instead of a schema among others."""
    log_days: int
    """For how many days its logs are kept."""
    availability: float
    """The share of its requests, in percent, that the platform is not to fail; a contract may say more."""
    wake_seconds: int | None = None
    """The time that a wake of its machine is to take at most, on average; None: it has none."""
    claims: tuple[str, ...]
    """All that may be claimed of it to a customer (guide, "Honest Marketing" and the tiers' own words)."""
    monthly_usd: int | None
    """The list price per month in USD; None where each contract has its own."""

    def may_claim(self, claim: str) -> bool:
        """Whether the tier's customer may be told so; capitals and spaces make no difference."""
        return _spoken(claim) in {_spoken(allowed) for allowed in self.claims}


def _spoken(claim: str) -> str:
    return " ".join(claim.casefold().split())


_OF_ALL = ("Swiss-hosted infrastructure", "Banking-grade security standards", "Secure Multi-Tenant Platform")
_OF_NAMESPACES = (
    *_OF_ALL,
    "Enterprise-grade isolation",
    "Isolated Environment",
    "Dedicated Workspace",
)
_OF_MACHINES = (
    *_OF_NAMESPACES,
    "Private Virtual Infrastructure",
    "Dedicated virtual infrastructure",
    "Private environment",
    "Isolated infrastructure",
)
_OF_NODES = (*_OF_MACHINES, "Private cloud", "Single-tenant")

NEVER_CLAIMED: Mapping[str, str] = {
    "Your own private server": "every tenant's machine runs on hardware that the provider shares",
    "Completely isolated infrastructure": "every tier shares the cluster's control plane and Vault",
    "Dedicated cloud": "it does not say what is dedicated; name that instead",
}
"""What no tier may claim, and why not (guide, "Honest Marketing")."""

#                                                                               CPU, memory, workspace
TIERS: Mapping[TierName, Tier] = {
    "starter": Tier(
        default=Size(0, 0, 0),
        maximum=Size(0, 0, 0),
        logins=Logins(3, 5),
        database_gib=2,
        log_days=30,
        availability=99.5,
        shared_runtime=True,
        claims=_OF_ALL,
        monthly_usd=99,
    ),
    "professional": Tier(
        default=Size(2, 4, 0),
        maximum=Size(4, 8, 0),
        logins=Logins(3, 5),
        database_gib=5,
        log_days=30,
        availability=99.5,
        namespace=True,
        dedicated_agent=True,
        commands=True,
        claims=_OF_NAMESPACES,
        monthly_usd=299,
    ),
    "enterprise": Tier(
        default=Size(4, 8, 50),
        maximum=Size(8, 32, 500),
        logins=Logins(4, 8),
        database_gib=20,
        log_days=90,
        availability=99.9,
        wake_seconds=30,
        namespace=True,
        machine=True,
        commands=True,
        idle_seconds=900,
        encrypted_workspace=True,
        vpn=True,
        claims=_OF_MACHINES,
        monthly_usd=999,
    ),
    "private-cloud": Tier(
        default=Size(4, 8, 100),
        maximum=Size(16, 128, 2000),
        logins=Logins(4, 10),
        database_gib=50,
        log_days=365,
        availability=99.9,
        wake_seconds=30,
        namespace=True,
        machine=True,
        commands=True,
        idle_seconds=900,
        encrypted_workspace=True,
        vpn=True,
        node_pool=True,
        own_database=True,
        claims=_OF_NODES,
        monthly_usd=None,
    ),
}
"""From the least to the most of its own."""
