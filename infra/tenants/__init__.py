"""A customer of the roster, and everything that makes its own computer."""

from infra.tenants.roster import TenantEntry, load_roster
from infra.tenants.tenant import Tenant

__all__ = ["Tenant", "TenantEntry", "load_roster"]
