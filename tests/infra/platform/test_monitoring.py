"""Monitoring as declared: what is scraped, who is told, who reaches it, and what the exporter may."""

import json
import re
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from infra.errors import ConfigurationError
from infra.platform import envoy, gateway
from infra.platform.monitoring.alerts import ALERTS
from infra.platform.monitoring.dashboards import DASHBOARDS
from infra.settings import load_settings
from services.exporter import drills
from tests.infra.platform.test_gateway import environment, may
from tests.infra.platform.test_platform import platform, releases, secret
from tests.infra.recording import SECRETS, Recorder, configure, local_stack, stack

MONITORING, EXPORTER = "platform-monitoring", "platform-exporter"
EVERYWHERE = {"gateway", "envoy", "exporter", "accounting", "collector", "kubevirt", "longhorn"}


@pytest.fixture(scope="module")
def managed() -> Recorder:
    return platform(stack("prod"))


@pytest.fixture(scope="module")
def given() -> Recorder:
    return platform(local_stack(), SECRETS)


def values(recorder: Recorder) -> dict[str, Any]:
    found: dict[str, Any] = releases(recorder)["kube-prometheus-stack"].inputs["values"]
    return found


def exporters_pod(recorder: Recorder) -> dict[str, Any]:
    pod: dict[str, Any] = recorder[f"{EXPORTER}-deployment"].inputs["spec"]["template"]["spec"]
    return pod


def test_what_is_managed_is_scraped_and_so_is_what_every_platform_has(
    managed: Recorder, given: Recorder
) -> None:
    scraped = values(managed)["prometheus"]["prometheusSpec"]["additionalScrapeConfigs"]
    assert {job["job_name"] for job in scraped} == EVERYWHERE | {"postgresql", "vault", "cert-manager"}
    left = yaml.safe_load(given[f"{MONITORING}-prometheus"].inputs["data"]["scrape.yaml"])["scrape_configs"]
    assert {job["job_name"] for job in left} == EVERYWHERE
    assert [job for job in scraped if job["job_name"] in EVERYWHERE] == left


def test_both_ways_have_the_same_rules(managed: Recorder, given: Recorder) -> None:
    groups = values(managed)["additionalPrometheusRulesMap"]["agent-platform"]["groups"]
    left = yaml.safe_load(given[f"{MONITORING}-prometheus"].inputs["data"]["rules.yaml"])
    named = [rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule]
    assert list(dict.fromkeys(named)) == [alert.name for alert in ALERTS]
    for group, same in zip(left["groups"], groups, strict=True):
        assert [rule for rule in same["rules"] if rule in group["rules"]] == group["rules"]
    missing = set(named) - {rule.get("alert") for group in left["groups"] for rule in group["rules"]}
    assert missing == {"DatabaseBackupIsOld", "DatabaseArchiveStands", "ReplicationLags"}


def test_nothing_that_a_tenant_chooses_becomes_a_label(managed: Recorder) -> None:
    """CloudNativePG tells of sessions under the names that they give themselves."""
    scraped = values(managed)["prometheus"]["prometheusSpec"]["additionalScrapeConfigs"]
    (job,) = [job for job in scraped if job["job_name"] == "postgresql"]
    (kept,) = job["metric_relabel_configs"]
    assert (kept["source_labels"], kept["action"]) == (["__name__"], "keep")
    assert re.fullmatch(kept["regex"], "cnpg_pg_replication_lag")
    assert not re.fullmatch(kept["regex"], "cnpg_backends_total")


def test_each_scrape_has_an_opening_out_and_each_of_our_own_services_one_in(managed: Recorder) -> None:
    for job in values(managed)["prometheus"]["prometheusSpec"]["additionalScrapeConfigs"]:
        opening = managed[f"{MONITORING}-to-{job['job_name']}"].inputs["spec"]["egress"][0]
        (peer,) = opening["to"]
        (found,) = job["kubernetes_sd_configs"]
        namespace = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        assert [namespace] == found["namespaces"]["names"]
        (selector,) = found["selectors"]
        labels = {f"{name}={value}" for name, value in peer["podSelector"]["matchLabels"].items()}
        assert (selector["role"], set(selector["label"].split(","))) == ("pod", labels)
    for service, ports in (("platform-gateway", [9090, 9091]), (EXPORTER, [9090])):
        entrance = managed[f"{service}-from-monitoring"].inputs["spec"]["ingress"][0]
        assert [port["port"] for port in entrance["ports"]] == ports
    within = managed[f"{MONITORING}-from-monitoring"].inputs["spec"]["ingress"][0]
    assert {9090, 9093, 8080, 8888} == {port["port"] for port in within["ports"]}
    closed = managed[f"{MONITORING}-default-deny"].inputs["spec"]
    assert (closed["podSelector"], closed["policyTypes"]) == ({}, ["Ingress", "Egress"])


