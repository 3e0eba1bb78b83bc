"""Prometheus and Alertmanager, which `make monitor` starts beside the platform: `up` does without them.

Both are given to the program: it leaves their configuration in ConfigMaps of the namespace `monitoring`, and
they take it as it stands. Only how to reach the Kubernetes API is added, since they are no pods here, all
intervals are shorter, and for KubeVirt the node agent's figures stand in. Alerts come to a receiver that
writes them to a file.
"""

import subprocess
import sys
from http import HTTPStatus
from typing import Any

import urllib3
import yaml
from kubernetes import client as kubernetes_client

from local import ports, store, toolchain
from local.errors import LocalError
from local.paths import DATA
from local.servers import kubernetes, log_collector, node_agent, vault
from local.supervisor import NotReady, Service

PROGRAMS = ("prometheus", "promtool", "alertmanager")
ALERTS = DATA / "monitoring" / "alerts.jsonl"
"""The messages that the receiver got of Alertmanager, one a line."""
_HOME = DATA / "monitoring"
_NAMESPACE = "monitoring"
_CONFIG_MAP = "prometheus"
_SECONDS = 5
"""The interval of scrapes and rules: whoever starts this waits for the first figures."""
_NOT_HERE = ("longhorn",)
"""Jobs for what does not run here."""
_NO_PODS = {"kubevirt": node_agent.figures_port, "collector": log_collector.metrics_port}
"""Jobs for what runs here as a process of this machine, with its port."""
_OF_FIGURES = ("job_name", "honor_labels", "metric_relabel_configs")
_ABSENT_HERE = tuple(f'absent(up{{job="{job}"}})' for job in _NOT_HERE)
"""The alerts that would fire because those jobs have no targets."""


def services() -> list[Service]:
    """Tell how each runs."""
    return [
        Service(
            name="alert-receiver",
            command=[
                sys.executable,
                "-m",
                "local.alert_receiver",
                str(ports.port("alert-receiver")),
                str(ALERTS),
            ],
            ports=[ports.port("alert-receiver")],
            ready=lambda: _answers("alert-receiver", "/"),
        ),
        Service(
            name="alertmanager",
            command=[
                str(toolchain.tool("alertmanager")),
                f"--config.file={_HOME / 'alertmanager.yaml'}",
                f"--storage.path={_HOME / 'alertmanager'}",
                f"--web.listen-address=127.0.0.1:{ports.port('alertmanager')}",
                "--cluster.listen-address=",
            ],
            ports=[ports.port("alertmanager")],
            ready=lambda: _answers("alertmanager", "/-/ready"),
        ),
        Service(
            name="prometheus",
            command=[
                str(toolchain.tool("prometheus")),
                f"--config.file={_HOME / 'prometheus.yaml'}",
                f"--storage.tsdb.path={_HOME / 'prometheus'}",
                "--storage.tsdb.retention.time=7d",
                f"--web.listen-address=127.0.0.1:{ports.port('prometheus')}",
                "--web.enable-lifecycle",
            ],
            ports=[ports.port("prometheus")],
            ready=lambda: _answers("prometheus", "/-/ready"),
        ),
    ]


