"""The kubernetes provider: its configuration, its types and its one function."""

import importlib.metadata
from typing import Any

import yaml

from local.providers.kubernetes import helm, settings
from local.providers.kubernetes.connection import Connection
from local.providers.kubernetes.manifest import name, namespace, with_namespace
from local.providers.kubernetes.resource import KubernetesObject
from local.providers.provider import Call, Diff, Failure, Provider, ProviderError, Resource
from local.providers.schema import Schema
from local.providers.values import Properties, Unknown, differences

_SCHEMA = Schema("pulumi_kubernetes")
_DECODE = "kubernetes:yaml:decode"
_CLUSTER_KEYS = ("kubeconfig", "context", "cluster")
_IDENTIFIER = "clusterIdentifier"
_NOT_OBJECTS = ("helm.sh/", "yaml", "kustomize")
"""Modules whose types are made of many objects by Helm, Kustomize or the plugin itself."""


class Kubernetes(Provider):
    """The provider."""

    name = "kubernetes"
    version = importlib.metadata.version("pulumi-kubernetes")

    def __init__(self) -> None:
        """Not configured yet."""
        self._connection: Connection | None = None
        self._objects: Resource | None = None
        self._releases: Resource | None = None

    def check_config(self, call: Call, config: Properties) -> tuple[Properties, list[Failure]]:
        """Unknown keys are refused, and what only the official plugin can do.

        The rest is given back as it came, texts for switches: so has the official plugin's state.
        """
        checked, failures = _SCHEMA.provider.check(call.name, config)
        return config, failures + settings.failures(checked)

    def diff_config(self, old: Properties, new: Properties) -> Diff:
        """Another cluster means new objects; `clusterIdentifier`, where set, alone says which it is."""
        diff = Diff(changes=dict(differences(old, new)))
        identifier = new.get(_IDENTIFIER)
        if identifier is not None and identifier == old.get(_IDENTIFIER):
            return diff
        if identifier is not None and old.get(_IDENTIFIER) is not None:
            diff.replaces.add((_IDENTIFIER,))
        changed = [key for key in _CLUSTER_KEYS if (key,) in diff.changes]
        unknown = any(isinstance(new.get(key), Unknown) for key in _CLUSTER_KEYS)
        if unknown or _other_cluster(old, new):
            diff.replaces.update((key,) for key in changed)
        return diff

    def configure(self, config: Properties) -> None:
        """Where the cluster is; it is not asked yet."""
        checked, _ = _SCHEMA.provider.check(self.name, config)
        self._connection = Connection(settings.read(checked))
        self._objects = KubernetesObject(self._connection)
        self._releases = helm.Release(_SCHEMA, self._connection)

    def resource(self, token: str) -> Resource:
        """Any `kubernetes:group/version:Kind`."""
        if self._objects is None or self._releases is None:
            raise ProviderError("The kubernetes provider was not configured.")
        if token == helm.RELEASE:
            return self._releases
        module, _, kind = token.partition(":")[2].partition(":")
        if module.startswith(_NOT_OBJECTS):
            raise ProviderError(
                f"The stand-in for the kubernetes plugin does not have {token}. Put the official "
                "pulumi-resource-kubernetes on PATH."
            )
        if module.count("/") != 1 or not kind:
            raise ProviderError(f'apiVersion does not have both a group and a version: "{module}"')
        if kind.endswith("List") and _SCHEMA.knows(token):
            raise ProviderError(
                "list resources exist for compatibility with YAML manifests and Helm charts, and cannot be "
                "created directly. Use the underlying resource type instead"
            )
        return self._objects

    def invoke(self, call: Call, token: str, arguments: Properties) -> Properties:
        """`kubernetes:yaml:decode`, which the SDK's ConfigFile and ConfigGroup are made of."""
        if token != _DECODE:
            return super().invoke(call, token, arguments)
        text = arguments.get("text")
        if not isinstance(text, str):
            raise ProviderError("missing required field 'text' of type string")
        return {"result": self._decoded(text, str(arguments.get("defaultNamespace") or ""))}

    def _decoded(self, text: str, default_namespace: str) -> list[dict[str, Any]]:
        try:
            documents = list(yaml.load_all(text, Loader=_Loader))
        except yaml.YAMLError as error:
            raise ProviderError(f"error converting YAML to JSON: {error}") from error
        objects = []
        for document in documents:
            if not isinstance(document, dict) or not document.get("kind") or not document.get("apiVersion"):
                continue
            scoped = default_namespace and name(document) and not namespace(document)
            if scoped and self._connection is not None and self._connection.namespaced(document):
                document = with_namespace(document, default_namespace)
            objects.append(document)
        return objects


class _Loader(yaml.SafeLoader):
    """As the API reads YAML: a date is text."""


_Loader.yaml_implicit_resolvers = {
    character: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for character, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _other_cluster(old: Properties, new: Properties) -> bool:
    before, after = settings.active_cluster(old), settings.active_cluster(new)
    return before is not None and after is not None and before != after
