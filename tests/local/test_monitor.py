"""What `make monitor` says where it cannot start."""

from typing import Any

import pytest
from kubernetes import client

from local.errors import LocalError
from local.servers import kubernetes, monitoring

SCRAPE = """scrape_configs:
- job_name: gateway
  kubernetes_sd_configs: [{role: pod}]
- job_name: longhorn
  kubernetes_sd_configs: [{role: pod}]
- {job_name: kubevirt, honor_labels: true, metric_relabel_configs: []}
"""
RULES = """groups:
- name: targets
  interval: 1m
  rules:
  - {alert: MetricsStopped, expr: 'absent(up{job="gateway"})'}
  - {alert: MetricsStopped, expr: 'absent(up{job="longhorn"})'}
"""


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the program has left, as a test changes it; nothing: no such ConfigMap."""
    data: dict[str, Any] = {"scrape.yaml": SCRAPE, "rules.yaml": RULES}

    class Core:
        def __init__(self, _: Any) -> None: ...

        def read_namespaced_config_map(self, *_: str) -> client.V1ConfigMap:
            if not data:
                raise client.ApiException(status=404, reason="Not Found")
            return client.V1ConfigMap(data=data)

    monkeypatch.setattr(client, "CoreV1Api", Core)
    monkeypatch.setattr(kubernetes, "client", lambda: None)
    monkeypatch.setattr(kubernetes, "environment", lambda: {"KUBECONFIG": "/kubeconfig"})
    return data


def test_the_configuration_is_the_programs_but_for_the_way_to_its_targets(left: dict[str, Any]) -> None:
    jobs, rules = monitoring._declared()
    gateway, kubevirt = jobs
    assert gateway["kubernetes_sd_configs"] == [{"role": "pod", "kubeconfig_file": "/kubeconfig"}]
    assert kubevirt["static_configs"][0]["targets"][0].startswith("127.0.0.1:")
    (group,) = rules["groups"]
    # Longhorn does not run here, and that is no reason for an alert.
    assert [rule["expr"] for rule in group["rules"]] == ['absent(up{job="gateway"})']


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"scrape.yaml": None}, "is not as the program leaves it"),
        ({"scrape.yaml": "scrape_configs: [{"}, "is not as the program leaves it"),
        ({"scrape.yaml": "[]"}, "is not as the program leaves it"),
        ({"rules.yaml": "groups: [{}]"}, "is not as the program leaves it"),
    ],
)
def test_a_configuration_that_somebody_has_broken(
    left: dict[str, Any], change: dict[str, Any], says: str
) -> None:
    left.update(change)
    if left["scrape.yaml"] is None:
        del left["scrape.yaml"]
    with pytest.raises(LocalError, match=says) as refused:
        monitoring._declared()
    assert "run `make up`" in str(refused.value) and "\n" not in str(refused.value)


def test_before_the_first_up_there_is_nothing_to_start_with(left: dict[str, Any]) -> None:
    left.clear()
    with pytest.raises(LocalError, match="run `make up` first"):
        monitoring._declared()
