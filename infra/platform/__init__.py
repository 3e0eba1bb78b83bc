"""What runs on the cluster for all tenants: one file per service."""

from infra.platform.database import Database
from infra.platform.platform import Platform
from infra.platform.redis import Redis
from infra.platform.vault import Vault

__all__ = ["Database", "Platform", "Redis", "Vault"]