def test_the_ports_that_are_scraped_are_those_that_pods_have(managed: Recorder) -> None:
    pod = managed["platform-gateway-deployment"].inputs["spec"]["template"]["spec"]
    named = {
        port["name"]: port["containerPort"]
        for container in [*pod["containers"], *pod["initContainers"]]
        for port in container["ports"]
    }
    assert (named["health"], named["statistics"]) == (9090, 9091)
    (container,) = exporters_pod(managed)["containers"]
    assert container["ports"] == [{"name": "health", "containerPort": 9090}]


def test_vault_is_verified_by_the_platforms_authority(managed: Recorder) -> None:
    scraped = values(managed)["prometheus"]["prometheusSpec"]
    (job,) = [job for job in scraped["additionalScrapeConfigs"] if job["job_name"] == "vault"]
    assert job["scheme"] == "https" and "insecure_skip_verify" not in job["tls_config"]
    assert job["tls_config"]["ca_file"] == "/etc/prometheus/configmaps/platform-authority/ca.crt"
    assert scraped["configMaps"] == [managed[f"{MONITORING}-authority"].inputs["metadata"]["name"]]
    issued = managed["platform-certificates-vault-tls"].inputs["spec"]["dnsNames"]
    assert job["tls_config"]["server_name"] in issued


def test_each_server_has_its_volume_and_its_limits(managed: Recorder) -> None:
    chart = values(managed)
    spec = chart["prometheus"]["prometheusSpec"]
    assert spec["storageSpec"]["volumeClaimTemplate"]["spec"]["resources"] == {
        "requests": {"storage": "50Gi"}
    }
    assert (spec["retention"], spec["retentionSize"]) == ("30d", "45GiB")
    limited = (
        spec,
        chart["alertmanager"]["alertmanagerSpec"],
        *(chart[name] for name in ("prometheusOperator", "grafana", "kube-state-metrics")),
        chart["prometheus-node-exporter"],
    )
    assert all(each["resources"]["limits"]["memory"] for each in limited)


def receivers(recorder: Recorder) -> dict[str, Any]:
    document = yaml.safe_load(
        secret(recorder[f"{MONITORING}-alertmanager"].inputs["stringData"])["alertmanager.yaml"]
    )
    return {receiver["name"]: receiver for receiver in document["receivers"]}


def test_alerts_go_to_the_operators_and_the_one_that_always_fires_to_nobody(managed: Recorder) -> None:
    document = yaml.safe_load(
        secret(managed[f"{MONITORING}-alertmanager"].inputs["stringData"])["alertmanager.yaml"]
    )
    assert document["route"]["receiver"] == "operators"
    (mail,) = receivers(managed)["operators"]["email_configs"]
    assert (mail["to"], mail["smarthost"], mail["require_tls"]) == (
        "on-call@example.ch",
        "smtp.example.ch:587",
        True,
    )
    silent, urgent = document["route"]["routes"]
    assert set(receivers(managed)) == {"operators", "nobody"}
    assert (silent["matchers"], silent["receiver"]) == (['severity="none"'], "nobody")
    assert (urgent["matchers"], urgent["repeat_interval"]) == (['severity="page"'], "1h")


def test_the_receivers_secrets_stand_in_a_secret_alone() -> None:
    configured = stack("prod")
    mail = {**configured["monitoring"]["managed"]["email"], "username": "platform"}
    configured["monitoring"] = {"managed": {"email": mail, "webhook": {}, "heartbeat": {}}}
    secrets = {
        "alertWebhook": "https://hooks.example.ch/secret-path",
        "alertHeartbeat": "https://beats.example.ch:8443/secret-path",
        "alertEmailPassword": "secret-word",
    }
    recorder = platform(configured, secrets)
    operators = receivers(recorder)["operators"]
    assert operators["webhook_configs"][0]["url"] == "https://hooks.example.ch/secret-path"
    assert operators["email_configs"][0]["auth_password"] == "secret-word"
    (beat,) = receivers(recorder)["heartbeat"]["webhook_configs"]
    assert beat["url"] == "https://beats.example.ch:8443/secret-path"
    document = yaml.safe_load(
        secret(recorder[f"{MONITORING}-alertmanager"].inputs["stringData"])["alertmanager.yaml"]
    )
    watched = document["route"]["routes"][0]
    assert (watched["matchers"], watched["receiver"]) == (['alertname="Watchdog"'], "heartbeat")
    ports = recorder[f"{MONITORING}-to-receivers"].inputs["spec"]["egress"][0]["ports"]
    assert [port["port"] for port in ports] == [443, 8443, 587]
    told = json.dumps(values(recorder))
    assert "secret-path" not in told and "secret-word" not in told


@pytest.mark.parametrize("monitoring", [{"managed": {}}, {"managed": {"webhook": {}}}])
def test_alerts_that_nobody_would_hear_are_refused(monitoring: dict[str, Any]) -> None:
    configure({**stack("prod"), "monitoring": monitoring})
    with pytest.raises(ConfigurationError, match=r"monitoring|alertWebhook"):
        load_settings()


