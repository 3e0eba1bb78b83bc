"""Monitoring's place. Node exporters read the node itself, which only `privileged` allows."""

import pulumi
import pulumi_kubernetes as k8s

from infra.platform.namespaces import namespace


def monitoring_place(prefix: str, opts: pulumi.ResourceOptions) -> k8s.core.v1.Namespace:
    """Declare the namespace `monitoring`."""
    return namespace(f"{prefix}-namespace", "monitoring", "privileged", opts)
