"""Prometheus, Alertmanager and Grafana: run by kube-prometheus-stack, or given.

<https://github.com/prometheus-community/helm-charts/tree/main/charts/kube-prometheus-stack>. What is given
takes its configuration from the ConfigMaps of the namespace `monitoring`: `prometheus` has the scrape
configurations and the rules as files of Prometheus' own formats, and each that is labelled
`grafana_dashboard` has a dashboard.
"""

from typing import Any, Literal
from urllib.parse import urlsplit

import pulumi
import pulumi_kubernetes as k8s
import yaml
from pulumi_vault.kv import SecretV2

from infra.cluster.object_storage import ObjectStorage
from infra.platform import charts
from infra.platform.logs import declare_log_collection
from infra.platform.monitoring import alerts, dashboards, scraping
from infra.platform.namespaces import namespace
from infra.platform.network_policies import (
    MONITORING,
    NOT_PUBLIC,
    PUBLIC,
    TO_DNS,
    TO_KUBERNETES,
    Opening,
    Peer,
    declare_network,
    pods,
    pods_at,
    to,
    url_at,
)
from infra.platform.password import Password
from infra.platform.service_pods import LABELS
from infra.platform.vault import Vault
from infra.settings import ManagedMonitoring, Settings

NAMESPACE = "monitoring"
GRAFANA_HOST = f"kube-prometheus-stack-grafana.{NAMESPACE}.svc"
GRAFANA_PORT = 80
_GRAFANA_POD_PORT = 3000
GRAFANA = pods_at(NAMESPACE, {"app.kubernetes.io/name": "grafana"}, _GRAFANA_POD_PORT)
"""Grafana's pods, as a network policy puts them."""
GRAFANA_PATH = "/grafana/"
"""The path below the operators' host; the gateway asks for an operator's token first."""
GRAFANA_USER = "X-Webauth-User"
"""The header by which Grafana knows whom the gateway has let in."""
_RELEASE = "kube-prometheus-stack"
_STORAGE_CLASS = "exoscale-sbs"
_BLACK_HOLE = "nobody"
_PROMETHEUS_PORT = 9090
_ALERTMANAGER_PORT = 9093


def declare_monitoring(
    prefix: str,
    settings: Settings,
    *,
    vault: Vault,
    storage: ObjectStorage,
    cluster_name: str,
    opts: pulumi.ResourceOptions,
) -> None:
    """Declare the namespace `monitoring`, its network, dashboards, scrapes and alerts, and the logs."""
    # Node exporters read the node itself, which only `privileged` allows.
    home = namespace(f"{prefix}-namespace", NAMESPACE, "privileged", opts)
    inside = pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[home]))
    jobs = scraping.jobs(settings)
    for name in dashboards.DASHBOARDS:
        k8s.core.v1.ConfigMap(
            f"{prefix}-dashboard-{name}",
            metadata={
                "name": f"dashboard-{name}",
                "namespace": NAMESPACE,
                "labels": {**LABELS, "grafana_dashboard": "1"},
            },
            data={f"{name}.json": dashboards.render(name, [job.name for job in jobs])},
            opts=inside,
        )
    chosen = settings.monitoring.choice
    declare_log_collection(
        f"{prefix}-logs",
        NAMESPACE,
        storage,
        cluster_name=cluster_name,
        managed=isinstance(chosen, ManagedMonitoring),
        opts=inside,
    )
    if isinstance(chosen, ManagedMonitoring):
        _managed(prefix, settings, chosen, jobs, vault, storage, inside)
    else:
        k8s.core.v1.ConfigMap(
            f"{prefix}-prometheus",
            metadata={"name": "prometheus", "namespace": NAMESPACE, "labels": LABELS},
            data={
                "scrape.yaml": _yaml({"scrape_configs": [job.configuration() for job in jobs]}),
                "rules.yaml": _yaml({"groups": alerts.rule_groups([job.name for job in jobs])}),
            },
            opts=inside,
        )


