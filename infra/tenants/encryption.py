"""The key of a tenant's encrypted workspace.

Longhorn takes it from the Secret that has the claim's name, in the claim's namespace
(<https://longhorn.io/docs/1.12.0/advanced-resources/security/volume-encryption/>). Nobody in the namespace
may read Secrets. The key is worth the data: kept as the volume is, gone with it (docs/decisions/0034).
"""

from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s

from infra.platform.password import Password
from infra.tenants.lifecycle import protected, workspace_may_go
from infra.tenants.namespace import labels
from infra.tenants.roster import TenantEntry

_LUKS = {
    "CRYPTO_KEY_PROVIDER": "secret",
    "CRYPTO_KEY_CIPHER": "aes-xts-plain64",
    # XTS takes half of it for each of its two keys: AES-256.
    "CRYPTO_KEY_SIZE": "512",
    "CRYPTO_KEY_HASH": "sha256",
    # Slow derivation protects what people can remember; this key has 256 random bits.
    "CRYPTO_PBKDF": "pbkdf2",
}


@dataclass(frozen=True, kw_only=True)
class Key:
    """What opens a volume."""

    value: pulumi.Output[str]
    """Secret."""
    declared: pulumi.Resource
    """What the volume has to wait for."""


def declare_key(tenant: TenantEntry, opts: pulumi.ResourceOptions) -> Key:
    """Declare the key, which is drawn once and never changes, and the Secret with it."""
    name = tenant.id
    drawn = pulumi.ResourceOptions(parent=opts.parent, depends_on=opts.depends_on)
    key = Password(f"{name}-workspace-key", protected(drawn, tenant, "workspace"))
    secret = k8s.core.v1.Secret(
        f"{name}-workspace-encryption",
        metadata={"name": f"workspace-{name}", "namespace": tenant.dashed, "labels": labels(tenant)},
        # The API server refuses another key under this name, whoever asks for it.
        immutable=True,
        string_data={"CRYPTO_KEY_VALUE": key.value, **_LUKS},
        # As the claim: it goes with its namespace, or alone when the roster says that it may.
        opts=protected(
            pulumi.ResourceOptions.merge(
                opts, pulumi.ResourceOptions(retain_on_delete=not workspace_may_go(tenant))
            ),
            tenant,
            "workspace",
        ),
    )
    return Key(value=key.value, declared=secret)
