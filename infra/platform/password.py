"""A random password, made once and kept as a secret in the state."""

import secrets
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider


class PasswordProvider(ResourceProvider):
    """Makes a password when the resource is created; nothing changes it afterwards."""

    serialize_as_secret_always = False

    def create(self, _props: dict[str, Any]) -> CreateResult:
        """Draw 256 bits; the alphabet needs no quoting in a URL, in SQL or in YAML."""
        return CreateResult(secrets.token_hex(8), {"value": secrets.token_urlsafe(32)})

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """A password has no inputs, so it never differs; replace the resource to rotate it."""
        return DiffResult(changes=False)


class Password(Resource, module="agent-platform", name="Password"):
    """A password of 43 characters."""

    value: pulumi.Output[str]
    """Secret; unknown until it is made."""

    def __init__(self, resource_name: str, opts: pulumi.ResourceOptions | None = None) -> None:
        """Declare a password. Rotate it with `pulumi up --replace` on its URN."""
        super().__init__(
            PasswordProvider(),
            resource_name,
            {"value": None},
            pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(additional_secret_outputs=["value"])),
        )
