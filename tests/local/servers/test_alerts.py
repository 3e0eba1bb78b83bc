"""Each alert fires on what it is for and is silent otherwise, by Prometheus' own engine."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from infra.platform.monitoring.alerts import ALERTS, rule_groups
from local import toolchain

RETENTION = '{namespace="platform-system", cronjob="log-retention"}'
GATEWAY_UP = {'up{job="gateway", pod="a"}': "1x60", 'up{job="envoy", pod="a"}': "1x60"}
JOBS = (
    "gateway",
    "envoy",
    "exporter",
    "accounting",
    "collector",
    "kubevirt",
    "longhorn",
    "postgresql",
    "vault",
    "cert-manager",
)
UP = {f'up{{job="{job}"}}': "1x60" for job in JOBS}
WELL = {"agent_platform_availability_objective_ratio{tenant='acme'}": "0.999x9000"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """Series, in promtool's notation, that are to make an alert fire, and series that are not."""

    fires: dict[str, str]
    silent: dict[str, str]
    at: str = "60m"
    interval: str = "1m"


def failing(share: str, minutes: int) -> dict[str, str]:
    """A tenant with 100 requests a minute of which the platform fails so many."""
    return {
        **WELL,
        'gateway_requests_total{tenant="acme", status="2xx"}': f"0+100x{minutes}",
        'gateway_requests_total{tenant="acme", status="unavailable"}': f"0+{share}x{minutes}",
    }


