"""The dashboards that Grafana shows, and the queries of each panel.

`$tenant` stands for the tenants that are chosen at a dashboard's top, as a regular expression.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef

_HEIGHT = 8
_SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
_TENANTS = 'tenant=~"$tenant"'

Kind = Literal["line", "figure", "table"]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel."""

    title: str
    description: str
    unit: str
    """Grafana's name of the unit, such as `bytes`, `s`, `percentunit`, `short`."""
    queries: Mapping[str, str]
    """PromQL by the legend of its series, a template such as `{{tenant}}`."""
    kind: Kind = "line"
    job: str = ""
    """The scrape job without which the panel would be empty; it is left out where there is none."""
    quiet: bool = False
    """True for a panel that is empty while all is well."""


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """One dashboard."""

    title: str
    by_tenant: bool
    """True if the viewer chooses tenants at the top."""
    panels: tuple[Panel, ...]

    def shown(self, jobs: Collection[str]) -> list[Panel]:
        """Return the panels for a Prometheus with these scrape jobs."""
        return [panel for panel in self.panels if not panel.job or panel.job in jobs]


_MACHINES = Dashboard(
    title="Tenants' machines",
    by_tenant=True,
    panels=(
        Panel(
            title="Awake and asleep",
            description="Machines by what the idle suspender decided last.",
            unit="short",
            kind="figure",
            queries={"{{decision}}": "count by (decision) (idle_suspender_verdict)"},
        ),
        Panel(
            title="Awake this month",
            description="How long each machine has run since the month began (UTC).",
            unit="s",
            kind="table",
            queries={"{{tenant}}": f"agent_platform_awake_seconds_total{{{_TENANTS}}}"},
        ),
        Panel(
            title="Last decision",
            description="awake: it is used; suspended: it was idle; left: it cannot be judged; failed: it "
            "cannot be stopped. The operators' page says why.",
            unit="short",
            kind="table",
            queries={"{{tenant}}: {{decision}}": f"idle_suspender_verdict{{{_TENANTS}}}"},
        ),
        Panel(
            title="CPU",
            description="Processors in use by each machine.",
            unit="short",
            job="kubevirt",
            queries={
                "{{tenant}}": "sum by (tenant) "
                f"(rate(kubevirt_vmi_cpu_usage_seconds_total{{{_TENANTS}}}[5m]))"
            },
        ),
        Panel(
            title="Memory",
            description="Memory of the node that each machine takes.",
            unit="bytes",
            job="kubevirt",
            queries={"{{tenant}}": f"sum by (tenant) (kubevirt_vmi_memory_resident_bytes{{{_TENANTS}}})"},
        ),
        Panel(
            title="Disk",
            description="Bytes that each machine reads and writes per second.",
            unit="Bps",
            job="kubevirt",
            queries={
                f"{{{{tenant}}}} {direction}s": "sum by (tenant) (rate("
                f"kubevirt_vmi_storage_{direction}_traffic_bytes_total{{{_TENANTS}}}[5m]))"
                for direction in ("read", "write")
            },
        ),
        Panel(
            title="Network",
            description="Bytes that each machine receives and sends per second.",
            unit="Bps",
            job="kubevirt",
            queries={
                f"{{{{tenant}}}} {direction}s": "sum by (tenant) (rate("
                f"kubevirt_vmi_network_{direction}_bytes_total{{{_TENANTS}}}[5m]))"
                for direction in ("receive", "transmit")
            },
        ),
    ),
)

_DATABASE = Dashboard(
    title="Database",
    by_tenant=True,
    panels=(
        Panel(
            title="Size",
            description="What each tenant has in PostgreSQL: tables, indexes, large objects.",
            unit="bytes",
            queries={"{{tenant}}": f"agent_platform_database_bytes{{{_TENANTS}}}"},
        ),
        Panel(
            title="Share of the limit",
            description="At 100% a tenant's logins are refused until it has less.",
            unit="percentunit",
            queries={
                "{{tenant}}": f"agent_platform_database_bytes{{{_TENANTS}}} "
                "/ agent_platform_database_limit_bytes"
            },
        ),
        Panel(
            title="Rows",
            description="Rows in each tenant's schema, by PostgreSQL's estimate.",
            unit="short",
            queries={"{{tenant}}": f"agent_platform_database_rows{{{_TENANTS}}}"},
        ),
        Panel(
            title="Connections",
            description="Each tenant's connections.",
            unit="short",
            queries={"{{tenant}}": f"agent_platform_database_connections{{{_TENANTS}}}"},
        ),
        Panel(
            title="Longest statement",
            description="How long each tenant's longest statement had run when it was looked at.",
            unit="s",
            queries={"{{tenant}}": f"agent_platform_database_longest_statement_seconds{{{_TENANTS}}}"},
        ),
        Panel(
            title="Slow statements and waits",
            description="Statements that have run for over five seconds, and sessions that wait for a lock.",
            unit="short",
            queries={
                "{{tenant}} slow": f"agent_platform_database_slow_statements{{{_TENANTS}}}",
                "{{tenant}} waits": f"agent_platform_database_lock_waits{{{_TENANTS}}}",
            },
        ),
        Panel(
            title="The server's connections",
            description="Connections in use, of all that PostgreSQL takes.",
            unit="short",
            queries={
                "in use": "agent_platform_database_connections_used",
                "at most": "agent_platform_database_connections_limit",
            },
        ),
        Panel(
            title="Replication",
            description="How far each replica is behind the primary.",
            unit="s",
            job="postgresql",
            queries={"{{pod}}": "max by (pod) (cnpg_pg_replication_lag)"},
        ),
    ),
)

