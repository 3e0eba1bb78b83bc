"""A random value that differs for each machine that a tenant gets."""

import secrets
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider


class GenerationProvider(ResourceProvider):
    """Draws a value when the resource is created; nothing changes it afterwards."""

    serialize_as_secret_always = False

    def create(self, _props: dict[str, Any]) -> CreateResult:
        """Draw 64 bits."""
        value = secrets.token_hex(8)
        return CreateResult(value, {"value": value})

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        """It has no inputs, so it never differs."""
        return DiffResult(changes=False)


class Generation(Resource, module="agent-platform", name="Generation"):
    """A random value for each machine that a tenant gets; its volume's note carries it.

    A volume outlives its machine (`keep: [workspace]`), and what the tenant wrote meanwhile lies in its
    prefix: by this value, the next machine knows that the volume's note is another machine's
    (docs/decisions/0072).
    """

    value: pulumi.Output[str]
    """Unknown until it is made."""

    def __init__(self, resource_name: str, opts: pulumi.ResourceOptions) -> None:
        """Declare it."""
        super().__init__(GenerationProvider(), resource_name, {"value": None}, opts)
