"""This program's way into the Kubernetes API. Each stack draws its own: no kubeconfig is handed around."""

import base64
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
import pulumiverse_exoscale as exoscale
import yaml

_DAY = 24 * 60 * 60


@dataclass(frozen=True, kw_only=True)
class KubernetesApi:
    """The Kubernetes API as it is reached from outside the cluster."""

    server: pulumi.Output[str]
    """`https://…`"""
    certificate_authority: pulumi.Output[str]
    """PEM."""
    cluster: pulumi.Output[str]
    """The SKS cluster's id."""
    zone: str
    kubeconfig_days: int
    """How many days a kubeconfig of this program lives."""
    kubeconfig_renewal_days: int
    """How many days before that it is renewed."""


@dataclass(frozen=True, kw_only=True)
class Kubeconfig:
    """A kubeconfig drawn from SKS, and how long it lives."""

    cluster: pulumi.Output[str]
    zone: str
    days: int
    renewal_days: int
    content: pulumi.Output[str]
    """Secret."""

    def api(self) -> KubernetesApi:
        """What it says of the API: address and CA are no secrets, though they come in one."""
        return KubernetesApi(
            server=self._field("server"),
            certificate_authority=self._field("certificate-authority-data").apply(
                lambda encoded: base64.b64decode(encoded).decode()
            ),
            cluster=self.cluster,
            zone=self.zone,
            kubeconfig_days=self.days,
            kubeconfig_renewal_days=self.renewal_days,
        )

    def provider(self, name: str, opts: pulumi.ResourceOptions) -> k8s.Provider:
        """Declare the provider that enters with it."""
        return k8s.Provider(
            f"{name}-kubernetes",
            kubeconfig=self.content,
            # The cluster's identity, not its credentials: a renewed kubeconfig must not replace every object.
            cluster_identifier=self.cluster,
            enable_server_side_apply=True,
            # A cut-off update has made objects that it could not write down; the next one takes them over.
            upsert_existing_objects=True,
            # Replaced, a Secret would be missing for a while under the name that others look for.
            enable_secret_mutable=True,
            enable_config_map_mutable=True,
            # An API that does not answer is a reason to stop, never to forget what runs there.
            delete_unreachable=False,
            opts=opts,
        )

    def _field(self, key: str) -> pulumi.Output[str]:
        def field(text: str) -> str:
            document: dict[str, Any] = yaml.safe_load(text)
            return str(document["clusters"][0]["cluster"][key])

        return pulumi.Output.unsecret(self.content.apply(field))


def kubeconfig(
    name: str,
    *,
    cluster: pulumi.Output[str],
    zone: str,
    days: int,
    renewal_days: int,
    opts: pulumi.ResourceOptions,
) -> Kubeconfig:
    """Have a kubeconfig drawn for the cluster with that SKS id."""
    drawn = exoscale.SksKubeconfig(
        f"{name}-kubeconfig",
        cluster_id=cluster,
        zone=zone,
        user="agent-platform",
        groups=["system:masters"],
        ttl_seconds=days * _DAY,
        early_renewal_seconds=renewal_days * _DAY,
        opts=opts,
    )
    return Kubeconfig(
        cluster=cluster, zone=zone, days=days, renewal_days=renewal_days, content=drawn.kubeconfig
    )
