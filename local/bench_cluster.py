"""What benches of the services run against: a real API server with KubeVirt's definitions, and a real Redis.

Nobody plays KubeVirt, so machines have the statuses that they are given.
"""

import asyncio
import copy
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from local import consoles, credentials, store, supervisor, toolchain
from local.paths import DATA, ROOT
from local.servers import kubernetes, redis
from services.kube import Api, ApiError

VIRTUAL_MACHINES = "/apis/kubevirt.io/v1"


def measure(module: str) -> Any:
    """Run a bench in a process and a data folder of its own; what is there already stays as it is."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        done = subprocess.run(
            [sys.executable, "-m", module],
            cwd=ROOT,
            env={**os.environ, "AGENT_PLATFORM_DATA": folder},
            stdout=subprocess.PIPE,
            check=True,
        )
    return json.loads(done.stdout)


def main(bench: Callable[[Console], Awaitable[Any]]) -> None:
    """In that process: start the servers, run the bench, print what it returns as JSON."""
    console = consoles.console(stderr=True)
    with _servers(console):
        sys.stdout.write(json.dumps(asyncio.run(bench(console))))  # type: ignore[arg-type]


@contextmanager
def _servers(console: Console) -> Iterator[None]:
    toolchain.ensure(console, "etcd", "kube-apiserver", "kubevirt.json")
    servers = [*kubernetes.services(), *redis.services()]
    kubernetes.prepare()
    redis.prepare()
    password = DATA / "bench-password"
    store.write_text(password, credentials.secret("redis"))
    url = redis.environment()["REDIS_URL"]
    os.environ |= {
        "KUBECONFIG": str(kubernetes.KUBECONFIG),
        "REDIS_URL": f"redis://default@{url.rpartition('@')[2]}",
        "REDIS_PASSWORD_FILE": str(password),
    }
    try:
        for server in servers:
            supervisor.start(server, console)
        yield
    finally:
        for server in reversed(servers):
            supervisor.stop(server.name)


async def define(api: Api, *kinds: str) -> None:
    """Create KubeVirt's definitions of `kinds`, and wait until they are served."""
    for kind in kinds:
        definition = next(
            copy.deepcopy(item)
            for item in toolchain.objects("kubevirt")
            if item["kind"] == "CustomResourceDefinition" and item["spec"]["names"]["kind"] == kind
        )
        for version in definition["spec"]["versions"]:
            # A status is then made with its object, in one request.
            version.pop("subresources", None)
        await api.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
        while definition["spec"]["names"]["plural"] not in await _served(api):
            await asyncio.sleep(0.2)


async def _served(api: Api) -> set[str]:
    try:
        found = await api.request("GET", VIRTUAL_MACHINES)
    except ApiError:
        return set()
    return {resource["name"] for resource in found["resources"]}
