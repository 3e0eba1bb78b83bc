"""What an agent is told of itself: who it is and where to ask for the rest, and no credential."""

import json
from collections.abc import Mapping

import pulumi

from infra.platform.agent_pods import AUTHORITY, DATABASE_AUTHORITY, FOLDER, GATEWAY_AUTHORITY
from infra.platform.services import Services
from infra.tenants.roster import TenantEntry
from infra.tenants.secrets import OBJECT_STORAGE

FILE = "identity.json"


def identity_files(tenant: TenantEntry, platform: Services) -> pulumi.Output[Mapping[str, str]]:
    """`identity.json` and what it refers to, by name, alike in a machine and in a pod."""
    database = platform.database
    return pulumi.Output.all(
        vault=platform.vault.authority,
        gateway=platform.gateway.authority if tenant.parts.machine else None,
        database=database.authority,
        url=database.url(
            f"{FOLDER}/{DATABASE_AUTHORITY}", tenant.underscored if tenant.own_database else None
        ),
    ).apply(
        lambda known: {
            name: content
            for name, content in (
                (FILE, _identity(tenant, platform, known["vault"], known["gateway"], known["url"])),
                (AUTHORITY, known["vault"]),
                (GATEWAY_AUTHORITY, known["gateway"]),
                (DATABASE_AUTHORITY, known["database"]),
            )
            if content
        }
    )


def _identity(
    tenant: TenantEntry, platform: Services, vault: str | None, gateway: str | None, database: str
) -> str:
    service = platform.vault
    return json.dumps(
        {
            "tenant": tenant.id,
            "tier": tenant.tier,
            "commands": tenant.parts.commands,
            # To put its workspace into the prefix, and to do nothing else.
            "leaving": tenant.state == "moving",
            "vault": {
                "address": service.address,
                "authority": f"{FOLDER}/{AUTHORITY}" if vault else None,
                "authentication": {"path": f"auth/{service.kubernetes_auth_path}", "role": tenant.dashed},
                "secrets": f"{service.kv_mount}/{tenant.id}",
                "objectStorage": f"{service.kv_mount}/{tenant.id}/{OBJECT_STORAGE}",
                "databaseLogin": f"{service.database_mount}/creds/{tenant.dashed}",
            },
            "gateway": {
                "address": platform.gateway.agents_address,
                "authority": f"{FOLDER}/{GATEWAY_AUTHORITY}" if gateway else None,
            }
            # Where nothing sleeps, nobody has to be kept from it.
            if tenant.parts.machine
            else None,
            "database": database,
            "objectStorage": platform.object_storage.endpoint,
        }
    )