def test_operators_reach_grafana_through_the_gateway_alone(managed: Recorder, given: Recorder) -> None:
    (container,) = managed["platform-gateway-deployment"].inputs["spec"]["template"]["spec"]["initContainers"]
    bootstrap = json.loads(container["args"][-1])
    manager = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    console, _ = manager["route_config"]["virtual_hosts"]
    (route,) = [route for route in console["routes"] if route["match"]["prefix"] == "/grafana/"]
    assert "typed_per_filter_config" not in route  # the authoriser is asked
    assert route["request_headers_to_remove"] == ["authorization", "cookie"]
    (told,) = route["request_headers_to_add"]
    ini = values(managed)["grafana"]["grafana.ini"]
    assert told["header"]["key"] == ini["auth.proxy"]["header_name"]
    assert told["append_action"] == "OVERWRITE_IF_EXISTS_OR_ADD"
    assert ini["server"]["root_url"].endswith(".ch/grafana/")
    assert values(managed)["grafana"]["serviceMonitor"]["path"] == "/grafana/metrics"
    ways = {
        name: [port["port"] for port in managed[f"{MONITORING}-{name}"].inputs["spec"]["ingress"][0]["ports"]]
        for name in ("from-gateway", "from-prometheus", "from-monitoring")
    }
    assert (ways["from-gateway"], ways["from-prometheus"]) == ([3000], [3000])
    assert 3000 not in ways["from-monitoring"]
    (beside,) = given["platform-gateway-deployment"].inputs["spec"]["template"]["spec"]["initContainers"]
    assert "grafana" not in beside["args"][-1]


def test_envoy_takes_the_way_to_grafana() -> None:
    configure(stack("prod"))
    settings = load_settings()
    found = gateway.grafana(settings)
    assert found is not None
    envoy.check(settings.domain, found)


def test_grafanas_password_is_for_operators(managed: Recorder) -> None:
    kept = managed[f"{MONITORING}-grafana"].inputs
    assert kept["name"] == "console/grafana"
    assert json.loads(secret(kept["dataJson"]))["password"] == "drawn"
    assert secret(managed[f"{MONITORING}-grafana-admin"].inputs["stringData"])["admin-password"] == "drawn"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_one_by_grafanas_own_model(managed: Recorder, name: str) -> None:
    config_map = managed[f"{MONITORING}-dashboard-{name}"].inputs
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    text = config_map["data"][f"{name}.json"]
    read = Dashboard.from_json(json.loads(text))
    assert json.loads(JSONEncoder().encode(read)) == json.loads(text)
    assert (read.uid, len(read.panels or [])) == (name, len(DASHBOARDS[name].panels))
    for panel in read.panels or []:
        assert panel.description and panel.targets  # type: ignore[union-attr]


def test_the_exporter_may_read_tenants_and_backups_and_nothing_else(given: Recorder) -> None:
    assert may(given, f"{EXPORTER}-configmaps-role") == {
        ("", "configmaps", verb) for verb in ("list", "watch")
    }
    assert may(given, f"{EXPORTER}-backups-role") == {
        ("longhorn.io", "backups", verb) for verb in ("list", "watch")
    }
    for one in ("configmaps", "backups"):
        (subject,) = given[f"{EXPORTER}-{one}-binding"].inputs["subjects"]
        assert (subject["name"], subject["namespace"]) == ("exporter", "platform-system")
    roles = given.of_type("kubernetes:rbac.authorization.k8s.io/v1:ClusterRoleBinding")
    assert not [one for one in roles if "exporter" in json.dumps(one.inputs)]


def test_whoever_writes_the_record_of_a_drill_may_write_that_alone(given: Recorder) -> None:
    record = given["platform-drill-record"].inputs["metadata"]
    assert (record["name"], record["namespace"]) == ("last-drill", "gateway")
    assert record["labels"] == {drills._LABEL: "last"}
    assert "data" not in given["platform-drill-record"].inputs
    (rule,) = given["platform-drill-role"].inputs["rules"]
    assert rule["resourceNames"] == ["last-drill"]
    assert may(given, "platform-drill-role") == {("", "configmaps", verb) for verb in ("get", "patch")}
    (subject,) = given["platform-drill-binding"].inputs["subjects"]
    assert (subject["kind"], subject["name"], subject["namespace"]) == ("ServiceAccount", "drill", "gateway")
    token = given["platform-drill-token"].inputs
    assert token["metadata"]["annotations"] == {"kubernetes.io/service-account.name": "drill"}


def test_the_exporter_finds_what_its_environment_names(given: Recorder) -> None:
    pod = exporters_pod(given)
    (container,) = pod["containers"]
    told = environment(pod)
    folders = {mount["mountPath"] for mount in container["volumeMounts"]}
    files = [value for value in told.values() if isinstance(value, str) and value.startswith("/")]
    assert {file.rpartition("/")[0] for file in files} <= folders
    assert (told["PGUSER"], told["ROUTES_NAMESPACE"]) == ("monitoring", "gateway")
    assert container["command"] == ["python3", "-m", "services.exporter"]
    assert secret(given[f"{EXPORTER}-postgresql"].inputs["stringData"])["password"] == "drawn"
    control = given["platform-database-control"].inputs
    assert (control["observer"], control["keeper"]) == ("monitoring", "limits")
