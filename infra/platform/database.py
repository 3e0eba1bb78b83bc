"""PostgreSQL, shared by all tenants, one schema each."""

from dataclasses import dataclass

import pulumi
import pulumi_postgresql as postgresql


@dataclass(frozen=True, kw_only=True)
class Database:
    """Where PostgreSQL is and how this program enters it."""

    provider: postgresql.Provider
    host: pulumi.Input[str]
    """As reached from where this program runs."""
    port: pulumi.Input[int]
    internal_host: pulumi.Input[str]
    """As reached from the cluster."""
    internal_port: pulumi.Input[int]
    name: str
    admin_user: str
    admin_password: pulumi.Output[str]
    """Secret."""
    ssl_mode: str
    issuer_role: pulumi.Output[str]
    """The role with which Vault makes tenants' logins. It must be granted each tenant's role with the admin
    option before it can do so (PostgreSQL 16 and newer)."""
    issuer_password: pulumi.Output[str]
    """Secret."""
