"""The cost of watching the platform: processor time of what scrapes, counts and archives.

A platform of its own, in a checkout that is thrown away, has the sample roster and `monitor`. Scrapes and
rules come every five seconds there, six times as often as in production.
"""

import json
import os
import sys
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from rich.console import Console

from local import scratch, supervisor
from local.errors import LocalError
from local.node_agent import STATE
from local.node_agent.containers import Containers
from local.paths import LOGS

_SERVERS = ("prometheus", "alertmanager", "log-collector")
_PODS = ("exporter", "accounting")
_SETTLE_SECONDS = 60
_SECONDS = 180.0
_TICKS = os.sysconf("SC_CLK_TCK")

Measured = dict[str, float]
"""The share of one core that each took."""


def measure(console: Console) -> Measured:
    """Carry it out; raises LocalError if it could not be."""
    console.print("watching: a platform comes up first, then four minutes pass")
    environment = scratch.environment("reported")
    with scratch.checkout() as root:
        run = partial(scratch.run_module, root, environment)
        try:
            for command in (("local", "up"), ("local", "monitor"), (__name__,)):
                done = run(*command)
                if done.returncode:
                    raise LocalError(f"watching: it could not be carried out:\n{done.stdout}")
        finally:
            run("local", "down", "--delete-data")
    found: Measured = json.loads(done.stdout)
    return found


def _measure() -> Measured:
    time.sleep(_SETTLE_SECONDS)
    groups = _processes()
    if missing := sorted({*_SERVERS, *_PODS} - groups.keys()):
        raise LocalError(f"watching: {', '.join(missing)}: not running.")
    before, began = {name: _spent(each) for name, each in groups.items()}, time.monotonic()
    time.sleep(_SECONDS)
    passed = time.monotonic() - began
    return {name: (_spent(each) - before[name]) / passed for name, each in groups.items()}


def _processes() -> dict[str, list[int]]:
    """Return the processes of each part that runs."""
    found = {name: supervisor.pid_of(name) for name in _SERVERS}
    groups = {name: [pid] for name, pid in found.items() if pid is not None}
    containers = Containers(STATE / "pods", LOGS / "pods", lambda _: None)
    for uid in containers.known():
        for name in _PODS:
            if processes := containers.processes(uid, name):
                groups.setdefault(name, []).extend(processes)
    return groups


def _spent(processes: Iterable[int]) -> float:
    """Return the processor time that they have used, in seconds."""
    return sum(_ticks(process) for process in processes) / _TICKS


def _ticks(process: int) -> int:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measure()))
