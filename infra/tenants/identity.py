"""What an agent is told of itself: who it is and where to ask for the rest, and no credential."""

import json

from infra.platform.agent_pods import AUTHORITY, FOLDER
from infra.platform.vault import Vault
from infra.tenants.roster import TenantEntry
from infra.tenants.secrets import OBJECT_STORAGE

FILE = "identity.json"


def identity(tenant: TenantEntry, vault: Vault) -> str:
    """The contents of `identity.json`, alike in a machine and in a pod."""
    return json.dumps(
        {
            "tenant": tenant.id,
            "tier": tenant.tier,
            "vault": {
                "address": vault.address,
                "authority": f"{FOLDER}/{AUTHORITY}" if vault.authority else None,
                "authentication": {"path": f"auth/{vault.kubernetes_auth_path}", "role": tenant.dashed},
                "secrets": f"{vault.kv_mount}/{tenant.id}",
                "objectStorage": f"{vault.kv_mount}/{tenant.id}/{OBJECT_STORAGE}",
                "databaseLogin": f"{vault.database_mount}/creds/{tenant.dashed}",
            },
        }
    )
