"""The alerts: what each fires on, how urgent it is, and what it says to whoever is woken by it.

A `page` wakes somebody: customers are cut off, or data is at risk. A `ticket` waits for the morning. Each
alert names its page in `docs/runbooks`, which says what to look at and what to do.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Literal

from infra.platform import envoy
from infra.platform.monitoring import objectives

Severity = Literal["page", "ticket", "none"]

_DAY = 86_400
_BACKUP = 26 * 3600
"""Seconds: backups are taken once a night, and one may take two hours."""
_DRILL_DAYS = 3
"""A drill runs every night; one or two may fail for reasons of the machine that it runs on."""
_LAST_AWAKE = "agent_platform_last_awake_timestamp_seconds"
_LOG_RETENTION = '{namespace="platform-system", cronjob="log-retention"}'


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One alert."""

    name: str
    expression: str
    """PromQL; each series that it returns is an alert."""
    minutes: int
    """The minutes that the expression has to hold before anybody is told."""
    severity: Severity
    summary: str
    """One sentence, a template with the series' labels and value."""
    runbook: str
    """The page for it, of those in `docs/runbooks`."""
    job: str = ""
    """The scrape job that the alert is about; it is left out where there is none."""

    def rule(self) -> dict[str, Any]:
        """Return the alert as a rule of Prometheus."""
        return {
            "alert": self.name,
            "expr": self.expression,
            "for": f"{self.minutes}m",
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary, "runbook": f"docs/runbooks/{self.runbook}.md"},
        }


_OBJECTIVES = (
    Alert(
        name="AvailabilityBurnsFast",
        expression=objectives.burns((14.4, "1h", "5m"), (6, "6h", "30m")),
        minutes=2,
        severity="page",
        summary="{{ $labels.tenant }} is failed so often that its month's allowance is gone within days.",
        runbook="requests-fail",
    ),
    Alert(
        name="AvailabilityBurnsSlowly",
        expression=objectives.burns((3, "1d", "2h"), (1, "3d", "6h")),
        minutes=15,
        severity="ticket",
        summary="{{ $labels.tenant }} is failed more often than its objective allows over a month.",
        runbook="requests-fail",
    ),
    Alert(
        name="WakesFail",
        expression=(
            # One tenant alone is MachineCannotWake's.
            "count(sum by (tenant) (increase(gateway_wake_failures_total[1h])) > 0) > 2 and "
            "sum(increase(gateway_wake_failures_total[1h])) / "
            "(sum(increase(gateway_wake_failures_total[1h])) "
            "+ (sum(increase(gateway_wake_seconds_count[1h])) or vector(0))) > 0.05"
        ),
        minutes=5,
        severity="page",
        summary="{{ $value | humanize }} tenants' wakes have failed within an hour, one in twenty or more.",
        runbook="a-tenant-does-not-wake",
    ),
    Alert(
        name="MachineCannotWake",
        expression=(
            "sum by (tenant) (increase(gateway_wake_failures_total[30m])) >= 2 unless "
            "sum by (tenant) (increase(gateway_wake_seconds_count[30m])) > 0"
        ),
        minutes=5,
        severity="page",
        summary="{{ $labels.tenant }} cannot be woken: every attempt of the last half hour has failed.",
        runbook="a-tenant-does-not-wake",
    ),
    Alert(
        name="WakesAreSlow",
        expression=(
            "sum by (tenant) (increase(gateway_wake_seconds_sum[1d])) / "
            "(sum by (tenant) (increase(gateway_wake_seconds_count[1d])) > 2) "
            "> on (tenant) tenant:wake_objective:seconds"
        ),
        minutes=15,
        severity="ticket",
        summary="{{ $labels.tenant }} takes {{ $value | humanizeDuration }} to wake, longer than was agreed.",
        runbook="a-tenant-does-not-wake",
    ),
)