CASES: dict[str, Case] = {
    "AvailabilityBurnsFast": Case(fires=failing("5", 120), silent=failing("0.5", 120), at="100m"),
    "AvailabilityBurnsSlowly": Case(
        fires=failing("5", 600), silent=failing("0.05", 600), at="5010m", interval="10m"
    ),
    "WakesFail": Case(
        fires={
            **{f'gateway_wake_failures_total{{tenant="{tenant}"}}': "0+0.1x60" for tenant in "abc"},
            'gateway_wake_seconds_count{tenant="acme"}': "0+1x60",
        },
        silent={
            # One tenant alone, however often.
            'gateway_wake_failures_total{tenant="acme"}': "0+5x60",
            'gateway_wake_seconds_count{tenant="acme"}': "0+1x60",
        },
    ),
    "MachineCannotWake": Case(
        fires={'gateway_wake_failures_total{tenant="acme"}': "0+1x60"},
        silent={
            'gateway_wake_failures_total{tenant="acme"}': "0+1x60",
            'gateway_wake_seconds_count{tenant="acme"}': "0+1x60",
        },
    ),
    "WakesAreSlow": Case(
        fires={
            'gateway_wake_seconds_sum{tenant="acme"}': "0+60x60",
            'gateway_wake_seconds_count{tenant="acme"}': "0+1x60",
            'agent_platform_wake_objective_seconds{tenant="acme"}': "30x60",
        },
        silent={
            'gateway_wake_seconds_sum{tenant="acme"}': "0+10x60",
            'gateway_wake_seconds_count{tenant="acme"}': "0+1x60",
            'agent_platform_wake_objective_seconds{tenant="acme"}': "30x60",
        },
    ),
    "GatewayDown": Case(
        fires={**GATEWAY_UP, 'up{job="gateway", pod="a"}': "1x30 0x30"},
        silent={**GATEWAY_UP, 'up{job="gateway", pod="b"}': "0x60"},
    ),
    "NobodyIsLetIn": Case(
        fires={'envoy_http_ext_authz_error{envoy_http_conn_manager_prefix="public"}': "0+5x60"},
        # A gateway that restarts.
        silent={'envoy_http_ext_authz_error{envoy_http_conn_manager_prefix="public"}': "0x58 50x3"},
    ),
    "EdgeOverloaded": Case(
        # Now and then, too.
        fires={
            "envoy_overload_envoy_overload_actions_stop_accepting_requests_active": "0x50 1 0 1 0 1 0 1 0 1 0"
        },
        silent={"envoy_overload_envoy_overload_actions_stop_accepting_requests_active": "0x60"},
    ),
    "ConnectionsNearLimit": Case(
        fires={'envoy_http_downstream_cx_active{envoy_http_conn_manager_prefix="public"}': "9000x60"},
        silent={
            'envoy_http_downstream_cx_active{envoy_http_conn_manager_prefix="public"}': "500x60",
            'envoy_http_downstream_cx_active{envoy_http_conn_manager_prefix="agents"}': "9000x60",
        },
    ),
    "WatchIsSilent": Case(
        fires={'gateway_watch_silence_seconds{collection="routes"}': "0+60x60"},
        silent={'gateway_watch_silence_seconds{collection="routes"}': "50x60"},
    ),
    "CertificateEnds": Case(
        fires={"envoy_server_days_until_first_cert_expiring": "13x90"},
        silent={
            "envoy_server_days_until_first_cert_expiring": "15x90",
            'certmanager_certificate_expiration_timestamp_seconds{name="vault-tls"}': f"{86400 * 20}x90",
        },
        at="90m",
    ),
    "CertificateIsEnding": Case(
        fires={'certmanager_certificate_expiration_timestamp_seconds{name="vault-tls"}': f"{86400 * 2}x90"},
        silent={"envoy_server_days_until_first_cert_expiring": "13x90"},
        at="90m",
    ),
    "NoSweep": Case(
        fires={'idle_suspender_last_sweep{figure="at"}': "0+60x20 1200x40"},
        silent={'idle_suspender_last_sweep{figure="at"}': "0+60x60"},
    ),
    "MachineIsLeftRunning": Case(
        fires={'idle_suspender_verdict{tenant="acme", decision="failed"}': "1x90"},
        silent={
            'idle_suspender_verdict{tenant="acme", decision="left"}': "1x20 _x70",
            'idle_suspender_verdict{tenant="acme", decision="awake"}': "_x20 1x70",
        },
        at="90m",
    ),
    "MachineAwakeForDays": Case(
        fires={'agent_platform_awake_seconds_total{tenant="acme"}': "0+600x600"},
        silent={'agent_platform_awake_seconds_total{tenant="acme"}': "0+300x600"},
        at="5010m",
        interval="10m",
    ),
    "DatabaseBackupIsOld": Case(
        fires={"barman_cloud_cloudnative_pg_io_last_available_backup_timestamp": "0x600"},
        silent={"barman_cloud_cloudnative_pg_io_last_available_backup_timestamp": "90000x600"},
        at="1710m",
        interval="10m",
    ),
    "DatabaseArchiveStands": Case(
        fires={
            'cnpg_pg_stat_archiver_last_failed_time{pod="a"}': "0+60x60",
            'cnpg_pg_stat_archiver_last_archived_time{pod="a"}': "-1x60",
            'cnpg_pg_replication_in_recovery{pod="a"}': "0x60",
        },
        silent={
            # A primary of a quiet night, and a replica, which archives nothing.
            'cnpg_pg_stat_archiver_last_failed_time{pod="a"}': "-1x60",
            'cnpg_pg_stat_archiver_last_archived_time{pod="a"}': "5x60",
            'cnpg_pg_replication_in_recovery{pod="a"}': "0x60",
            'cnpg_pg_stat_archiver_last_failed_time{pod="b"}': "9x60",
            'cnpg_pg_stat_archiver_last_archived_time{pod="b"}': "5x60",
            'cnpg_pg_replication_in_recovery{pod="b"}': "1x60",
        },
    ),
    "DrillFailed": Case(
        fires={"agent_platform_drill_success": "1x30 0x30"},
        silent={"agent_platform_drill_success": "0x10 1x50"},
    ),
    "DrillIsOld": Case(
        fires={"agent_platform_drill_timestamp_seconds": "0x600"},
        silent={"agent_platform_drill_timestamp_seconds": "200000x600"},
        at="4500m",
        interval="10m",
    ),
    "WorkspaceBackupIsOld": Case(
        fires={
            'agent_platform_tenant{tenant="acme", served_by="machine"}': "1x600",
            'agent_platform_last_awake_timestamp_seconds{tenant="acme"}': "5000x600",
            'agent_platform_workspace_backup_timestamp_seconds{tenant="acme"}': "4000x600",
        },
        silent={
            # It has slept since its last backup; the other one is gone, and its backup is kept.
            'agent_platform_tenant{tenant="acme", served_by="machine"}': "1x600",
            'agent_platform_last_awake_timestamp_seconds{tenant="acme"}': "5000x600",
            'agent_platform_workspace_backup_timestamp_seconds{tenant="acme"}': "6000x600",
            'agent_platform_workspace_backup_timestamp_seconds{tenant="gone"}': "4000x600",
            'agent_platform_tenant{tenant="new", served_by="machine"}': "_x290 1x310",
            'agent_platform_last_awake_timestamp_seconds{tenant="new"}': "_x290 180000x310",
        },
        at="3000m",
        interval="10m",
    ),
    "VolumeIsDegraded": Case(
        fires={'longhorn_volume_robustness{volume="a", state="degraded"}': "1x60"},
        silent={
            'longhorn_volume_robustness{volume="a", state="degraded"}': "0x20 1x20 0x20",
            'longhorn_volume_robustness{volume="a", state="healthy"}': "1x60",
        },
    ),
    "VolumeIsFaulted": Case(
        fires={'longhorn_volume_robustness{volume="a", state="faulted"}': "1x60"},
        silent={'longhorn_volume_robustness{volume="a", state="degraded"}': "1x60"},
    ),
    "DiskNearlyFull": Case(
        fires={
            'kubelet_volume_stats_available_bytes{persistentvolumeclaim="data"}': "5x60",
            'kubelet_volume_stats_capacity_bytes{persistentvolumeclaim="data"}': "100x60",
        },
        silent={
            'kubelet_volume_stats_available_bytes{persistentvolumeclaim="data"}': "50x60",
            'kubelet_volume_stats_capacity_bytes{persistentvolumeclaim="data"}': "100x60",
            'longhorn_disk_usage_bytes{node="a"}': "50x60",
            'longhorn_disk_capacity_bytes{node="a"}': "100x60",
        },
    ),
    "DatabaseNearLimit": Case(
        fires={
            'agent_platform_database_bytes{tenant="acme"}': "95x60",
            'agent_platform_database_limit_bytes{tenant="acme"}': "100x60",
        },
        silent={
            'agent_platform_database_bytes{tenant="acme"}': "85x60",
            'agent_platform_database_limit_bytes{tenant="acme"}': "100x60",
        },
    ),
    "DatabaseConnectionsNearLimit": Case(
        fires={
            "agent_platform_database_connections_used": "90x60",
            "agent_platform_database_connections_limit": "100x60",
        },
        silent={
            "agent_platform_database_connections_used": "70x60",
            "agent_platform_database_connections_limit": "100x60",
        },
    ),
    "ReplicationLags": Case(
        fires={
            'cnpg_pg_replication_lag{pod="postgres-2"}': "0x60",
            'cnpg_pg_replication_is_wal_receiver_up{pod="postgres-2"}': "0x60",
            'cnpg_pg_replication_in_recovery{pod="postgres-2"}': "1x60",
        },
        silent={
            'cnpg_pg_replication_lag{pod="postgres-2"}': "1x60",
            'cnpg_pg_replication_is_wal_receiver_up{pod="postgres-1"}': "0x60",
            'cnpg_pg_replication_in_recovery{pod="postgres-1"}': "0x60",
        },
    ),
    "SourceIsAway": Case(
        fires={'agent_platform_source_up{source="redis"}': "1x30 0x30"},
        silent={'agent_platform_source_up{source="redis"}': "1x30 0x2 1x28"},
    ),
    "VaultIsSealed": Case(
        fires={'vault_core_unsealed{pod="vault-1"}': "0x60", 'vault_core_unsealed{pod="vault-0"}': "1x60"},
        silent={'vault_core_unsealed{pod="vault-0"}': "1x60"},
    ),
    "AuditLogIsBlocked": Case(
        fires={"vault_audit_log_request_failure": "0x55 3x5"},
        silent={"vault_audit_log_request_failure": "3x60", "vault_audit_log_response_failure": "0x60"},
    ),
    "NodeIsDown": Case(
        fires={'kube_node_status_condition{node="a", condition="Ready", status="true"}': "1x30 0x30"},
        silent={
            'kube_node_status_condition{node="a", condition="Ready", status="true"}': "1x60",
            'kube_node_status_condition{node="a", condition="DiskPressure", status="true"}': "0x60",
        },
    ),
    "PodKeepsRestarting": Case(
        fires={'kube_pod_container_status_restarts_total{namespace="gateway", pod="a"}': "0+1x60"},
        silent={
            'kube_pod_container_status_restarts_total{namespace="tenant-acme", pod="a"}': "0+1x60",
            'kube_pod_container_status_restarts_total{namespace="gateway", pod="a"}': "0x30 1x30",
        },
    ),
    "MetricsStopped": Case(
        # A job without any target is in no series that could be 0.
        fires={name: values for name, values in UP.items() if "longhorn" not in name},
        silent={**UP, 'up{job="vault", instance="a"}': "1x30 0x5 1x25"},
    ),
    "LedgerStands": Case(
        fires={"accounting_counted_timestamp_seconds": "0+60x20 1200x60"},
        silent={"accounting_counted_timestamp_seconds": "0+60x90"},
    ),
    "LogsAreNotArchived": Case(
        fires={
            'otelcol_receiver_accepted_log_records{instance="a"}': "0+10x90",
            'otelcol_exporter_sent_log_records{instance="a"}': "10x90",
            'otelcol_exporter_sent_log_records{instance="b"}': "0+10x90",
            # The queue is full, so nothing is taken in any more.
            'otelcol_exporter_queue_size{instance="full"}': "200x90",
            'otelcol_exporter_queue_capacity{instance="full"}': "256x90",
            'otelcol_exporter_send_failed_log_records{instance="refused"}': "0+1x90",
        },
        silent={
            'otelcol_receiver_accepted_log_records{instance="a"}': "0+10x90",
            'otelcol_exporter_sent_log_records{instance="a"}': "0+10x90",
            'otelcol_receiver_accepted_log_records{instance="idle"}': "10x90",
            'otelcol_exporter_sent_log_records{instance="idle"}': "10x90",
            'otelcol_exporter_queue_size{instance="idle"}': "100x90",
            'otelcol_exporter_queue_capacity{instance="idle"}': "256x90",
            'otelcol_exporter_send_failed_log_records{instance="idle"}': "7x90",
        },
    ),
    "LogsOutliveTheirTime": Case(
        fires={
            f"kube_cronjob_created{RETENTION}": "0x600",
            f"kube_cronjob_status_last_successful_time{RETENTION}": "86400x600",
        },
        silent={
            f"kube_cronjob_created{RETENTION}": "0x600",
            f"kube_cronjob_status_last_successful_time{RETENTION}": "172800x600",
            'kube_cronjob_created{namespace="platform-system", cronjob="another"}': "0x600",
        },
        at="5910m",
        interval="10m",
    ),
    "CostOutOfLine": Case(
        fires={
            'agent_platform_cost_forecast_chf{tenant="acme"}': "900x150",
            'agent_platform_list_price_chf{tenant="acme"}': "800x150",
        },
        silent={
            'agent_platform_cost_forecast_chf{tenant="acme"}': "700x150",
            'agent_platform_list_price_chf{tenant="acme"}': "800x150",
            'agent_platform_budget_chf{tenant="other"}': "100x150",
        },
        at="150m",
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    toolchain.ensure(Console(stderr=True), "promtool")


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [toolchain.tool("promtool"), *arguments], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rules") / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": rule_groups(JOBS)}))
    return file


