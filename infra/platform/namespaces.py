"""Namespaces, each with the pod security standard its pods keep to.

<https://kubernetes.io/docs/concepts/security/pod-security-standards/>
"""

from typing import Literal

import pulumi
import pulumi_kubernetes as k8s

Level = Literal["privileged", "baseline", "restricted"]


def namespace(
    resource_name: str, name: str, level: Level, opts: pulumi.ResourceOptions
) -> k8s.core.v1.Namespace:
    """Declare the namespace `name`; pods that ask for more than `level` are refused by the API server."""
    return k8s.core.v1.Namespace(
        resource_name,
        metadata=k8s.meta.v1.ObjectMetaArgs(
            name=name,
            labels={
                "app.kubernetes.io/part-of": "agent-platform",
                "pod-security.kubernetes.io/enforce": level,
                "pod-security.kubernetes.io/enforce-version": "latest",
                "pod-security.kubernetes.io/warn": level,
            },
        ),
        opts=opts,
    )
