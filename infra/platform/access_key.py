"""The key pair that signs the tokens with which somebody is let in by the gateway: Ed25519, made once.

The public half is a JSON Web Key (RFC 8037), named by its thumbprint (RFC 7638). `AccessKeyProvider` runs in
Pulumi's host for dynamic resources; what is serialised of it is its name.
"""

import base64
import hashlib
import json
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider


class AccessKeyProvider(ResourceProvider):
    """Makes a key pair when the resource is created; nothing changes it afterwards."""

    serialize_as_secret_always = False

    def create(self, _props: dict[str, Any]) -> CreateResult:
        """Draw the private key, as PKCS #8 in PEM, and derive the public one."""
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        private = Ed25519PrivateKey.generate()
        pem = private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        point = {"crv": "Ed25519", "kty": "OKP", "x": _base64url(private.public_key().public_bytes_raw())}
        canonical = json.dumps(point, separators=(",", ":"), sort_keys=True)
        name = _base64url(hashlib.sha256(canonical.encode()).digest())
        public = {**point, "kid": name, "alg": "EdDSA", "use": "sig"}
        return CreateResult(name, {"private": pem.decode(), "public": public})

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """A pair has no inputs, so it never differs; replace the resource to rotate it."""
        return DiffResult(changes=False)


class AccessKey(Resource, module="agent-platform", name="AccessKey"):
    """A key pair; tokens of the one that it replaces are refused as soon as the gateway knows."""

    private: pulumi.Output[str]
    """Secret; unknown until it is made."""
    public: pulumi.Output[dict[str, str]]
    """A JSON Web Key."""

    def __init__(self, resource_name: str, opts: pulumi.ResourceOptions | None = None) -> None:
        """Declare a pair. Rotate it with `pulumi up --replace` on its URN."""
        super().__init__(
            _PROVIDER,
            resource_name,
            {"private": None, "public": None},
            pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(additional_secret_outputs=["private"])),
        )


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


_PROVIDER = AccessKeyProvider()