def _managed(
    prefix: str,
    settings: Settings,
    wanted: ManagedMonitoring,
    jobs: list[scraping.Job],
    vault: Vault,
    storage: ObjectStorage,
    opts: pulumi.ResourceOptions,
) -> None:
    own = pulumi.ResourceOptions(parent=opts.parent)
    password = Password(f"{prefix}-grafana-password", own)
    SecretV2(
        f"{prefix}-grafana",
        mount=vault.kv_mount,
        # No tenant's policy opens it, because none has that id.
        name="console/grafana",
        data_json=pulumi.Output.json_dumps({"user": "admin", "password": password.value}),
        delete_all_versions=True,
        opts=pulumi.ResourceOptions.merge(
            own, pulumi.ResourceOptions(provider=vault.provider, depends_on=vault.furnished)
        ),
    )
    before: list[pulumi.Resource] = [
        k8s.core.v1.Secret(
            f"{prefix}-grafana-admin",
            metadata={"name": "grafana-admin", "namespace": NAMESPACE, "labels": LABELS},
            string_data={"admin-user": "admin", "admin-password": password.value},
            opts=opts,
        ),
        k8s.core.v1.Secret(
            f"{prefix}-alertmanager",
            metadata={"name": "alertmanager", "namespace": NAMESPACE, "labels": LABELS},
            string_data={"alertmanager.yaml": _routing(settings, wanted)},
            opts=opts,
        ),
        k8s.core.v1.ConfigMap(
            f"{prefix}-authority",
            metadata={"name": scraping.AUTHORITY, "namespace": NAMESPACE, "labels": LABELS},
            data={"ca.crt": vault.authority or ""},
            opts=opts,
        ),
        *declare_network(
            prefix, NAMESPACE, _openings(settings, wanted, jobs, storage), agents={}, labels=LABELS, opts=opts
        ),
    ]
    charts.install(
        f"{prefix}-stack",
        charts.KUBE_PROMETHEUS_STACK,
        release=_RELEASE,
        namespace=NAMESPACE,
        values=_values(settings, wanted, jobs),
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=before)),
    )


def _values(settings: Settings, wanted: ManagedMonitoring, jobs: list[scraping.Job]) -> dict[str, Any]:
    """Return the chart's values: Prometheus and Alertmanager on volumes of their own, and Grafana."""
    return {
        # The chart's own rules have no runbooks of ours, and repeat some of our alerts.
        "defaultRules": {"create": False},
        "additionalPrometheusRulesMap": {
            "agent-platform": {"groups": alerts.rule_groups([job.name for job in jobs])}
        },
        # SKS runs these outside the cluster, where nobody can scrape them.
        **{
            name: {"enabled": False}
            for name in ("kubeControllerManager", "kubeScheduler", "kubeEtcd", "kubeProxy", "coreDns")
        },
        "prometheusOperator": {
            # A webhook that is away would keep rules from being changed; the tests have judged them before.
            "admissionWebhooks": {"enabled": False},
            "tls": {"enabled": False},
            "resources": _resources("50m", "128Mi", "256Mi"),
        },
        "prometheus": {
            "prometheusSpec": {
                "retention": f"{wanted.retention_days}d",
                "retentionSize": f"{wanted.storage_gib * 9 // 10}GiB",
                "storageSpec": _volume(wanted.storage_gib),
                "configMaps": [scraping.AUTHORITY],
                "additionalScrapeConfigs": [job.configuration() for job in jobs],
                "resources": _resources("500m", "2Gi", "4Gi"),
            }
        },
        "alertmanager": {
            "alertmanagerSpec": {
                "useExistingSecret": True,
                "configSecret": "alertmanager",
                "storage": _volume(1),
                "resources": _resources("20m", "64Mi", "128Mi"),
            }
        },
        "grafana": {
            "admin": {
                "existingSecret": "grafana-admin",
                "userKey": "admin-user",
                "passwordKey": "admin-password",
            },
            "defaultDashboardsEnabled": False,
            "sidecar": {
                "dashboards": {"enabled": True, "label": "grafana_dashboard", "labelValue": "1"},
                # Grafana reads them when it starts, so they have to be there before.
                "datasources": {"initDatasources": True},
            },
            "serviceMonitor": {"path": f"{GRAFANA_PATH}metrics"},
            "grafana.ini": {
                "server": {
                    "root_url": f"https://console.{settings.domain}{GRAFANA_PATH}",
                    "serve_from_sub_path": True,
                },
                # The gateway lets operators in; nobody else reaches Grafana (the opening `from-gateway`).
                "auth.proxy": {"enabled": True, "header_name": GRAFANA_USER, "auto_sign_up": True},
                "users": {"auto_assign_org_role": "Viewer", "allow_sign_up": False},
                # Nothing here is pushed, and Envoy carries no WebSocket to it.
                "live": {"max_connections": 0},
                "analytics": {"reporting_enabled": False, "check_for_updates": False},
            },
            "resources": _resources("100m", "256Mi", "512Mi"),
        },
        "kube-state-metrics": {"resources": _resources("20m", "64Mi", "512Mi")},
        "prometheus-node-exporter": {"resources": _resources("20m", "32Mi", "64Mi")},
    }


def _resources(cpu: str, memory: str, memory_limit: str) -> dict[str, Any]:
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory_limit}}


def _volume(gib: int) -> dict[str, Any]:
    return {
        "volumeClaimTemplate": {
            "spec": {
                "storageClassName": _STORAGE_CLASS,
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": f"{gib}Gi"}},
            }
        }
    }


