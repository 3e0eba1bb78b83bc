"""What guests use is told as KubeVirt tells it."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
from prometheus_client.parser import text_string_to_metric_families

from local import ports
from local.node_agent.containers import Command, Containers
from local.node_agent.figures import Figures

UID = "4dd48d9d-7445-4889-8e09-a5d5e16809ee"
MACHINE = {
    "metadata": {"uid": UID, "namespace": "tenant-acme", "name": "tenant-acme"},
    "status": {"nodeName": "workers-1"},
}
ASLEEP = {"metadata": {"uid": "other", "namespace": "tenant-dufour", "name": "tenant-dufour"}}
# Its child, as QEMU is the child of the shell that keeps its exit code, is what works.
BUSY = "import time; data = bytearray(64 * 2**20)\nwhile True: sum(range(10_000))"


@pytest.fixture
def guests(tmp_path: Path) -> Iterator[Containers]:
    made = Containers(tmp_path / "guests", tmp_path / "logs", lambda _: None)
    command = Command(arguments=[sys.executable, "-c", BUSY], environment={"PATH": os.defpath})
    made.start(UID, "qemu", 0, command, label="guest")
    yield made
    made.remove(UID)


def test_a_guest_that_runs_has_figures_and_one_that_does_not_has_none(guests: Containers) -> None:
    figures = Figures(lambda: [MACHINE, ASLEEP], lambda uid: guests.processes(uid, "qemu"))
    port = ports.port("figures-of-a-test")
    figures.serve(port)
    time.sleep(1)

    text = urllib3.request("GET", f"http://127.0.0.1:{port}/metrics").data.decode()

    told = {
        sample.name: (sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    labels = {"node": "workers-1", "namespace": "tenant-acme", "name": "tenant-acme"}
    assert {name: found for name, (found, _) in told.items()} == dict.fromkeys(
        (
            "kubevirt_vmi_cpu_usage_seconds_total",
            "kubevirt_vmi_memory_resident_bytes",
            "kubevirt_vmi_storage_read_traffic_bytes_total",
            "kubevirt_vmi_storage_write_traffic_bytes_total",
        ),
        labels,
    )
    assert 0.1 < told["kubevirt_vmi_cpu_usage_seconds_total"][1] < 60
    assert told["kubevirt_vmi_memory_resident_bytes"][1] > 64 * 2**20


def test_a_guest_that_has_ended_has_none(guests: Containers) -> None:
    guests.remove(UID)
    assert guests.processes(UID, "qemu") == []
    figures = Figures(lambda: [MACHINE], lambda uid: guests.processes(uid, "qemu"))
    assert [sample for family in figures.collect() for sample in family.samples] == []
