"""TLS inside the cluster: cert-manager and a certificate authority of the platform's own.

Installed when a service that needs a server certificate is managed here. Engineers and CI trust the authority
through `VAULT_CACERT` and `PGSSLROOTCERT`; it is the key `ca.crt` of the Secret `platform-ca`.
"""

import base64
from collections.abc import Sequence
from functools import cached_property

import pulumi
import pulumi_kubernetes as k8s

from infra.platform import charts

_API = "cert-manager.io/v1"
_AUTHORITY = "platform-ca"


class Certificates:
    """Issues server certificates that cert-manager renews by itself."""

    def __init__(self, prefix: str, namespace: pulumi.Input[str], opts: pulumi.ResourceOptions) -> None:
        """Install cert-manager into `namespace` and make the authority there."""
        self._prefix, self._namespace, self._opts = prefix, namespace, opts
        release = charts.install(
            f"{prefix}-cert-manager",
            charts.CERT_MANAGER,
            release="cert-manager",
            namespace=namespace,
            values={
                "crds": {"enabled": True, "keep": True},
                "global": {"leaderElection": {"namespace": namespace}},
                # Issuers of the whole cluster take their key pair from here.
                "clusterResourceNamespace": namespace,
            },
            opts=opts,
        )
        self.release = release
        after = pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[release]))
        root = k8s.apiextensions.CustomResource(
            f"{prefix}-self-signed",
            api_version=_API,
            kind="ClusterIssuer",
            metadata={"name": "platform-self-signed"},
            spec={"selfSigned": {}},
            opts=after,
        )
        authority = k8s.apiextensions.CustomResource(
            f"{prefix}-ca",
            api_version=_API,
            kind="Certificate",
            metadata={"name": _AUTHORITY, "namespace": namespace, "annotations": _READY},
            spec={
                "isCA": True,
                "commonName": "Agent platform",
                "secretName": _AUTHORITY,
                "duration": "87600h",
                "privateKey": {"algorithm": "ECDSA", "size": 256},
                "issuerRef": {"kind": "ClusterIssuer", "name": "platform-self-signed"},
            },
            opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[root])),
        )
        self._issuer = k8s.apiextensions.CustomResource(
            f"{prefix}-ca-issuer",
            api_version=_API,
            kind="ClusterIssuer",
            metadata={"name": _AUTHORITY, "annotations": _READY},
            spec={"ca": {"secretName": _AUTHORITY}},
            opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[authority])),
        )

    @cached_property
    def authority(self) -> pulumi.Output[str]:
        """The authority's certificate (PEM), which is public.

        Read from a certificate made for this alone: a key that opens something would come into the state with
        the authority's own Secret, or with a server's.
        """
        issued = self.server("authority", self._namespace, ["authority.invalid"], self._opts)
        # Named like the certificate, and unknown until that is there.
        secret = k8s.core.v1.Secret.get(f"{self._prefix}-authority", issued.id, self._opts)
        return pulumi.Output.unsecret(
            secret.data.apply(lambda data: base64.b64decode(data["ca.crt"]).decode())
        )

    def server(
        self, name: str, namespace: pulumi.Input[str], dns_names: Sequence[str], opts: pulumi.ResourceOptions
    ) -> k8s.apiextensions.CustomResource:
        """Declare the Secret `NAME-tls` with `tls.crt`, `tls.key` and the authority's `ca.crt`."""
        return k8s.apiextensions.CustomResource(
            f"{self._prefix}-{name}-tls",
            api_version=_API,
            kind="Certificate",
            metadata={"name": f"{name}-tls", "namespace": namespace, "annotations": _READY},
            spec={
                "secretName": f"{name}-tls",
                # OpenBao and Valkey read it when they start, which every upgrade makes them do.
                "duration": "43800h",
                # CloudNativePG reads it again when it changes, if it is told to.
                "secretTemplate": {"labels": {"cnpg.io/reload": "true"}},
                "dnsNames": list(dns_names),
                "usages": ["server auth"],
                "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
                "issuerRef": {"kind": "ClusterIssuer", "name": _AUTHORITY},
            },
            opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[self._issuer])),
        )


_READY = {"pulumi.com/waitFor": "condition=Ready"}
"""Tells the Kubernetes provider to wait until the object says that it is ready."""
