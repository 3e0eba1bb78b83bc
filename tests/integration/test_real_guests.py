"""What a tenant wrote is there after its machine was suspended and woken, in machines that really boot."""

import dataclasses
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

import pytest
from rich.console import Console

import images
from local.errors import LocalError
from local.node_agent.qemu import EMULATOR, IMAGE
from tests.integration.conftest import Platform, edited_roster
from tests.integration.machines import call, state, wait_for
from tests.integration.sleeping import ask, print_token, suspend

pytestmark = pytest.mark.integration

TENANTS = ("acme", "dufour")
CYCLES = 2


@pytest.fixture(scope="module")
def booting(platform: Platform) -> Iterator[Platform]:
    """The platform with machines that boot; all are asleep."""
    if shutil.which(EMULATOR) is None:
        pytest.skip(f"{EMULATOR} is not on PATH")
    try:
        images.build(IMAGE, Console(stderr=True))
    except LocalError as error:
        pytest.skip(str(error))
    for tenant in TENANTS:
        call(platform, tenant, "stop")
        wait_for(platform, tenant, "Stopped")
    restarted = dataclasses.replace(platform, guests="real")
    assert restarted.run("down").returncode == 0
    restarted.start_servers()
    yield restarted
    suspend(restarted, *TENANTS)
    assert platform.run("down").returncode == 0
    platform.start_servers()
    for tenant in TENANTS:
        call(platform, tenant, "start")
        wait_for(platform, tenant, "Running")


def test_a_workspace_survives_suspend_and_wake(booting: Platform) -> None:
    tokens = {tenant: print_token(booting, tenant) for tenant in TENANTS}

    def use(tenant: str, cycle: int) -> None:
        """Wake it with what is to be written; read what earlier cycles wrote."""
        file = f"/v1/files/cycle-{cycle}"
        written = ask(booting, tenant, tokens[tenant], file, method="PUT", body=f"{tenant} {cycle}".encode())
        assert written == (HTTPStatus.CREATED, f'{{"written": "cycle-{cycle}"}}\n'.encode())
        for earlier in range(cycle + 1):
            read = ask(booting, tenant, tokens[tenant], f"/v1/files/cycle-{earlier}")
            assert read == (HTTPStatus.OK, f"{tenant} {earlier}".encode())

    for cycle in range(CYCLES):
        with ThreadPoolExecutor(len(TENANTS)) as visitors:
            for used in [visitors.submit(use, tenant, cycle) for tenant in TENANTS]:
                used.result()
        if cycle:
            assert booting.changes() == {}
        suspend(booting, *TENANTS)
    assert booting.changes() == {}


def test_a_workspace_moves_with_its_tenant_to_a_tier_without_machines_and_back(booting: Platform) -> None:
    token = print_token(booting, "acme")

    def write(name: str, content: str) -> None:
        path = f"/v1/files/{name}"
        assert ask(booting, "acme", token, path, method="PUT", body=content.encode())[0] == HTTPStatus.CREATED

    def read(*names: str) -> dict[str, str]:
        return {name: ask(booting, "acme", token, f"/v1/files/{name}")[1].decode() for name in names}

    with edited_roster(booting) as edit:

        def entry(**fields: str) -> None:
            edit(lambda tenants: tenants[0].update(fields))

        write("notes/machine", "written in the machine")
        entry(tier="professional")
        assert "first write `state: moving`" in booting.run("preview").stderr
        entry(state="moving")
        booting.up()
        assert state(booting, "acme") == "Stopped"
        entry(tier="professional")
        booting.up()
        assert not [urn for urn in booting.state() if urn.endswith(("::acme-machine", "::acme-workspace"))]
        write("notes/pod", "written in the pod")
        there = read("cycle-0", "notes/machine", "notes/pod")
        assert there == {
            "cycle-0": "acme 0",
            "notes/machine": "written in the machine",
            "notes/pod": "written in the pod",
        }
        entry()
        booting.up()
        assert read(*there) == there
    assert booting.changes() == {}