def test_prometheus_takes_the_rules(rules: Path) -> None:
    checked = promtool("check", "rules", rules)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def both_of(name: str, case: Case) -> list[dict[str, Any]]:
    fires = f'count(max(ALERTS{{alertname="{name}", alertstate="firing"}}))'
    return [
        {
            "name": name,
            "interval": case.interval,
            "input_series": [{"series": each, "values": values} for each, values in series.items()],
            "promql_expr_test": [{"expr": fires, "eval_time": case.at, "exp_samples": samples}],
        }
        for series, samples in ((case.fires, [{"labels": "{}", "value": 1}]), (case.silent, []))
    ]


@pytest.mark.parametrize(("interval", "evaluated"), [("1m", "1m"), ("10m", "30m")])
def test_each_alert_fires_on_what_it_is_for_and_is_silent_otherwise(
    rules: Path, interval: str, evaluated: str
) -> None:
    cases = {name: case for name, case in CASES.items() if case.interval == interval}
    tests = [test for name, case in cases.items() for test in both_of(name, case)]
    file = rules.with_name(f"tests-{interval}.yaml")
    document = {"rule_files": [rules.name], "evaluation_interval": evaluated, "tests": tests}
    file.write_text(yaml.safe_dump(document))

    done = promtool("test", "rules", file)

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_but_the_one_that_always_fires() -> None:
    assert {alert.name for alert in ALERTS} - set(CASES) == {"Watchdog"}
    assert len(ALERTS) == len({alert.name for alert in ALERTS})


def test_an_outage_is_told_though_the_exporter_is_away_and_scanners_ask_for_much(rules: Path) -> None:
    """The exporter's pod changes, and then is gone; refused requests do not make an outage look small."""
    objective = "agent_platform_availability_objective_ratio"
    series = {
        f'{objective}{{tenant="acme", pod="one"}}': "0.999x50",
        f'{objective}{{tenant="acme", pod="two"}}': "_x45 0.999x20",
        'gateway_requests_total{tenant="acme", status="unavailable"}': "0+1x120",
        'gateway_requests_total{tenant="acme", status="refused"}': "0+300x120",
    }
    test = both_of("AvailabilityBurnsFast", Case(fires=series, silent={}, at="100m"))[0]
    file = rules.with_name("tests-away.yaml")
    file.write_text(yaml.safe_dump({"rule_files": [rules.name], "tests": [test]}))

    done = promtool("test", "rules", file)

    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_not_scraped_raises_no_alert() -> None:
    here = {rule.get("alert") for group in rule_groups(["gateway"]) for rule in group["rules"]}
    assert not here & {"DatabaseBackupIsOld", "ReplicationLags", "VolumeIsFaulted", "WorkspaceBackupIsOld"}