_EDGE = (
    Alert(
        name="GatewayDown",
        expression='absent(up{job="gateway"} == 1) or absent(up{job="envoy"} == 1)',
        minutes=2,
        severity="page",
        summary="No gateway, or no Envoy, answers Prometheus: nobody reaches any tenant.",
        runbook="the-gateway-is-down",
    ),
    Alert(
        name="NobodyIsLetIn",
        # What a gateway's own counters cannot tell: they stand still while it does.
        expression='increase(envoy_http_ext_authz_error{envoy_http_conn_manager_prefix="public"}[2m]) > 5',
        # Longer than the range: a gateway that restarts is no reason to wake anybody.
        minutes=3,
        severity="page",
        summary="{{ $labels.pod }} refuses requests of all tenants: the gateway beside it does not answer.",
        runbook="the-gateway-is-down",
    ),
    Alert(
        name="EdgeOverloaded",
        expression=(
            "max(max_over_time("
            "envoy_overload_envoy_overload_actions_stop_accepting_requests_active[2m])) == 1"
        ),
        minutes=2,
        severity="page",
        summary="Envoy has no memory left and refuses new requests of all tenants.",
        runbook="the-gateway-is-down",
    ),
    Alert(
        name="ConnectionsNearLimit",
        expression=(
            'envoy_http_downstream_cx_active{envoy_http_conn_manager_prefix="public"} '
            f"> {envoy.CONNECTIONS * 8 // 10}"
        ),
        minutes=5,
        severity="ticket",
        summary=f"{{{{ $labels.pod }}}} has {{{{ $value }}}} of {envoy.CONNECTIONS} connections.",
        runbook="the-gateway-is-down",
    ),
    Alert(
        name="WatchIsSilent",
        expression="gateway_watch_silence_seconds > 180",
        minutes=5,
        severity="ticket",
        summary="{{ $labels.pod }} hears nothing of {{ $labels.collection }} from the Kubernetes API.",
        runbook="a-server-does-not-answer",
    ),
    Alert(
        name="CertificateEnds",
        expression=(
            "envoy_server_days_until_first_cert_expiring < 14 or "
            f"(certmanager_certificate_expiration_timestamp_seconds - time()) / {_DAY} < 14"
        ),
        minutes=60,
        severity="ticket",
        summary="The certificate of {{ or $labels.name $labels.pod }} ends in {{ $value | humanize }} "
        "days, and was not renewed.",
        runbook="rotate-the-gateways-certificate",
    ),
    Alert(
        name="CertificateIsEnding",
        expression=(
            "envoy_server_days_until_first_cert_expiring < 3 or "
            f"(certmanager_certificate_expiration_timestamp_seconds - time()) / {_DAY} < 3"
        ),
        minutes=10,
        severity="page",
        summary="The certificate of {{ or $labels.name $labels.pod }} ends in {{ $value | humanize }} "
        "days; then clients refuse to connect.",
        runbook="rotate-the-gateways-certificate",
    ),
)

_SLEEP = (
    Alert(
        name="NoSweep",
        expression=(
            'time() - max(idle_suspender_last_sweep{figure="at"}) > 300 or '
            'absent(idle_suspender_last_sweep{figure="at"})'
        ),
        minutes=5,
        severity="ticket",
        summary="The idle suspender has not looked at any machine for minutes: idle machines run on.",
        runbook="a-tenant-does-not-sleep",
    ),
    Alert(
        name="MachineIsLeftRunning",
        expression='max by (tenant, decision) (idle_suspender_verdict{decision=~"left|failed"}) == 1',
        minutes=60,
        severity="ticket",
        summary="{{ $labels.tenant }}'s machine cannot be judged or stopped, so it runs on.",
        runbook="a-tenant-does-not-sleep",
    ),
    Alert(
        name="MachineAwakeForDays",
        expression=f"increase(tenant:awake_seconds:total[3d]) > {3 * _DAY * 98 // 100}",
        minutes=60,
        severity="ticket",
        summary="{{ $labels.tenant }}'s machine has not slept for three days.",
        runbook="a-tenant-does-not-sleep",
    ),
)

