"""A tenant's machine as the Kubernetes API has it, started and stopped."""

import subprocess
import time
from typing import Any

from tests.integration.conftest import Platform


def place(tenant: str) -> tuple[str, str, str, str, str]:
    """A machine's group, version, namespace, plural and name, as clients of the API server take them."""
    return "kubevirt.io", "v1", f"tenant-{tenant}", "virtualmachines", f"tenant-{tenant}"


def virtual_machine(platform: Platform, tenant: str) -> dict[str, Any]:
    """A tenant's machine."""
    found: dict[str, Any] = platform.objects().get_namespaced_custom_object(*place(tenant))
    return found


def state(platform: Platform, tenant: str) -> str:
    """KubeVirt's word for what the machine does, such as `Running`; empty while there is none yet."""
    return str(virtual_machine(platform, tenant).get("status", {}).get("printableStatus", ""))


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


def wait_for(platform: Platform, tenant: str, *states: str) -> str:
    """Wait until the machine is in one of `states`, for at most a minute and a half; returns which."""
    deadline = time.monotonic() + 90
    while (now := state(platform, tenant)) not in states:
        assert time.monotonic() < deadline, f"{tenant} is {now}, not {' or '.join(states)}"
        time.sleep(0.2)
    return now