def prepare() -> None:
    """Write the configuration that the program has left; LocalError if it has left none."""
    store.private_folder(_HOME)
    scraped, rules = _declared()
    store.write_text(_HOME / "scrape.yaml", yaml.safe_dump({"scrape_configs": scraped}, sort_keys=False))
    store.write_text(_HOME / "rules.yaml", yaml.safe_dump(rules, sort_keys=False))
    store.write_text(_HOME / "prometheus.yaml", yaml.safe_dump(_configuration(), sort_keys=False))
    store.write_text(_HOME / "alertmanager.yaml", yaml.safe_dump(_routing(), sort_keys=False))
    checked = subprocess.run(
        [toolchain.tool("promtool"), "check", "config", _HOME / "prometheus.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    if checked.returncode:
        raise LocalError(
            "prometheus: its own checker refuses the configuration, so nothing was started; mend "
            f"infra/platform/monitoring, run `make up`, then `make monitor`.\n{checked.stderr.strip()}"
        )


def bootstrap() -> None:
    """Have a Prometheus that runs already read its configuration again."""
    answer = _request("POST", f"{url('prometheus')}/-/reload")
    if answer.status != HTTPStatus.OK:
        raise LocalError(
            f"prometheus: it refuses its configuration ({answer.data.decode().strip()}), so it goes on with "
            "the one before; mend infra/platform/monitoring and run `make up`, then `make monitor`."
        )


def environment() -> dict[str, str]:
    """Return where both are."""
    return {"PROMETHEUS_URL": url("prometheus"), "ALERTMANAGER_URL": url("alertmanager")}


def url(name: str) -> str:
    """Return the address of `prometheus` or `alertmanager`."""
    return f"http://127.0.0.1:{ports.port(name)}"


def ask(path: str) -> Any:
    """Return the `data` of an answer of Prometheus' API; LocalError with its reason if it refuses."""
    try:
        answer = _request("GET", f"{url('prometheus')}/api/v1/{path}")
        told = answer.json()
    except (OSError, ValueError) as error:
        raise LocalError(f"prometheus: it does not answer ({error}); run `make monitor`.") from None
    if told["status"] != "success":
        raise LocalError(f"prometheus: {path}: {told['error']}")
    return told["data"]


def _declared() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the scrape configurations and the rules that the program has left."""
    core = kubernetes_client.CoreV1Api(kubernetes.client())
    try:
        data: dict[str, str] = core.read_namespaced_config_map(_CONFIG_MAP, _NAMESPACE).data or {}
    except kubernetes_client.ApiException as error:
        raise LocalError(
            f"monitoring: the program has left no configuration ({error.reason}), so nothing was started; "
            "run `make up` first."
        ) from None
    try:
        jobs = yaml.safe_load(data["scrape.yaml"])["scrape_configs"]
        rules = yaml.safe_load(data["rules.yaml"])
        for group in rules["groups"]:
            group["interval"] = f"{_SECONDS}s"
            group["rules"] = [rule for rule in group["rules"] if rule["expr"] not in _ABSENT_HERE]
        return [_here(job) for job in jobs if job["job_name"] not in _NOT_HERE], rules
    except (LookupError, TypeError, yaml.YAMLError) as error:
        raise LocalError(
            f"monitoring: the ConfigMap {_NAMESPACE}/{_CONFIG_MAP} is not as the program leaves it "
            f"({' '.join(str(error).split())}), so nothing was changed; delete it and run `make up`."
        ) from None


def _here(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job with this platform's way to its targets."""
    if job["job_name"] in _NO_PODS:
        kept = {name: job[name] for name in _OF_FIGURES if name in job}
        return {**kept, "static_configs": [{"targets": [f"127.0.0.1:{_NO_PODS[job['job_name']]()}"]}]}
    kubeconfig = kubernetes.environment()["KUBECONFIG"]
    found = [{**each, "kubeconfig_file": kubeconfig} for each in job["kubernetes_sd_configs"]]
    timing = {"scrape_interval": f"{_SECONDS}s", "scrape_timeout": f"{_SECONDS}s"}
    return {**job, **timing, "kubernetes_sd_configs": found}


def _configuration() -> dict[str, Any]:
    return {
        "global": {"scrape_interval": f"{_SECONDS}s", "scrape_timeout": f"{_SECONDS}s"},
        "scrape_config_files": ["scrape.yaml"],
        "rule_files": ["rules.yaml"],
        "alerting": {
            "alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{ports.port('alertmanager')}"]}]}]
        },
        "scrape_configs": [
            {
                "job_name": "vault",
                "metrics_path": "/v1/sys/metrics",
                "params": {"format": ["prometheus"]},
                "static_configs": [{"targets": [vault.url().removeprefix("http://")]}],
            }
        ],
    }


def _routing() -> dict[str, Any]:
    """Return Alertmanager's configuration: the receiver gets every alert but the one that always fires."""
    address = f"http://127.0.0.1:{ports.port('alert-receiver')}/"
    return {
        "route": {
            "receiver": "file",
            "group_by": ["alertname"],
            "group_wait": "1s",
            "group_interval": "5s",
            "repeat_interval": "1h",
            "routes": [{"matchers": ['severity="none"'], "receiver": "nobody"}],
        },
        "receivers": [
            {"name": "file", "webhook_configs": [{"url": address, "send_resolved": True}]},
            {"name": "nobody"},
        ],
    }


def _answers(name: str, path: str) -> None:
    answer = _request("GET", f"http://127.0.0.1:{ports.port(name)}{path}")
    if answer.status != HTTPStatus.OK:
        raise NotReady(f"says {answer.status}")


def _request(method: str, address: str) -> urllib3.BaseHTTPResponse:
    """Raises OSError if there is no answer."""
    try:
        return urllib3.request(method, address, timeout=30, retries=False)
    except urllib3.exceptions.HTTPError as error:
        raise OSError(str(error)) from None
