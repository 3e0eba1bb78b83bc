"""What an agent is told of itself: who it is and where to ask for the rest, and no credential."""

import json
from collections.abc import Mapping
from typing import Any

import pulumi

from infra.platform.agent_pods import AUTHORITY, DATABASE_AUTHORITY, FOLDER, GATEWAY_AUTHORITY
from infra.platform.services import Services
from infra.tenants.roster import TenantEntry
from infra.tenants.secrets import OBJECT_STORAGE

FILE = "identity.json"


def identity_files(
    tenant: TenantEntry, platform: Services, machine: pulumi.Output[str] | None = None
) -> pulumi.Output[Mapping[str, str]]:
    """`identity.json` and what it refers to, by name, alike in a machine and in a pod.

    `machine` tells a machine from an earlier one of the tenant's.
    """
    database = platform.database
    return pulumi.Output.all(
        machine=machine,
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
                (FILE, _identity(tenant, platform, known)),
                (AUTHORITY, known["vault"]),
                (GATEWAY_AUTHORITY, known["gateway"]),
                (DATABASE_AUTHORITY, known["database"]),
            )
            if content
        }
    )


def _identity(tenant: TenantEntry, platform: Services, known: Mapping[str, Any]) -> str:
    service = platform.vault
    return json.dumps(
        {
            "tenant": tenant.id,
            "tier": tenant.tier,
            "commands": tenant.parts.commands,
            "machine": known["machine"],
            # To put its workspace into the prefix, and to do nothing else.
            "leaving": tenant.state == "moving",
            "vault": {
                "address": service.address,
                "authority": f"{FOLDER}/{AUTHORITY}" if known["vault"] else None,
                "authentication": {"path": f"auth/{service.kubernetes_auth_path}", "role": tenant.dashed},
                "secrets": f"{service.kv_mount}/{tenant.id}",
                "objectStorage": f"{service.kv_mount}/{tenant.id}/{OBJECT_STORAGE}",
                "databaseLogin": f"{service.database_mount}/creds/{tenant.dashed}",
            },
            "gateway": {
                "address": platform.gateway.agents_address,
                "authority": f"{FOLDER}/{GATEWAY_AUTHORITY}" if known["gateway"] else None,
            }
            # Where nothing sleeps, nobody has to be kept from it.
            if tenant.parts.machine
            else None,
            "database": known["url"],
            "objectStorage": platform.object_storage.endpoint,
        }
    )
