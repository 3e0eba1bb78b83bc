"""The scrape jobs of Prometheus, as `scrape_configs` in its own format.

<https://prometheus.io/docs/prometheus/latest/configuration/configuration/#scrape_config>. It is the one form
that a Prometheus of kube-prometheus-stack and a Prometheus that is given both take as it stands.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.platform import envoy, vault
from infra.platform.network_policies import Destination, pods_at
from infra.settings import ManagedDatabase, ManagedVault, Settings

HEALTH_PORT = 9090
"""The port at which the platform's own services answer probes and Prometheus."""
COLLECTOR = "opentelemetry-collector"
"""The Helm release of the logs' collector, by which its pods are named and labelled."""
COLLECTOR_PORT = 8888
AUTHORITY = "platform-authority"
"""The ConfigMap with the certificate of the platform's authority; Prometheus has it as a file."""
_AUTHORITY_FILE = f"/etc/prometheus/configmaps/{AUTHORITY}/ca.crt"

_TENANT = {
    "source_labels": ["namespace"],
    "regex": "tenant-(.+)",
    "target_label": "tenant",
    "replacement": "$1",
}
"""Label what KubeVirt tells of a machine with its tenant, as all figures of tenants are."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Pods of one kind, each scraped at one port."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    """The labels by which the pods are selected."""
    port_name: str
    """The name that the container's port has in the pod."""
    port: int
    """Its number, for network policies."""
    path: str = "/metrics"
    seconds: int = 30
    """The interval."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the scrape configuration."""

    @property
    def destination(self) -> Destination:
        """The pods and their port, as a network policy puts them."""
        return pods_at(self.namespace, self.labels, self.port)

    def configuration(self) -> dict[str, Any]:
        """Return the job as an entry of `scrape_configs`."""
        selector = ",".join(f"{name}={value}" for name, value in self.labels.items())
        return {
            "job_name": self.name,
            "scrape_interval": f"{self.seconds}s",
            "scrape_timeout": "10s",
            "metrics_path": self.path,
            "kubernetes_sd_configs": [
                {
                    "role": "pod",
                    "namespaces": {"names": [self.namespace]},
                    "selectors": [{"role": "pod", "label": selector}],
                }
            ],
            "relabel_configs": [
                _keep("__meta_kubernetes_pod_container_port_name", self.port_name),
                _keep("__meta_kubernetes_pod_phase", "Running"),
                {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
            ],
            **self.more,
        }


def jobs(settings: Settings) -> list[Job]:
    """Return the jobs for the platform's own services, KubeVirt, Longhorn, and what is managed beside them.

    Nodes, kubelets and the Kubernetes API come with kube-prometheus-stack, or are whoever's Prometheus it is.
    """
    return [
        Job(
            name="gateway",
            namespace="gateway",
            labels={"app.kubernetes.io/name": "gateway"},
            port_name="health",
            port=HEALTH_PORT,
        ),
        Job(
            name="envoy",
            namespace="gateway",
            labels={"app.kubernetes.io/name": "gateway"},
            port_name="statistics",
            port=envoy.STATISTICS_PORT,
            path="/stats/prometheus",
        ),
        Job(
            name="exporter",
            namespace="platform-system",
            labels={"app.kubernetes.io/name": "exporter"},
            port_name="health",
            port=HEALTH_PORT,
            # Each scrape asks Redis and PostgreSQL about all tenants.
            seconds=60,
            more={"scrape_timeout": "30s"},
        ),
        Job(
            name="accounting",
            namespace="platform-system",
            labels={"app.kubernetes.io/name": "accounting"},
            port_name="health",
            port=HEALTH_PORT,
        ),
        Job(
            name="collector",
            namespace="monitoring",
            labels={"app.kubernetes.io/name": COLLECTOR},
            port_name="metrics",
            port=COLLECTOR_PORT,
        ),
        Job(
            name="kubevirt",
            namespace="kubevirt",
            labels={"prometheus.kubevirt.io": "true"},
            port_name="metrics",
            port=8443,
            more={
                "scheme": "https",
                # Each component signs its own certificate; KubeVirt's own monitor does not verify it.
                "tls_config": {"insecure_skip_verify": True},
                # What is told of a machine names the machine's namespace, not the pod's that tells it.
                "honor_labels": True,
                "metric_relabel_configs": [_TENANT],
            },
        ),
        Job(
            name="longhorn",
            namespace="longhorn-system",
            labels={"app": "longhorn-manager"},
            port_name="manager",
            port=9500,
        ),
        *_of_managed(settings),
    ]


def _of_managed(settings: Settings) -> Iterator[Job]:
    if isinstance(settings.database.choice, ManagedDatabase):
        yield Job(
            name="postgresql",
            namespace="databases",
            labels={"cnpg.io/podRole": "instance"},
            port_name="metrics",
            port=9187,
            # Others are labelled with what a tenant's session calls itself.
            more={
                "metric_relabel_configs": [
                    _keep("__name__", "up|cnpg_pg_(replication|stat_archiver)_.+|barman_.+")
                ]
            },
        )
    if isinstance(settings.vault.choice, ManagedVault):
        yield Job(
            name="vault",
            namespace=vault.NAMESPACE,
            labels={"app.kubernetes.io/name": "openbao", "component": "server"},
            port_name="https",
            port=8200,
            path="/v1/sys/metrics",
            more={
                "scheme": "https",
                "params": {"format": ["prometheus"]},
                "tls_config": {
                    "ca_file": _AUTHORITY_FILE,
                    # The name in its certificate; Prometheus comes by the pod's address.
                    "server_name": f"vault.{vault.NAMESPACE}.svc",
                },
            },
        )
    if _runs_cert_manager(settings):
        yield Job(
            name="cert-manager",
            namespace="platform-system",
            labels={"app.kubernetes.io/name": "cert-manager"},
            port_name="http-metrics",
            port=9402,
            seconds=60,
        )


def _runs_cert_manager(settings: Settings) -> bool:
    """Return whether some managed service has a certificate of the platform's own authority."""
    services = (settings.database, settings.redis, settings.vault, settings.gateway.certificate)
    return any(service.managed is not None for service in services)


def _keep(label: str, value: str) -> dict[str, Any]:
    return {"source_labels": [label], "regex": value, "action": "keep"}
