"""Tenants' machines put to sleep by the suspender, and asked for through the gateway."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus

import urllib3

from tests.integration.conftest import Platform
from tests.integration.machines import place, state, virtual_machine, wait_for

_IDLE = "agent-platform/idle-seconds"


def print_token(platform: Platform, tenant: str) -> str:
    """What lets a client in at a tenant's URL."""
    done = platform.run("token", tenant)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def ask(
    platform: Platform,
    tenant: str,
    token: str = "",
    path: str = "/hello",
    *,
    method: str = "GET",
    body: bytes | None = None,
) -> tuple[int, bytes]:
    """Status and body of the answer to a program that asks again when it is told to."""
    exports = platform.exports()
    domain, _, port = exports["GATEWAY"].partition(":")
    name = f"{tenant}.{domain}"
    headers = {"Host": f"{name}:{port}", **({"Authorization": f"Bearer {token}"} if token else {})}
    deadline = time.monotonic() + 150
    with urllib3.HTTPSConnectionPool(
        "127.0.0.1", int(port), server_hostname=name, assert_hostname=name, ca_certs=exports["GATEWAY_CA"]
    ) as pool:
        while True:
            answer = pool.request(method, path, body=body, headers=headers, timeout=90, retries=False)
            if answer.status != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                return answer.status, answer.data
            time.sleep(int(answer.headers["Retry-After"]))


def suspend(platform: Platform, *tenants: str) -> None:
    """Let the suspender find their machines idle."""
    deadline = time.monotonic() + 150
    with ExitStack() as limits:
        for tenant in tenants:
            limits.enter_context(idle_limit(platform, tenant, seconds=1))
        while True:
            sweep(platform)
            if all(state(platform, tenant) in ("Stopping", "Stopped") for tenant in tenants):
                break
            assert time.monotonic() < deadline, platform.status()["tenants"]
    for tenant in tenants:
        wait_for(platform, tenant, "Stopped")


@contextmanager
def idle_limit(platform: Platform, tenant: str, *, seconds: int) -> Iterator[None]:
    def annotate(value: str) -> None:
        annotations = {"metadata": {"annotations": {_IDLE: value}}}
        platform.objects().patch_namespaced_custom_object(*place(tenant), annotations)

    before = virtual_machine(platform, tenant)["metadata"]["annotations"][_IDLE]
    annotate(str(seconds))
    try:
        yield
    finally:
        annotate(before)


def sweep(platform: Platform) -> None:
    """Run the suspender's CronJob once, now."""
    run_now(platform, "idle-suspender")


def run_now(platform: Platform, cron_job: str) -> None:
    """Run a CronJob of the platform's once, now; it must succeed."""

    def kubectl(*arguments: str) -> str:
        return subprocess.run(
            ["kubectl", "-n", "platform-system", *arguments],
            env=platform.exports(),
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    job = f"{cron_job}-{time.monotonic_ns()}"
    kubectl("create", "job", f"--from=cronjob/{cron_job}", job)
    try:
        kubectl("wait", "--for=condition=complete", f"job/{job}", "--timeout=90s")
    finally:
        kubectl("delete", "job", job)
