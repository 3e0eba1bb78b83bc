"""The gateway's place: it will wake a tenant's machine when a request comes in."""

from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s

from infra.platform.namespaces import namespace

NAMESPACE = "gateway"
"""Of the gateway, and of what it is told of each tenant."""


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """Where agents reach the gateway."""

    agents_address: str
    authority: pulumi.Output[str] | None
    """The certificate (PEM) of whoever vouches for it there; None: an authority that everybody trusts."""


def gateway_place(prefix: str, opts: pulumi.ResourceOptions) -> k8s.core.v1.ServiceAccount:
    """Declare the namespace `gateway` and the account the gateway will run under, without any right yet."""
    home = namespace(f"{prefix}-namespace", NAMESPACE, "restricted", opts)
    return k8s.core.v1.ServiceAccount(
        prefix,
        metadata=k8s.meta.v1.ObjectMetaArgs(name="gateway", namespace=home.metadata.name),
        automount_service_account_token=False,
        opts=opts,
    )
