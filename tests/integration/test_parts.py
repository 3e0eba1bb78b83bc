"""Seen from outside, with the ordinary clients: each tenant has its parts.

That it is refused on everybody else's is what `test_attack` shows.
"""

import subprocess
import time
from http import HTTPStatus

import psycopg
import pytest
from kubernetes import client

from tests.integration.conftest import Platform
from tests.integration.sleeping import ask, print_token

pytestmark = pytest.mark.integration

TABLES = {"agent_memory", "agents", "execution_logs", "run_events", "session_messages", "sessions"}
TENANT = "acme"
STARTER = "bluebird"


def login(platform: Platform) -> psycopg.Connection[object]:
    """A login that Vault issues to the tenant, entered as its machine enters: with its account's token."""
    request = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[]))
    account = platform.core().create_namespaced_service_account_token("agent", f"tenant-{TENANT}", request)
    entered = platform.vault().auth.kubernetes.login(role=f"tenant-{TENANT}", jwt=account.status.token)
    vault = platform.vault(entered["auth"]["client_token"])
    issued = vault.secrets.database.generate_credentials(f"tenant-{TENANT}")["data"]
    return platform.database(issued["username"], issued["password"])


def test_psql_lists_each_schema_with_its_three_tables(platform: Platform) -> None:
    for tenant in platform.status()["tenants"]:
        listed = subprocess.run(
            ["psql", "-At", "-c", f"select tablename from pg_tables where schemaname = '{tenant['schema']}'"],
            env=platform.exports(),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert set(listed.split()) == TABLES


def test_rows_written_through_one_login_are_read_through_the_next(platform: Platform) -> None:
    with login(platform) as first:
        assert first.execute("select current_schema()").fetchone() == (f"tenant_{TENANT}",)
        first.execute("create table note (text text)")
        first.execute("insert into note values ('kept')")
    try:
        with login(platform) as second:
            assert second.execute("select text from note").fetchall() == [("kept",)]
    finally:
        with platform.database() as administrator:
            administrator.execute(f"drop table tenant_{TENANT}.note".encode())


def test_kubectl_shows_every_machine_running(platform: Platform) -> None:
    listed = subprocess.run(
        ["kubectl", "get", "vm", "-A", "-o", "jsonpath={.items[*].status.printableStatus}"],
        env=platform.exports(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert set(listed.split()) == {"Running"}


def test_a_file_is_the_same_from_every_replica_and_outlives_them(platform: Platform) -> None:
    token = print_token(platform, STARTER)

    def read() -> set[tuple[int, bytes]]:
        return {ask(platform, STARTER, token, "/v1/files/kept") for _ in range(12)}

    kept = {(HTTPStatus.OK, b"kept")}
    written, _ = ask(platform, STARTER, token, "/v1/files/kept", method="PUT", body=b"kept")
    assert written == HTTPStatus.CREATED
    assert read() == kept
    subprocess.run(["kubectl", "-n", "runtime", "delete", "pod", "--all"], env=platform.exports(), check=True)
    deadline = time.monotonic() + 150
    while (found := read()) != kept:
        # Those that come after may not listen yet; none of them says that there is no such file.
        assert {status for status, _ in found} <= {HTTPStatus.OK, HTTPStatus.BAD_GATEWAY}
        assert time.monotonic() < deadline
    assert ask(platform, STARTER, token, "/v1/files/kept", method="DELETE")[0] == HTTPStatus.OK


def test_kubevirts_admission_refuses_a_broken_machine(platform: Platform) -> None:
    broken = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": "broken"},
        "spec": {
            "runStrategy": "RerunOnFailure",
            "template": {
                "spec": {
                    "domain": {"devices": {"disks": [{"name": "no-such-volume", "disk": {}}]}},
                    "volumes": [],
                }
            },
        },
    }
    with pytest.raises(client.ApiException) as refused:
        platform.objects().create_namespaced_custom_object(
            "kubevirt.io", "v1", f"tenant-{TENANT}", "virtualmachines", broken
        )
    assert refused.value.status in (400, 422)
    assert "no-such-volume" in str(refused.value.body) or "volumes" in str(refused.value.body)
