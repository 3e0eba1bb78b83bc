"""Declares the objects of a vendored manifest.

The SDK's `ConfigFile` has the provider parse the file, and a provider without a cluster, as in the first
preview of everything, answers with no object at all. Parsed here, every object is in every plan.
"""

from pathlib import Path
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
import yaml

_CLASSES: dict[str, type[pulumi.CustomResource]] = {
    "v1/Namespace": k8s.core.v1.Namespace,
    "v1/ServiceAccount": k8s.core.v1.ServiceAccount,
    "apps/v1/Deployment": k8s.apps.v1.Deployment,
    "rbac.authorization.k8s.io/v1/Role": k8s.rbac.v1.Role,
    "rbac.authorization.k8s.io/v1/RoleBinding": k8s.rbac.v1.RoleBinding,
    "rbac.authorization.k8s.io/v1/ClusterRole": k8s.rbac.v1.ClusterRole,
    "rbac.authorization.k8s.io/v1/ClusterRoleBinding": k8s.rbac.v1.ClusterRoleBinding,
    "scheduling.k8s.io/v1/PriorityClass": k8s.scheduling.v1.PriorityClass,
    "apiextensions.k8s.io/v1/CustomResourceDefinition": k8s.apiextensions.v1.CustomResourceDefinition,
}
_SNAKE = {"roleRef": "role_ref"}


def declare(prefix: str, manifest: Path, opts: pulumi.ResourceOptions) -> list[pulumi.Resource]:
    """Declare each object of `manifest`, those in a namespace after the namespace.

    Raises:
        KeyError: an object is of a kind that `_CLASSES` does not list yet.
    """
    declared: list[pulumi.Resource] = []
    namespaces: list[pulumi.Resource] = []
    for document in yaml.load_all(manifest.read_text(), Loader=yaml.CSafeLoader):
        metadata: dict[str, Any] = document["metadata"]
        kind = document.pop("kind")
        declare_one = _CLASSES[f"{document.pop('apiVersion')}/{kind}"]
        resource = declare_one(
            f"{prefix}-{kind.lower()}-{metadata['name']}",
            opts=pulumi.ResourceOptions.merge(
                opts, pulumi.ResourceOptions(depends_on=namespaces if "namespace" in metadata else [])
            ),
            **{_SNAKE.get(key, key): value for key, value in document.items()},
        )
        declared.append(resource)
        if kind == "Namespace":
            namespaces.append(resource)
    return declared
