"""A WireGuard key pair: X25519, made once (<https://www.wireguard.com/protocol/>, RFC 7748).

`KeyPairProvider` runs in Pulumi's host for dynamic resources; what is serialised of it is its name.
"""

import base64
import secrets
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider


class KeyPairProvider(ResourceProvider):
    """Makes a key pair when the resource is created; nothing changes it afterwards."""

    serialize_as_secret_always = False

    def create(self, _props: dict[str, Any]) -> CreateResult:
        """Draw the private key and derive the public one, both as `wg` writes them."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        private = X25519PrivateKey.generate()
        pair = {
            "private": private.private_bytes_raw(),
            "public": private.public_key().public_bytes_raw(),
        }
        return CreateResult(
            secrets.token_hex(8), {name: base64.b64encode(key).decode() for name, key in pair.items()}
        )

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """A pair has no inputs, so it never differs; replace the resource to rotate it."""
        return DiffResult(changes=False)


class KeyPair(Resource, module="agent-platform", name="WireGuardKeyPair"):
    """A key pair in base64."""

    private: pulumi.Output[str]
    """Secret; unknown until it is made."""
    public: pulumi.Output[str]

    def __init__(self, resource_name: str, opts: pulumi.ResourceOptions) -> None:
        """Declare a pair. Rotate it with `pulumi up --replace` on its URN, and tell the peers."""
        super().__init__(
            _PROVIDER,
            resource_name,
            {"private": None, "public": None},
            pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(additional_secret_outputs=["private"])),
        )


_PROVIDER = KeyPairProvider()
