"""The gateway's place: it will wake a tenant's machine when a request comes in."""

import pulumi
import pulumi_kubernetes as k8s

from infra.platform.namespaces import namespace


def gateway_place(prefix: str, opts: pulumi.ResourceOptions) -> k8s.core.v1.ServiceAccount:
    """Declare the namespace `gateway` and the account the gateway will run under, without any right yet."""
    home = namespace(f"{prefix}-namespace", "gateway", "restricted", opts)
    return k8s.core.v1.ServiceAccount(
        prefix,
        metadata=k8s.meta.v1.ObjectMetaArgs(name="gateway", namespace=home.metadata.name),
        automount_service_account_token=False,
        opts=opts,
    )
