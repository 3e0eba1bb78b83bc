"""What the gateway knows of a tenant: who is let in, where its requests lead, and whether it may be woken.

Beside that stands what was agreed with it, for monitoring.

It is a ConfigMap in the gateway's namespace, which the gateway follows and nobody's agent can reach. A tenant
signs its tokens with a key of its own, whose private half is in its part of Vault and whose public half is in
its route, so that nobody else's token opens it, and the gateway could make none.
"""

import json
from collections.abc import Mapping
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
from pulumi_vault.kv import SecretV2

from infra.platform import gateway, shared_runtime
from infra.platform.access_key import AccessKey
from infra.platform.services import Services
from infra.platform.vault import Vault
from infra.tenants.namespace import labels
from infra.tenants.price import list_price, price
from infra.tenants.roster import TenantEntry
from infra.tenants.secrets import GATEWAY

_LABEL = "agent-platform/route"
_FILE = "route.json"
_TERMS = "terms.json"


def declare_access_key(tenant: TenantEntry, vault: Vault, opts: pulumi.ResourceOptions) -> AccessKey:
    """Declare the key that the tenant signs its tokens with; it has the same one in every tier and state."""
    key = AccessKey(f"{tenant.id}-access-key", opts)
    SecretV2(
        f"{tenant.id}-gateway",
        mount=vault.kv_mount,
        name=f"{tenant.id}/{GATEWAY}",
        data_json=pulumi.Output.json_dumps(
            {"private_key": key.private, "key_id": key.public["kid"], "audience": tenant.id}
        ),
        delete_all_versions=True,
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(provider=vault.provider)),
    )
    return key


def declare_route(
    tenant: TenantEntry, platform: Services, key: AccessKey, opts: pulumi.ResourceOptions
) -> pulumi.Resource:
    """Declare where the gateway sends what comes in for `https://ID.DOMAIN`, and with what state."""
    told = _route(tenant, platform)
    return k8s.core.v1.ConfigMap(
        f"{tenant.id}-route",
        metadata={
            "name": f"route-{tenant.id}",
            "namespace": gateway.NAMESPACE,
            "labels": {**labels(tenant), _LABEL: tenant.id},
        },
        data={
            _FILE: key.public.apply(
                lambda public: json.dumps({**told, "keys": {"keys": [public]}}, indent=1, sort_keys=True)
            ),
            _TERMS: json.dumps(terms(tenant, platform.prices), indent=1, sort_keys=True),
        },
        opts=opts,
    )


def served_by(tenant: TenantEntry) -> str:
    """Where its agents run while it is active."""
    if tenant.parts.machine:
        return "machine"
    return "deployment" if tenant.parts.dedicated_agent else "shared runtime"


def terms(tenant: TenantEntry, prices: Mapping[str, float | None] | None) -> dict[str, Any]:
    """Return what monitoring holds the platform to: what the contract says, or else the tier."""
    tier, contract = tenant.parts, tenant.contract
    agreed = {
        "availability": round((contract.availability or tier.availability) / 100, 7),
        "wakeSeconds": contract.wake_seconds or tier.wake_seconds,
        "logDays": tier.log_days,
        "budgetChf": contract.budget_chf,
        "listPriceChf": list_price(tenant, prices) if prices else None,
    }
    return {name: value for name, value in agreed.items() if value is not None}


def _route(tenant: TenantEntry, platform: Services) -> dict[str, Any]:
    size = tenant.size
    own: dict[str, Any] = {}
    if tenant.parts.machine:
        own["idleSeconds"] = tenant.idle_limit
    if not tenant.parts.shared_runtime:
        own["size"] = {
            "cpu": size.cpu,
            "memoryGib": size.memory_gib,
            "workspaceGib": size.workspace_gib if tenant.has_workspace else 0,
        }
        if platform.prices:
            own["price"] = price(tenant, platform.prices)
    return {
        "tenant": tenant.id,
        "tier": tenant.tier,
        "state": tenant.state,
        "servedBy": served_by(tenant),
        "namespace": shared_runtime.NAMESPACE if tenant.parts.shared_runtime else tenant.dashed,
        **own,
    }
