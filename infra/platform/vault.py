"""Vault (OpenBao): tenants' secrets, and short-lived logins to PostgreSQL."""

from dataclasses import dataclass

import pulumi
import pulumi_vault as vault


@dataclass(frozen=True, kw_only=True)
class Vault:
    """Where Vault is, and the mounts that tenants are given a part of."""

    provider: vault.Provider
    address: pulumi.Input[str]
    kv_mount: pulumi.Output[str]
    """The KV v2 mount `tenants`."""
    database_mount: pulumi.Output[str]
    """The database secrets engine's mount `database`."""
    database_connection: pulumi.Output[str]
    """The connection `agents` on that mount."""
    kubernetes_auth_path: pulumi.Output[str]
    """The Kubernetes auth method's mount `kubernetes`."""
