"""The logs' collector, which `make monitor` starts beside the platform: `up` does without it.

It is given to the program: it takes configuration and key as they lie in the namespace `monitoring`. Changed
is where it listens and keeps its state, and how lines are found: the node agent writes them without the
kubelet's time and stream, and a guest's console to a file of its own.
"""

import base64
import subprocess
from http import HTTPStatus
from pathlib import Path
from typing import Any

import urllib3
import yaml
from kubernetes import client as kubernetes_client

from local import ports, store, toolchain
from local.errors import LocalError
from local.paths import DATA, LOGS
from local.servers import kubernetes
from local.supervisor import NotReady, Service

PROGRAM = "otelcol"
_NAME = "log-collector"
_HOME = DATA / "log-collector"
_CONFIGURATION = _HOME / "collector.yaml"
_CREDENTIALS = _HOME / "credentials"
_NAMESPACE, _OBJECT = "monitoring", "collector"
_SECONDS = 5
"""The time that lines wait for others: whoever starts this waits for them."""
_OF_PODS = r"/(?P<namespace>[^/_]+)_(?P<pod>[^/_]+)_[^/]+/(?P<container>[^/]+)/\d+\.log$"
_OF_GUESTS = r"/(?P<namespace>[^/_]+)_(?P<pod>[^/_]+)\.log$"
_FROM_PATH = {"namespace": "k8s.namespace.name", "pod": "k8s.pod.name", "container": "k8s.container.name"}


def services() -> list[Service]:
    """Tell how it runs."""
    return [
        Service(
            name=_NAME,
            command=[str(toolchain.tool(PROGRAM)), f"--config={_CONFIGURATION}"],
            environment=_environment(),
            ports=[ports.port(_NAME), metrics_port()],
            ready=_ready,
        )
    ]


def metrics_port() -> int:
    """Return the port of its own figures."""
    return ports.port(f"{_NAME}-metrics")


def prepare() -> None:
    """Write what the program has left, and have the collector judge it.

    Raises LocalError if the program has left nothing, or the collector refuses it.
    """
    store.private_folder(_HOME)
    store.private_folder(_HOME / "state")
    core = kubernetes_client.CoreV1Api(kubernetes.client())
    try:
        declared = (core.read_namespaced_config_map(_OBJECT, _NAMESPACE).data or {})["relay"]
        secret = (core.read_namespaced_secret(_OBJECT, _NAMESPACE).data or {})["credentials"]
    except (kubernetes_client.ApiException, LookupError) as error:
        raise LocalError(
            f"{_NAME}: the program has left no configuration ({getattr(error, 'reason', error)}), so it was "
            "not started; run `make up` first."
        ) from None
    store.write_text(_CREDENTIALS, base64.b64decode(secret).decode())
    store.write_text(_CONFIGURATION, yaml.safe_dump(_here(yaml.safe_load(declared)), sort_keys=False))
    judge(_CONFIGURATION, _environment())


def judge(configuration: Path, environment: dict[str, str]) -> None:
    """Have the collector check a configuration. Raises LocalError with its reason."""
    checked = subprocess.run(
        [toolchain.tool(PROGRAM), "validate", f"--config={configuration}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if checked.returncode:
        raise LocalError(
            f"{_NAME}: the collector refuses its configuration, so it was not started; mend "
            f"infra/platform/logs.py, run `make up`, then `make monitor`.\n{checked.stderr.strip()}"
        )


def bootstrap() -> None:
    """Nothing to do: it begins to read when it starts."""


def environment() -> dict[str, str]:
    """Return nothing: no client asks it."""
    return {}


def _here(declared: dict[str, Any]) -> dict[str, Any]:
    """Return the program's configuration with this platform's folders and ports."""
    state = str(_HOME / "state")
    extensions, receivers = declared["extensions"], declared["receivers"]
    extensions["health_check"]["endpoint"] = f"127.0.0.1:{ports.port(_NAME)}"
    storage = extensions["file_storage"]
    storage["directory"] = storage["compaction"]["directory"] = state
    of_tenants = receivers["file_log"]
    for name, receiver in receivers.items():
        found = {key: [_path(path) for path in receiver[key]] for key in ("include", "exclude")}
        receivers[name] = _found(receiver, found, _OF_PODS)
    consoles = {"include": [str(LOGS / "guests" / "*.log")], "exclude": []}
    receivers["file_log/guests"] = _found(of_tenants, consoles, _OF_GUESTS, "guest-console-log")
    declared["processors"]["batch"]["timeout"] = f"{_SECONDS}s"
    service = declared["service"]
    service["pipelines"]["logs"]["receivers"] = list(receivers)
    (reader,) = service["telemetry"]["metrics"]["readers"]
    reader["pull"]["exporter"]["prometheus"]["port"] = metrics_port()
    return declared


def _path(declared: str) -> str:
    return declared.replace("/var/log/pods", str(LOGS / "pods"))


def _found(
    declared: dict[str, Any], files: dict[str, list[str]], path: str, container: str = ""
) -> dict[str, Any]:
    """Return a receiver for lines as the node agent writes them to `files`."""
    operators = [
        {"type": "regex_parser", "parse_from": 'attributes["log.file.path"]', "regex": path},
        *(
            {"type": "move", "from": f"attributes.{name}", "to": f'resource["{attribute}"]'}
            for name, attribute in _FROM_PATH.items()
            if f"<{name}>" in path
        ),
    ]
    if container:
        operators.append({"type": "add", "field": 'resource["k8s.container.name"]', "value": container})
    rest = [each for each in declared["operators"] if each["type"] != "container"]
    return {**declared, **files, "operators": [*operators, *rest]}


def _environment() -> dict[str, str]:
    return {
        "MY_POD_IP": "127.0.0.1",
        "AWS_SHARED_CREDENTIALS_FILE": str(_CREDENTIALS),
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    }


def _ready() -> None:
    try:
        answer = urllib3.request("GET", f"http://127.0.0.1:{ports.port(_NAME)}/", timeout=5, retries=False)
    except urllib3.exceptions.HTTPError as error:
        raise NotReady(str(error)) from None
    if answer.status != HTTPStatus.OK:
        raise NotReady(f"says {answer.status}")