_DATA = (
    Alert(
        name="DatabaseBackupIsOld",
        expression=(
            f"time() - max(barman_cloud_cloudnative_pg_io_last_available_backup_timestamp) > {_BACKUP} or "
            "absent(barman_cloud_cloudnative_pg_io_last_available_backup_timestamp)"
        ),
        minutes=60,
        severity="page",
        summary="PostgreSQL has no backup of the last night.",
        runbook="backups-are-missing",
        job="postgresql",
    ),
    Alert(
        name="DatabaseArchiveStands",
        # What a primary has failed to archive, and not archived since; a quiet one archives nothing.
        expression=(
            "cnpg_pg_stat_archiver_last_failed_time > cnpg_pg_stat_archiver_last_archived_time "
            "and on (pod) cnpg_pg_replication_in_recovery == 0"
        ),
        minutes=10,
        severity="page",
        summary="{{ $labels.pod }} cannot archive PostgreSQL's log: a disaster now loses what is written.",
        runbook="backups-are-missing",
        job="postgresql",
    ),
    Alert(
        name="WorkspaceBackupIsOld",
        # A machine that has not run since has written nothing, and Longhorn then takes no backup.
        expression=(
            f"(max by (tenant) ({_LAST_AWAKE} offset {_BACKUP // 3600}h) "
            "> on (tenant) max by (tenant) (agent_platform_workspace_backup_timestamp_seconds) "
            f"or max by (tenant) ({_LAST_AWAKE} offset {_BACKUP // 3600}h) "
            "unless on (tenant) agent_platform_workspace_backup_timestamp_seconds) "
            'and on (tenant) agent_platform_tenant{served_by="machine"}'
        ),
        minutes=120,
        severity="ticket",
        summary="What {{ $labels.tenant }}'s machine wrote by yesterday is in no backup.",
        runbook="backups-are-missing",
        job="longhorn",
    ),
    Alert(
        name="DrillFailed",
        expression="max(agent_platform_drill_success) == 0",
        minutes=5,
        severity="ticket",
        summary="The last drill did not bring everything back: after a disaster, something would be missing.",
        runbook="the-drill",
    ),
    Alert(
        name="DrillIsOld",
        expression=(
            f"time() - max(agent_platform_drill_timestamp_seconds) > {_DRILL_DAYS * _DAY} or "
            "absent(agent_platform_drill_timestamp_seconds)"
        ),
        minutes=60,
        severity="ticket",
        summary=f"No drill for {_DRILL_DAYS} days, so nobody knows whether the backups come back.",
        runbook="the-drill",
    ),
    Alert(
        name="VolumeIsDegraded",
        expression='max by (volume, pvc, pvc_namespace) (longhorn_volume_robustness{state="degraded"}) == 1',
        minutes=30,
        severity="ticket",
        summary="Volume {{ $labels.pvc }} of {{ $labels.pvc_namespace }} has fewer replicas than it should.",
        runbook="a-volume-is-degraded-or-faulted",
        job="longhorn",
    ),
    Alert(
        name="VolumeIsFaulted",
        expression='max by (volume, pvc, pvc_namespace) (longhorn_volume_robustness{state="faulted"}) == 1',
        minutes=2,
        severity="page",
        summary="Volume {{ $labels.pvc }} of {{ $labels.pvc_namespace }} has no replica that works.",
        runbook="a-volume-is-degraded-or-faulted",
        job="longhorn",
    ),
    Alert(
        name="DiskNearlyFull",
        expression=(
            "longhorn_disk_usage_bytes / longhorn_disk_capacity_bytes > 0.85 or "
            "1 - kubelet_volume_stats_available_bytes / kubelet_volume_stats_capacity_bytes > 0.9 or "
            '1 - node_filesystem_avail_bytes{mountpoint="/"} / node_filesystem_size_bytes{mountpoint="/"} '
            "> 0.85"
        ),
        minutes=15,
        severity="ticket",
        summary="{{ $value | humanizePercentage }} of {{ or $labels.persistentvolumeclaim $labels.node "
        "$labels.instance }}'s disk is used.",
        runbook="a-disk-is-nearly-full",
    ),
    Alert(
        name="DatabaseNearLimit",
        expression="agent_platform_database_bytes / agent_platform_database_limit_bytes > 0.9",
        minutes=15,
        severity="ticket",
        summary="{{ $labels.tenant }} has {{ $value | humanizePercentage }} of its space in PostgreSQL.",
        runbook="a-tenant-has-too-much-in-postgresql",
    ),
    Alert(
        name="DatabaseConnectionsNearLimit",
        expression="agent_platform_database_connections_used / agent_platform_database_connections_limit "
        "> 0.8",
        minutes=5,
        severity="ticket",
        summary="{{ $value | humanizePercentage }} of PostgreSQL's connections are used.",
        runbook="postgresql-has-no-room",
    ),
    Alert(
        name="ReplicationLags",
        # One that is cut off knows of no lag.
        expression=(
            "max by (pod) (cnpg_pg_replication_lag) > 60 or "
            "cnpg_pg_replication_is_wal_receiver_up == 0 and on (pod) cnpg_pg_replication_in_recovery == 1"
        ),
        minutes=10,
        severity="ticket",
        summary="{{ $labels.pod }} is behind the primary PostgreSQL, or cut off from it.",
        runbook="a-replica-of-postgresql-lags",
        job="postgresql",
    ),
)

