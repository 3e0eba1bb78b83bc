"""Whether a machine runs is not the program's business: `up` wakes no sleeping tenant and sees no change."""

import pytest

from tests.integration.conftest import Platform
from tests.integration.machines import call, wait_for

pytestmark = pytest.mark.integration


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