_COST = Dashboard(
    title="Cost",
    by_tenant=True,
    panels=(
        Panel(
            title="All tenants",
            description="Cost of tenants' own parts, by list prices; what all share is in the review's bill.",
            unit="currencyCHF",
            kind="figure",
            queries={
                "this month so far": "sum(agent_platform_cost_chf)",
                "at the month's end": "sum(agent_platform_cost_forecast_chf)",
            },
        ),
        Panel(
            title="This month so far",
            description="Each tenant's cost since the month began (UTC).",
            unit="currencyCHF",
            queries={"{{tenant}}": f"agent_platform_cost_chf{{{_TENANTS}}}"},
        ),
        Panel(
            title="Forecast",
            description="Each tenant's cost at the month's end, if it goes on as it did.",
            unit="currencyCHF",
            queries={"{{tenant}}": f"agent_platform_cost_forecast_chf{{{_TENANTS}}}"},
        ),
        Panel(
            title="Margin",
            description="The list price less the forecast; a contract's own price is not in it.",
            unit="currencyCHF",
            kind="table",
            queries={
                "{{tenant}}": f"max by (tenant) (agent_platform_list_price_chf{{{_TENANTS}}}) - on (tenant) "
                "max by (tenant) (agent_platform_cost_forecast_chf)"
            },
        ),
    ),
)

_ACTIVITY = Dashboard(
    title="Activity",
    by_tenant=True,
    panels=(
        Panel(
            title="Requests",
            description="Requests per second by tenant.",
            unit="reqps",
            queries={"{{tenant}}": f"sum by (tenant) (rate(gateway_requests_total{{{_TENANTS}}}[5m]))"},
        ),
        Panel(
            title="Outcomes",
            description="Requests per second by outcome. 2xx to 5xx: the agent's own; refused: by the "
            "gateway; waking: told to ask again while the machine starts; unavailable: failed by the "
            "platform; abandoned and broken: by the client.",
            unit="reqps",
            queries={"{{status}}": f"sum by (status) (rate(gateway_requests_total{{{_TENANTS}}}[5m]))"},
        ),
        Panel(
            title="Answered within a second",
            description="Share of requests whose first byte came within a second.",
            unit="percentunit",
            queries={
                "{{tenant}}": "sum by (tenant) "
                f'(rate(gateway_request_seconds_bucket{{le="1.0", {_TENANTS}}}[5m])) '
                # Who asked nothing for five minutes has no share.
                f"/ (sum by (tenant) (rate(gateway_request_seconds_count{{{_TENANTS}}}[5m])) > 0)"
            },
        ),
        Panel(
            title="Bytes",
            description="Bytes of bodies per second, in and out.",
            unit="Bps",
            queries={
                f"{{{{tenant}}}} {direction}": "sum by (tenant) (rate("
                f"gateway_{direction}_bytes_total{{{_TENANTS}}}[5m]))"
                for direction in ("received", "sent")
            },
        ),
        Panel(
            title="Wakes",
            description="Wakes that succeeded within an hour.",
            unit="short",
            queries={
                "{{tenant}}": f"sum by (tenant) (increase(gateway_wake_seconds_count{{{_TENANTS}}}[1h]))"
            },
        ),
        Panel(
            title="Time to wake",
            description="Mean time from the request that found a tenant asleep until its agents were ready.",
            unit="s",
            queries={
                "{{tenant}}": f"sum by (tenant) (increase(gateway_wake_seconds_sum{{{_TENANTS}}}[1h])) / "
                f"(sum by (tenant) (increase(gateway_wake_seconds_count{{{_TENANTS}}}[1h])) > 0)"
            },
        ),
        Panel(
            title="Phases of wakes",
            description="95th percentile of each phase: queued, start of the machine, boot, agents ready.",
            unit="s",
            queries={
                "{{phase}}": "histogram_quantile(0.95, sum by (phase, le) "
                "(increase(gateway_wake_phase_seconds_bucket[1h])))"
            },
        ),
        Panel(
            title="Failed wakes",
            description="Wakes that failed within an hour, by tenant.",
            unit="short",
            queries={
                "{{tenant}}": f"sum by (tenant) (increase(gateway_wake_failures_total{{{_TENANTS}}}[1h]))"
            },
        ),
        Panel(
            title="Reasons of failed wakes",
            description="Wakes of all tenants that failed within an hour, by reason.",
            unit="short",
            quiet=True,
            queries={"{{kind}}": "sum by (kind) (increase(gateway_wake_failure_kinds_total[1h]))"},
        ),
        Panel(
            title="In flight",
            description="Requests and streams that hold a machine awake, and requests that wait for one.",
            unit="short",
            queries={
                "{{kind}}s": "sum by (kind) (gateway_requests_in_flight)",
                "waiting": "sum(gateway_waiting_requests)",
            },
        ),
    ),
)

