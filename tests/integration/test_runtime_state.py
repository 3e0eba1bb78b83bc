"""Whether a machine runs is not the program's business: `up` wakes no sleeping tenant and sees no change."""

import subprocess
import time

import pytest

from tests.integration.conftest import Platform

pytestmark = pytest.mark.integration


def call(platform: Platform, tenant: str, action: str) -> None:
    """KubeVirt's `start` or `stop` subresource."""
    machine = f"namespaces/tenant-{tenant}/virtualmachines/tenant-{tenant}"
    subprocess.run(
        ["kubectl", "replace", "--raw", f"/apis/subresources.kubevirt.io/v1/{machine}/{action}", "-f", "-"],
        env=platform.exports(),
        input="{}",
        capture_output=True,
        text=True,
        check=True,
    )


def wait_for(platform: Platform, tenant: str, status: str) -> None:
    """Until KubeVirt reports `status`, for at most a minute."""
    deadline = time.monotonic() + 60
    seen = None
    while time.monotonic() < deadline:
        seen = next(item["status"] for item in platform.status()["tenants"] if item["id"] == tenant)
        if seen == status:
            return
        time.sleep(1)
    raise AssertionError(f"{tenant} is {seen}, not {status}")


def test_a_stopped_machine_is_no_change_and_stays_stopped(platform: Platform) -> None:
    tenant = platform.status()["tenants"][0]["id"]
    call(platform, tenant, "stop")
    wait_for(platform, tenant, "Stopped")
    try:
        assert platform.changes() == {}
        platform.up()
        wait_for(platform, tenant, "Stopped")
    finally:
        call(platform, tenant, "start")
        wait_for(platform, tenant, "Running")
