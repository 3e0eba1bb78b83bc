"""Where an example declares its resources: under names of its own, with providers that ask nobody."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import pulumi
from pulumi.dynamic import ResourceProvider
from pulumi.dynamic.dynamic import PROVIDER_KEY, serialize_provider

from policy.subjects import TENANT

_NO_PROVIDER = serialize_provider(ResourceProvider())


def unknown() -> pulumi.Output[Any]:
    """A value that no preview knows."""
    known: Any = pulumi.Output.from_input(False).future()
    value: Any = pulumi.Output.from_input(None).future()
    return pulumi.Output(set(), value, known)


class Stage:
    """What all examples of a program share: providers whose servers are not known yet."""

    @cached_property
    def _providers(self) -> dict[str, pulumi.ProviderResource]:
        wanted: dict[str, dict[str, Any]] = {
            "kubernetes": {"kubeconfig": unknown()},
            "postgresql": {"host": unknown(), "sslmode": "verify-full"},
            "vault": {"address": "https://vault.example.ch:8200", "skipChildToken": True},
        }
        return {
            package: pulumi.ProviderResource(package, f"stage-{package}", settings)
            for package, settings in wanted.items()
        }

    def provider(self, token: str) -> pulumi.ProviderResource | None:
        """The provider of a type; None for one that needs none of ours."""
        return self._providers.get(token.partition(":")[0])


class Scene:
    """An example's own part of the program."""

    def __init__(self, name: str, tenant_id: str, stage: Stage) -> None:
        """`name` is the example's; `tenant_id` belongs to no other example."""
        self.name = name
        self.tenant_id = tenant_id
        self.names: set[str] = set()
        """Of every resource that the example declares."""
        self._stage = stage

    @property
    def namespace(self) -> str:
        """A Kubernetes namespace that no other example uses."""
        return self.name

    def declare(
        self,
        token: str,
        inputs: Mapping[str, Any],
        *,
        suffix: str = "",
        parent: pulumi.Resource | None = None,
        **options: Any,
    ) -> pulumi.CustomResource:
        """Declare a resource by its type's token, with inputs as the engine has them (camelCase)."""
        opts = pulumi.ResourceOptions(parent=parent, provider=self._stage.provider(token), **options)
        # The host of dynamic resources is handed the provider with each of them; this one does nothing.
        handed = {PROVIDER_KEY: _NO_PROVIDER} if token.startswith("pulumi-python:") else {}
        return pulumi.CustomResource(token, self._named(suffix), {**inputs, **handed}, opts)

    def kubernetes(
        self,
        token: str,
        inputs: Mapping[str, Any],
        *,
        suffix: str = "",
        parent: pulumi.Resource | None = None,
        metadata: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> pulumi.CustomResource:
        """Declare a Kubernetes object, `token` without its package, in the scene's namespace."""
        api, _, kind = token.rpartition(":")
        named = {"name": self._full(suffix), "namespace": self.namespace, **(metadata or {})}
        return self.declare(
            f"kubernetes:{token}",
            {"apiVersion": api.removeprefix("core/"), "kind": kind, "metadata": named, **inputs},
            suffix=suffix,
            parent=parent,
            **options,
        )

    def provider(
        self, package: str, inputs: Mapping[str, Any], *, suffix: str = "provider"
    ) -> pulumi.ProviderResource:
        """Declare a provider, itself the thing to be judged."""
        return pulumi.ProviderResource(package, self._named(suffix), dict(inputs))

    def tenant(self) -> pulumi.ComponentResource:
        """The component of a tenant whose id is `tenant_id`."""
        self.names.add(self.tenant_id)
        return pulumi.ComponentResource(TENANT, self.tenant_id)

    def neighbour(self) -> "Scene":
        """A scene beside this one, for another tenant; what is told of it is not the example's."""
        return Scene(f"{self.name}.neighbour", f"{self.tenant_id}b", self._stage)

    def _full(self, suffix: str) -> str:
        return f"{self.name}.{suffix}" if suffix else self.name

    def _named(self, suffix: str) -> str:
        name = self._full(suffix)
        assert name not in self.names, f"two resources of {self.name} have one name: give each a suffix"
        self.names.add(name)
        return name
