"""The Kubernetes API: etcd and kube-apiserver, as processes on loopback.

Authorization, admission, tokens and garbage collection are those of any cluster; what is missing (nodes,
a scheduler) is played by `local.node_agent`.
"""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from local import ports, store, toolchain
from local.paths import DATA
from local.servers import certificates, kubernetes_api
from local.servers.kubernetes_api import ADMIN, LOOPBACK, client
from local.supervisor import Service

__all__ = [
    "API_URL",
    "KUBECONFIG",
    "bootstrap",
    "ca_certificate",
    "client",
    "environment",
    "issue_client_certificate",
    "prepare",
    "services",
    "write_kubeconfig",
]

KUBECONFIG = DATA / "kubeconfig"
"""The administrator's access."""

_HOME = DATA / "kubernetes"
_ISSUER = "https://kubernetes.default.svc"
_HOSTS = ("localhost", LOOPBACK, "kubernetes", "kubernetes.default", "kubernetes.default.svc")
# etcd holds every Secret and the authority signs for anyone: only a certificate that names this host gets in.
_ETCD_CLIENT = "etcd-client"
_FRONT_PROXY = "front-proxy-client"


def API_URL() -> str:  # noqa: N802 - a constant, but for the port
    """Return the address of the API."""
    return kubernetes_api.address()


def ca_certificate() -> str:
    """Return the certificate that the API's own is signed by, PEM."""
    return certificates.ca_certificate()


def issue_client_certificate(user: str, groups: Sequence[str], ttl_seconds: int) -> tuple[str, str]:
    """Sign a certificate for a user in groups; returns it and its key, PEM."""
    return certificates.issue(user, groups=groups, ttl_seconds=ttl_seconds)


def services() -> list[Service]:
    """Tell how the two processes run."""
    return [_etcd(), _apiserver()]


def prepare() -> None:
    """Have certificates, keys and kubeconfigs on disk."""
    certificates.keep("etcd", "etcd", hosts=["localhost", LOOPBACK])
    certificates.keep("etcd-client", "kube-apiserver", hosts=[_ETCD_CLIENT])
    certificates.keep("kube-apiserver", "kube-apiserver", hosts=_HOSTS)
    certificates.keep("front-proxy", _FRONT_PROXY)
    certificates.keep(ADMIN, ADMIN, groups=["system:masters"])
    certificates.keep_key("service-accounts")
    store.private_folder(_HOME)
    write_kubeconfig(KUBECONFIG, ADMIN)


def bootstrap() -> None:
    """Have what is there of a Longhorn that is given: its namespace and definitions.

    The program makes its objects, the node agent the volumes.
    """
    longhorn = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "longhorn-system"}}
    kubernetes_api.apply([longhorn])
    kubernetes_api.apply([_without_conversion(definition) for definition in toolchain.objects("longhorn")])


def environment() -> dict[str, str]:
    """Return what `kubectl` and other clients need."""
    return {"KUBECONFIG": str(KUBECONFIG)}


def write_kubeconfig(path: Path, certificate: str) -> None:
    """Write the access of a kept certificate, complete in one file."""
    pair = base64.b64encode(certificates.path(certificate).read_bytes()).decode()
    authority = base64.b64encode(ca_certificate().encode()).decode()
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "agent-platform",
        "clusters": [
            {
                "name": "agent-platform",
                "cluster": {"server": API_URL(), "certificate-authority-data": authority},
            }
        ],
        # One PEM text holds both; clients take from it what they look for.
        "users": [
            {"name": certificate, "user": {"client-certificate-data": pair, "client-key-data": pair}},
        ],
        "contexts": [
            {"name": "agent-platform", "context": {"cluster": "agent-platform", "user": certificate}},
        ],
    }
    store.write_text(path, json.dumps(content, indent=2))


def _without_conversion(definition: dict[str, Any]) -> dict[str, Any]:
    """Leave out the webhook that converts old versions, a part of Longhorn's manager that is not here."""
    definition["spec"].pop("conversion", None)
    return definition


def _etcd() -> Service:
    client_url = f"https://{LOOPBACK}:{ports.port('etcd')}"
    peer_url = f"https://{LOOPBACK}:{ports.port('etcd-peer')}"
    pair = str(certificates.path("etcd"))
    return Service(
        name="etcd",
        command=[
            str(toolchain.tool("etcd")),
            "--name=etcd",
            f"--data-dir={DATA / 'etcd'}",
            f"--listen-client-urls={client_url}",
            f"--advertise-client-urls={client_url}",
            f"--listen-peer-urls={peer_url}",
            f"--initial-advertise-peer-urls={peer_url}",
            f"--initial-cluster=etcd={peer_url}",
            f"--cert-file={pair}",
            f"--key-file={pair}",
            "--client-cert-auth",
            f"--trusted-ca-file={certificates.CA_FILE}",
            f"--client-cert-allowed-hostname={_ETCD_CLIENT}",
            f"--peer-cert-file={pair}",
            f"--peer-key-file={pair}",
            "--peer-client-cert-auth",
            f"--peer-trusted-ca-file={certificates.CA_FILE}",
            "--peer-cert-allowed-cn=etcd",
            "--enable-grpc-gateway=false",
            "--log-level=warn",
        ],
        ports=[ports.port("etcd"), ports.port("etcd-peer")],
        ready=lambda: _healthy("etcd", "/health", "etcd-client"),
    )


def _apiserver() -> Service:
    pair = str(certificates.path("kube-apiserver"))
    etcd_pair = str(certificates.path("etcd-client"))
    front_pair = str(certificates.path("front-proxy"))
    tokens = str(certificates.key_path("service-accounts"))
    return Service(
        name="kube-apiserver",
        command=[
            str(toolchain.tool("kube-apiserver")),
            f"--bind-address={LOOPBACK}",
            f"--secure-port={ports.port('kube-apiserver')}",
            # Endpoints may not hold loopback addresses, and nothing looks the API up in the cluster.
            f"--advertise-address={LOOPBACK}",
            "--endpoint-reconciler-type=none",
            f"--etcd-servers=https://{LOOPBACK}:{ports.port('etcd')}",
            f"--etcd-cafile={certificates.CA_FILE}",
            f"--etcd-certfile={etcd_pair}",
            f"--etcd-keyfile={etcd_pair}",
            f"--tls-cert-file={pair}",
            f"--tls-private-key-file={pair}",
            f"--client-ca-file={certificates.CA_FILE}",
            # How servers behind the API (KubeVirt's) know that a request came through it, and from whom.
            f"--requestheader-client-ca-file={certificates.CA_FILE}",
            f"--requestheader-allowed-names={_FRONT_PROXY}",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={front_pair}",
            f"--proxy-client-key-file={front_pair}",
            f"--service-account-issuer={_ISSUER}",
            f"--service-account-signing-key-file={tokens}",
            f"--service-account-key-file={tokens}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--authorization-mode=RBAC",
            # As on SKS; whether a namespace takes privileged Pods is PodSecurity's to say.
            "--allow-privileged=true",
            "--profiling=false",
        ],
        ports=[ports.port("kube-apiserver")],
        ready=lambda: _healthy("kube-apiserver", "/readyz", ADMIN),
    )


def _healthy(server: str, path: str, certificate: str) -> None:
    kubernetes_api.check(f"https://{LOOPBACK}:{ports.port(server)}{path}", certificate)