_HEALTH = Dashboard(
    title="The platform's health",
    by_tenant=False,
    panels=(
        Panel(
            title="Alerts",
            description="What fires now. Watchdog always does.",
            unit="short",
            kind="table",
            queries={"{{alertname}} {{tenant}}": 'ALERTS{alertstate="firing"}'},
        ),
        Panel(
            title="Tenants",
            description="Tenants by tier and state.",
            unit="short",
            kind="table",
            queries={"{{tier}} {{state}}": "count by (tier, state) (agent_platform_tenant)"},
        ),
        Panel(
            title="Failed requests of a day",
            description="Share of each tenant's requests that the platform failed, beside what its objective "
            "allows.",
            unit="percentunit",
            queries={
                "{{tenant}}": "tenant:gateway_failures:ratio1d",
                "{{tenant}} may": "1 - tenant:availability_objective:ratio",
            },
        ),
        Panel(
            title="Targets",
            description="Share of each job's targets that tell their figures.",
            unit="percentunit",
            queries={"{{job}}": "avg by (job) (up)"},
        ),
        Panel(
            title="Servers",
            description="Whether each server answers the exporter.",
            unit="short",
            queries={"{{source}}": "agent_platform_source_up"},
        ),
        Panel(
            title="Last sweep",
            description="How long ago the idle suspender looked at the machines. It does once a minute.",
            unit="s",
            queries={"age": 'time() - max(idle_suspender_last_sweep{figure="at"})'},
        ),
        Panel(
            title="Connections at the edge",
            description="Clients' connections to each Envoy.",
            unit="short",
            queries={"{{pod}}": 'envoy_http_downstream_cx_active{envoy_http_conn_manager_prefix="public"}'},
        ),
        Panel(
            title="Memory of the edge",
            description="What each Envoy has allocated.",
            unit="bytes",
            queries={"{{pod}}": "envoy_server_memory_allocated"},
        ),
        Panel(
            title="Redis",
            description="What Redis uses for holds, verdicts and time awake.",
            unit="bytes",
            queries={"used": "agent_platform_redis_memory_bytes"},
        ),
        Panel(
            title="Certificate",
            description="Days until the gateway's first certificate ends.",
            unit="d",
            queries={"{{pod}}": "envoy_server_days_until_first_cert_expiring"},
        ),
        Panel(
            title="Age of workspaces' backups",
            description="Time since each workspace was last backed up.",
            unit="s",
            job="longhorn",
            queries={"{{tenant}}": "time() - agent_platform_workspace_backup_timestamp_seconds"},
        ),
        Panel(
            title="Volumes",
            description="Volumes by the state of their replicas.",
            unit="short",
            job="longhorn",
            queries={"{{state}}": "sum by (state) (longhorn_volume_robustness)"},
        ),
        Panel(
            title="Vault",
            description="1 while a server is unsealed.",
            unit="short",
            job="vault",
            queries={"{{pod}}": "max by (pod, instance) (vault_core_unsealed)"},
        ),
    ),
)

DASHBOARDS: Mapping[str, Dashboard] = MappingProxyType(
    {
        "machines": _MACHINES,
        "database": _DATABASE,
        "cost": _COST,
        "activity": _ACTIVITY,
        "health": _HEALTH,
    }
)
"""By the name that is a part of a dashboard's address."""

_BUILDERS: Mapping[Kind, type[timeseries.Panel | stat.Panel | table.Panel]] = {
    "line": timeseries.Panel,
    "figure": stat.Panel,
    "table": table.Panel,
}


def render(name: str, jobs: Collection[str]) -> str:
    """Return the dashboard of that name as Grafana's JSON, for a Prometheus with these scrape jobs."""
    found = DASHBOARDS[name]
    board = (
        dashboard.Dashboard(found.title)
        .uid(name)
        .tags(["agent-platform"])
        .readonly()
        .refresh("1m")
        .time("now-24h", "now")
    )
    if found.by_tenant:
        board.with_variable(
            dashboard.QueryVariable("tenant")
            .datasource(_SOURCE)
            .query("label_values(agent_platform_tenant, tenant)")
            .multi(True)
            .include_all(True)
            .all_value(".+")
        )
    for panel in found.shown(jobs):
        board.with_panel(_panel(panel))
    return JSONEncoder(sort_keys=True, indent=1).encode(board.build())


def _panel(panel: Panel) -> timeseries.Panel | stat.Panel | table.Panel:
    made = _BUILDERS[panel.kind]()
    made.title(panel.title).description(panel.description).unit(panel.unit).datasource(_SOURCE)
    made.height(_HEIGHT).span(12 if panel.kind == "line" else 8)
    for letter, (legend, query) in zip("ABCDEF", panel.queries.items(), strict=False):
        target = prometheus.Dataquery().expr(query).legend_format(legend).ref_id(letter)
        made.with_target(target.range() if panel.kind == "line" else target.instant())
    return made
