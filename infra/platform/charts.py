"""Every Helm chart the platform installs, pinned, and the one way to install it.

Sources: each project's own repository. No chart of Bitnami: its free images are gone since August 2025.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_kubernetes as k8s


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart at one version."""

    name: str
    version: str
    repository: str


CERT_MANAGER = Chart(name="cert-manager", version="v1.20.3", repository="https://charts.jetstack.io")
LONGHORN = Chart(name="longhorn", version="1.12.0", repository="https://charts.longhorn.io")
CLOUDNATIVE_PG = Chart(
    name="cloudnative-pg", version="0.29.0", repository="https://cloudnative-pg.github.io/charts"
)
BARMAN_CLOUD = Chart(
    name="plugin-barman-cloud", version="0.7.0", repository="https://cloudnative-pg.github.io/charts"
)
VALKEY = Chart(name="valkey", version="0.11.0", repository="https://valkey.io/valkey-helm/")
KUBE_PROMETHEUS_STACK = Chart(
    name="kube-prometheus-stack",
    version="88.5.3",
    repository="https://prometheus-community.github.io/helm-charts",
)
OPENTELEMETRY_COLLECTOR = Chart(
    name="opentelemetry-collector",
    version="0.165.0",
    repository="https://open-telemetry.github.io/opentelemetry-helm-charts",
)
OPENBAO = Chart(name="openbao", version="0.29.2", repository="https://openbao.github.io/openbao-helm")


def install(
    resource_name: str,
    chart: Chart,
    *,
    release: str,
    namespace: pulumi.Input[str],
    values: Mapping[str, Any],
    wait: bool = True,
    opts: pulumi.ResourceOptions,
) -> k8s.helm.v3.Release:
    """Install `chart` as the Helm release `release`; a failed first installation leaves nothing behind.

    `wait=False` is for what cannot get ready by itself, such as a Vault nobody has unsealed yet.
    """
    return k8s.helm.v3.Release(
        resource_name,
        name=release,
        chart=chart.name,
        version=chart.version,
        repository_opts=k8s.helm.v3.RepositoryOptsArgs(repo=chart.repository),
        namespace=namespace,
        values=values,
        atomic=wait,
        skip_await=not wait,
        timeout=900,
        opts=opts,
    )
