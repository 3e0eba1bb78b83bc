"""The key that vouches for requests of tenants whose agents run together, and Vault, which takes its word.

Two pairs are kept and Vault takes the word of both, so that the gateway can change from one to the other
while requests are under way. The private half of the one that signs goes to the gateway and to nobody else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pulumi
import pulumi_vault as vault

from infra.platform.access_key import AccessKey
from infra.platform.vault import Vault

ISSUER = "gateway"
CLAIM = "tenant"
"""The claim that says for whom."""
SKEW = 30
"""By how many seconds the clocks of gateway and Vault may differ."""

SigningKey = Literal["first", "second"]


@dataclass(frozen=True, kw_only=True)
class Assertions:
    """The private key with which the gateway signs assertions."""

    key: pulumi.Output[str]
    """PKCS #8 in PEM. Secret."""
    key_id: pulumi.Output[str]
    accepted: pulumi.Resource
    """Vault's login, which takes its word."""


def declare_assertions(
    prefix: str, signing: SigningKey, platform: Vault, opts: pulumi.ResourceOptions
) -> Assertions:
    """Declare both pairs and Vault's login for what they sign; each tenant's own role is its own part."""
    own = pulumi.ResourceOptions(parent=opts.parent)
    keys: dict[SigningKey, AccessKey] = {
        "first": AccessKey(f"{prefix}-first-key", own),
        "second": AccessKey(f"{prefix}-second-key", own),
    }
    login = vault.jwt.AuthBackend(
        prefix,
        path=platform.jwt_auth_path,
        description="The shared runtime, for the tenant whose request the gateway has given it",
        bound_issuer=ISSUER,
        jwt_supported_algs=["EdDSA"],
        jwt_validation_pubkeys=[key.public.apply(_pem) for key in keys.values()],
        opts=pulumi.ResourceOptions.merge(own, pulumi.ResourceOptions(provider=platform.provider)),
    )
    chosen = keys[signing]
    return Assertions(key=chosen.private, key_id=chosen.public["kid"], accepted=login)


def _pem(public: Mapping[str, str]) -> str:
    """A JSON Web Key as Vault takes it."""
    import base64

    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(public["x"] + "="))
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    # Vault keeps it without the line's end, and would differ from it for ever.
    return pem.decode().strip()