def _routing(settings: Settings, wanted: ManagedMonitoring) -> pulumi.Output[str]:
    """Alertmanager's configuration, which holds the receivers' secrets.

    <https://prometheus.io/docs/alerting/latest/configuration/>
    """

    def text(webhook: str | None, password: str | None, heartbeat: str | None) -> str:
        receiver: dict[str, Any] = {"name": "operators"}
        if webhook:
            receiver["webhook_configs"] = [{"url": webhook, "send_resolved": True}]
        if wanted.email:
            mail = wanted.email
            login = {"auth_username": mail.username, "auth_password": password} if mail.username else {}
            receiver["email_configs"] = [
                {
                    "to": mail.to,
                    "from": mail.sender,
                    "smarthost": mail.server,
                    "require_tls": True,
                    "send_resolved": True,
                    **login,
                }
            ]
        return _yaml(_alertmanager(receiver, heartbeat))

    given = settings.alert_webhook, settings.alert_email_password, settings.alert_heartbeat
    secrets = [secret.get_secret_value() if secret else None for secret in given]
    return pulumi.Output.secret(secrets).apply(lambda known: text(*known))


def _alertmanager(receiver: dict[str, Any], heartbeat: str | None) -> dict[str, Any]:
    """Return Alertmanager's configuration with one receiver for all that is urgent or can wait.

    A page is repeated every hour, a ticket once a day; many alerts of one name make one message. What always
    fires goes to `heartbeat`, an address, every five minutes.
    """
    watched: dict[str, Any] = {"matchers": ['severity="none"'], "receiver": _BLACK_HOLE}
    receivers = [receiver, {"name": _BLACK_HOLE}]
    if heartbeat:
        often = {"group_wait": "0s", "group_interval": "1m", "repeat_interval": "5m"}
        watched = {"matchers": ['alertname="Watchdog"'], "receiver": "heartbeat", **often}
        receivers.append(
            {"name": "heartbeat", "webhook_configs": [{"url": heartbeat, "send_resolved": False}]}
        )
    return {
        "route": {
            "receiver": receiver["name"],
            "group_by": ["alertname"],
            "group_wait": "30s",
            "group_interval": "5m",
            "repeat_interval": "1d",
            "routes": [
                watched,
                {"matchers": ['severity="page"'], "receiver": receiver["name"], "repeat_interval": "1h"},
            ],
        },
        # Whoever cannot reach anybody need not be told of each tenant.
        "inhibit_rules": [
            {
                "source_matchers": ['alertname="GatewayDown"'],
                "target_matchers": ['alertname=~"Availability.*|MachineCannotWake|WakesFail"'],
            }
        ],
        "receivers": receivers,
    }


def _openings(
    settings: Settings, wanted: ManagedMonitoring, jobs: list[scraping.Job], storage: ObjectStorage
) -> list[Opening]:
    """Scrapes, alerts and logs go out, the gateway comes in; all else is closed."""
    ports = (_PROMETHEUS_PORT, _ALERTMANAGER_PORT, 8080, scraping.COLLECTOR_PORT)
    nodes: Peer = {"ip_block": {"cidr": "0.0.0.0/0", "except_": ("169.254.0.0/16",)}}
    receivers: list[tuple[Literal["TCP", "UDP"], int]] = [
        ("TCP", urlsplit(secret.get_secret_value()).port or 443)
        for secret in (settings.alert_webhook, settings.alert_heartbeat)
        if secret
    ]
    if wanted.email:
        receivers.append(("TCP", int(wanted.email.server.rpartition(":")[2])))
    return [
        Opening(
            name="from-monitoring",
            direction="ingress",
            peers=[MONITORING],
            ports=[("TCP", port) for port in ports],
        ),
        Opening(
            name="to-monitoring",
            direction="egress",
            peers=[MONITORING],
            ports=[("TCP", port) for port in (*ports, _GRAFANA_POD_PORT)],
        ),
        # Whoever gets to Grafana may say who they are.
        Opening(
            name="from-prometheus",
            direction="ingress",
            peers=[pods(NAMESPACE, {"app.kubernetes.io/name": "prometheus"})],
            ports=[("TCP", _GRAFANA_POD_PORT)],
        ),
        Opening(
            name="from-gateway",
            direction="ingress",
            peers=[pods("gateway", {"app.kubernetes.io/name": "gateway"})],
            ports=[("TCP", _GRAFANA_POD_PORT)],
        ),
        TO_DNS,
        TO_KUBERNETES,
        # Kubelets and node exporters, at the nodes' own addresses.
        Opening(name="to-nodes", direction="egress", peers=[nodes], ports=[("TCP", 9100), ("TCP", 10250)]),
        *(to(f"to-{job.name}", job.destination) for job in jobs),
        to("to-object-storage", url_at(storage.endpoint, never=NOT_PUBLIC)),
        Opening(name="to-receivers", direction="egress", peers=[PUBLIC], ports=receivers),
    ]


def _yaml(document: dict[str, Any]) -> str:
    return yaml.safe_dump(document, sort_keys=False, width=1000)
