"""The figures of guests, under the names that KubeVirt's virt-handler gives it.

<https://kubevirt.io/monitoring/metrics.html>. A guest that is only reported uses nothing and tells nothing.
What a guest sends and receives is not known: its network is a part of QEMU's process.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from local.node_agent.kube import Object

PORT = "AGENT_PLATFORM_FIGURES_PORT"
"""The variable with the loopback port at which the agent tells its figures."""

_LABELS = ("node", "namespace", "name")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Figures(Collector):
    """Looks at the processes of all guests when it is asked."""

    def __init__(
        self, machines: Callable[[], Sequence[Object]], processes: Callable[[str], Sequence[int]]
    ) -> None:
        """Ask `machines` for the VirtualMachineInstances, and `processes` for the pids of one, by its uid."""
        self._machines = machines
        self._processes = processes

    def collect(self) -> Iterable[Metric]:
        """Return KubeVirt's figures of the guests that run."""
        cpu = CounterMetricFamily(
            "kubevirt_vmi_cpu_usage_seconds", "Total CPU time spent in all modes.", labels=_LABELS
        )
        memory = GaugeMetricFamily(
            "kubevirt_vmi_memory_resident_bytes", "Resident set size of the process.", labels=_LABELS
        )
        read = CounterMetricFamily(
            "kubevirt_vmi_storage_read_traffic_bytes", "Total number of bytes read.", labels=_LABELS
        )
        written = CounterMetricFamily(
            "kubevirt_vmi_storage_write_traffic_bytes", "Total number of bytes written.", labels=_LABELS
        )
        for machine in self._machines():
            metadata = machine["metadata"]
            if not (pids := self._processes(metadata["uid"])):
                continue
            labels = [machine.get("status", {}).get("nodeName", ""), metadata["namespace"], metadata["name"]]
            used = [usage for pid in pids if (usage := _usage(pid))]
            cpu.add_metric(labels, sum(usage.cpu_seconds for usage in used))
            memory.add_metric(labels, sum(usage.resident_bytes for usage in used))
            read.add_metric(labels, sum(usage.read_bytes for usage in used))
            written.add_metric(labels, sum(usage.written_bytes for usage in used))
        return [cpu, memory, read, written]

    def serve(self, port: int) -> None:
        """Tell them at a loopback port, in threads of their own."""
        registry = CollectorRegistry()
        registry.register(self)
        start_http_server(port, "127.0.0.1", registry)


class _Usage(NamedTuple):
    cpu_seconds: float
    resident_bytes: int
    read_bytes: int
    written_bytes: int


def _usage(pid: int) -> _Usage | None:
    """Return what a process uses; None once it has ended."""
    with contextlib.suppress(OSError):
        folder = Path(f"/proc/{pid}")
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        transferred = dict(_pairs((folder / "io").read_text()))
        cpu = (int(fields[11]) + int(fields[12])) / _TICKS
        return _Usage(cpu, int(fields[21]) * _PAGE, transferred["read_bytes"], transferred["write_bytes"])
    return None


def _pairs(text: str) -> Iterator[tuple[str, int]]:
    for line in text.splitlines():
        name, _, value = line.partition(":")
        yield name, int(value)