_SERVICES = (
    Alert(
        name="SourceIsAway",
        expression="agent_platform_source_up == 0",
        minutes=5,
        severity="page",
        summary="{{ $labels.source }} does not answer the exporter, and perhaps nobody else either.",
        runbook="a-server-does-not-answer",
    ),
    Alert(
        name="VaultIsSealed",
        expression="max by (pod, instance) (vault_core_unsealed) == 0",
        minutes=2,
        severity="page",
        summary="{{ or $labels.pod $labels.instance }} is sealed: no agent that begins gets its secrets.",
        runbook="vault-does-not-answer",
    ),
    Alert(
        name="AuditLogIsBlocked",
        expression=(
            "increase(vault_audit_log_request_failure[10m]) > 0 or "
            "increase(vault_audit_log_response_failure[10m]) > 0"
        ),
        minutes=0,
        severity="page",
        summary="Vault cannot write an audit log; it answers nobody while it can write none.",
        runbook="vault-does-not-answer",
    ),
    Alert(
        name="NodeIsDown",
        expression='kube_node_status_condition{condition="Ready", status="true"} == 0',
        minutes=5,
        severity="page",
        summary="Node {{ $labels.node }} is not ready: what ran on it is away until it is replaced.",
        runbook="a-node-is-down",
    ),
    Alert(
        name="PodKeepsRestarting",
        expression=('increase(kube_pod_container_status_restarts_total{namespace!~"tenant-.+"}[1h]) > 5'),
        minutes=5,
        severity="ticket",
        summary="{{ $labels.container }} of {{ $labels.namespace }}/{{ $labels.pod }} keeps restarting.",
        runbook="a-pod-keeps-restarting",
    ),
    Alert(
        name="MetricsStopped",
        expression="up == 0",
        minutes=10,
        severity="ticket",
        summary="{{ $labels.job }} {{ $labels.instance }} tells no figures, so alerts about it are blind.",
        runbook="metrics-stopped",
    ),
    Alert(
        name="LedgerStands",
        expression="time() - max(accounting_counted_timestamp_seconds) > 900",
        minutes=5,
        severity="ticket",
        summary="The ledger has not counted what tenants use for a quarter of an hour.",
        runbook="the-ledger-stands",
    ),
    Alert(
        name="LogsAreNotArchived",
        expression=(
            "max by (instance) (otelcol_exporter_queue_size) "
            "> 0.5 * max by (instance) (otelcol_exporter_queue_capacity) or "
            "(sum by (instance) (increase(otelcol_receiver_accepted_log_records[30m])) > 0 unless "
            "sum by (instance) (increase(otelcol_exporter_sent_log_records[30m])) > 0) or "
            "sum by (instance) (increase(otelcol_exporter_send_failed_log_records[1h])) > 0"
        ),
        minutes=5,
        severity="ticket",
        summary="{{ $labels.instance }} does not get its logs into object storage: they wait, or are lost.",
        runbook="logs-are-not-archived",
    ),
    Alert(
        name="LogsOutliveTheirTime",
        expression=(
            f"time() - (kube_cronjob_status_last_successful_time{_LOG_RETENTION} "
            f"or kube_cronjob_created{_LOG_RETENTION}) > {3 * _DAY}"
        ),
        minutes=60,
        severity="ticket",
        summary="No old log has been deleted for {{ $value | humanizeDuration }}, removed tenants' included.",
        runbook="logs-outlive-their-time",
    ),
    Alert(
        name="CostOutOfLine",
        expression=(
            "max by (tenant) (agent_platform_cost_forecast_chf) "
            "> on (tenant) max by (tenant) (agent_platform_list_price_chf) or "
            "max by (tenant) (agent_platform_cost_forecast_chf) "
            "> on (tenant) max by (tenant) (agent_platform_budget_chf)"
        ),
        minutes=120,
        severity="ticket",
        summary="{{ $labels.tenant }} will cost CHF {{ $value | humanize }} this month, more than its price "
        "or budget.",
        runbook="a-tenant-costs-too-much",
    ),
    Alert(
        name="Watchdog",
        expression="vector(1)",
        minutes=0,
        severity="none",
        summary="Always fires: whoever no longer hears it knows that no alert would arrive.",
        runbook="metrics-stopped",
    ),
)

ALERTS = (*_OBJECTIVES, *_EDGE, *_SLEEP, *_DATA, *_SERVICES)


def rule_groups(jobs: Collection[str]) -> list[dict[str, Any]]:
    """Return all rules for these scrape jobs, as the `groups` of one of Prometheus' rule files."""
    return [
        {"name": "availability", "interval": "1m", "rules": objectives.recorded()},
        *(
            {
                "name": name,
                "interval": "1m",
                "rules": [alert.rule() for alert in alerts if not alert.job or alert.job in jobs],
            }
            for name, alerts in (
                ("objectives", _OBJECTIVES),
                ("edge", _EDGE),
                ("sleep", _SLEEP),
                ("data", _DATA),
                ("services", _SERVICES),
                ("targets", [_without_targets(job) for job in jobs]),
            )
        ),
    ]


def _without_targets(job: str) -> Alert:
    """A job that has lost all its targets is not down: it is gone, and so are the alerts about it."""
    stopped = next(alert for alert in ALERTS if alert.name == "MetricsStopped")
    return replace(stopped, expression=f'absent(up{{job="{job}"}})', job=job)
