"""One sweep of the idle suspender over many machines, on an API server and a Redis of its own.

The sweep is the program as the CronJob runs it, from start to end; no machine is idle, as nothing here would
stop one. It is set against a loop that looks at one machine after the other, of which a sample is run.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any, TypedDict

from rich.console import Console

from local import bench_cluster
from local.bench_cluster import VIRTUAL_MACHINES
from local.paths import ROOT
from services.activity import connection
from services.activity.store import Activity, Machine, Published
from services.kube import Access, Api

MACHINES = 10_000
_SAMPLE = 500
_AT_ONCE = 32


class Measured(TypedDict):
    """What a sweep took, and what the loop would have."""

    seconds: float
    peak_mb: float
    sequential_seconds: float


def measure() -> Measured:
    """Measure; what is there already stays as it is."""
    found: Measured = bench_cluster.measure(__name__)
    return found


async def _measure(console: Console) -> Measured:
    api = Api(Access.find())
    async with connection.connect() as client:
        activity = Activity(client)
        gateway = asyncio.create_task(_report(activity))
        began = time.monotonic()
        await _make(api)
        console.print(f"{MACHINES} machines made in {time.monotonic() - began:.0f} s")
        # Before that, a sweep leaves all machines alone without looking at them.
        await asyncio.sleep(max(35 - (time.monotonic() - began), 0))
        for first in range(0, MACHINES, 500):
            await activity.enter([(_tenant(n), "bench/request") for n in range(first, first + 500)])
        seconds, peak = await asyncio.to_thread(_sweep)
        swept = await activity.last_sweep()
        if swept is None or swept.get("awake") != MACHINES:
            raise RuntimeError(f"the sweep did not see {MACHINES} machines awake: {swept}")
        sequential = await _one_after_the_other(api, activity) * MACHINES / _SAMPLE
        gateway.cancel()
    await api.close()
    return {"seconds": seconds, "peak_mb": peak, "sequential_seconds": sequential}


def _sweep() -> tuple[float, float]:
    """Run the program; return its seconds and its peak of resident memory in MB."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "services.idle_suspender"], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"the sweep ended with {process.returncode}")
    return time.monotonic() - began, usage.ru_maxrss / 1000


async def _one_after_the_other(api: Api, activity: Activity) -> float:
    began = time.monotonic()
    for number in range(_SAMPLE):
        name = f"tenant-{_tenant(number)}"
        found = await api.request("GET", f"{VIRTUAL_MACHINES}/namespaces/{name}/virtualmachines/{name}")
        tenant = found["metadata"]["labels"]["tenant-id"]
        (judged,) = await activity.judge([Machine(tenant=tenant, limit=900, since=0)])
        await activity.publish([Published(tenant=tenant, decision="awake", reason=judged.kind)])
    return time.monotonic() - began


async def _report(activity: Activity) -> None:
    while True:
        await activity.alive()
        await asyncio.sleep(10)


async def _make(api: Api) -> None:
    await bench_cluster.define(api, "VirtualMachine")
    since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    await _many(lambda n: api.request("POST", "/api/v1/namespaces", _namespace(n)), range(MACHINES))
    await _many(
        lambda n: api.request(
            "POST",
            f"{VIRTUAL_MACHINES}/namespaces/tenant-{_tenant(n)}/virtualmachines",
            _machine(n, since),
        ),
        range(MACHINES),
    )


async def _many(make: Callable[[int], Awaitable[Any]], numbers: Iterable[int]) -> None:
    turn = iter(numbers)

    async def work() -> None:
        for number in turn:
            await make(number)

    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))


def _tenant(number: int) -> str:
    return f"bench{number:05}"


def _namespace(number: int) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"tenant-{_tenant(number)}"}}


def _machine(number: int, since: str) -> dict[str, Any]:
    name, labels = f"tenant-{_tenant(number)}", {"tenant-id": _tenant(number)}
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "runStrategy": "RerunOnFailure",
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "domain": {
                        "devices": {
                            "disks": [
                                {"name": disk, "disk": {"bus": "virtio"}}
                                for disk in ("system", "workspace", "cloud-init", "service-account")
                            ]
                        }
                    },
                    "volumes": [
                        {"name": "workspace", "persistentVolumeClaim": {"claimName": "workspace"}},
                        {"name": "cloud-init", "cloudInitNoCloud": {"secretRef": {"name": "cloud-init"}}},
                    ],
                },
            },
        },
        "status": {
            "printableStatus": "Running",
            "ready": True,
            "created": True,
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}],
        },
    }


if __name__ == "__main__":
    bench_cluster.main(_measure)
