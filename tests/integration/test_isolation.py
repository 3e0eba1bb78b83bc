"""Seen from outside, with the ordinary clients: each tenant has its parts and is refused on another's."""

import subprocess
from collections.abc import Callable

import psycopg
import pytest
from botocore.exceptions import ClientError
from hvac.exceptions import Forbidden  # type: ignore[import-untyped]
from kubernetes import client

from tests.integration.conftest import Platform

pytestmark = pytest.mark.integration

TABLES = {"agent_memory", "agents", "execution_logs"}


@pytest.fixture(scope="module")
def tenants(platform: Platform) -> tuple[str, str]:
    """Two tenants: one to act as, another to reach for."""
    first, second, *_ = (tenant["id"] for tenant in platform.status()["tenants"])
    return first, second


def login(platform: Platform, tenant: str) -> psycopg.Connection[object]:
    """A login that Vault issues to the tenant."""
    issued = platform.vault(tenant_token(platform, tenant)).secrets.database.generate_credentials(
        f"tenant-{tenant}"
    )
    return platform.database(issued["data"]["username"], issued["data"]["password"])


def tenant_token(platform: Platform, tenant: str) -> str:
    """What the tenant's machine gets: its service account's token traded at Vault."""
    answer = platform.vault().auth.kubernetes.login(
        role=f"tenant-{tenant}", jwt=account_token(platform, tenant)
    )
    return str(answer["auth"]["client_token"])


def account_token(platform: Platform, tenant: str) -> str:
    """A token of the tenant's service account."""
    request = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[]))
    issued = platform.core().create_namespaced_service_account_token("agent", f"tenant-{tenant}", request)
    return str(issued.status.token)


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


def test_a_login_from_vault_reads_its_own_rows_and_no_other_schema(
    platform: Platform, tenants: tuple[str, str]
) -> None:
    own, other = tenants
    with login(platform, own) as connection:
        assert connection.execute("select current_schema()").fetchone() == (f"tenant_{own}",)
        assert connection.execute("select count(*) from agents").fetchone() is not None
        for table in TABLES:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"select * from tenant_{other}.{table}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(f"set role tenant_{other}")


def test_rows_written_through_one_login_are_read_through_the_next(
    platform: Platform, tenants: tuple[str, str]
) -> None:
    own, _ = tenants
    with login(platform, own) as first:
        first.execute("create table note (text text)")
        first.execute("insert into note values ('kept')")
    try:
        with login(platform, own) as second:
            assert second.execute("select text from note").fetchall() == [("kept",)]
    finally:
        with platform.database() as administrator:
            administrator.execute(f"drop table tenant_{own}.note")


def test_a_tenants_vault_token_is_refused_on_another_path(
    platform: Platform, tenants: tuple[str, str]
) -> None:
    own, other = tenants
    vault = platform.vault(tenant_token(platform, own))

    assert vault.secrets.kv.v2.list_secrets(path=own, mount_point="tenants")["data"]["keys"]
    with pytest.raises(Forbidden):
        vault.secrets.kv.v2.list_secrets(path=other, mount_point="tenants")
    with pytest.raises(Forbidden):
        vault.secrets.database.generate_credentials(f"tenant-{other}")
    with pytest.raises(Forbidden):
        vault.secrets.kv.v2.list_secrets(path="", mount_point="tenants")


def test_a_service_account_of_one_tenant_cannot_log_in_as_another(
    platform: Platform, tenants: tuple[str, str]
) -> None:
    own, other = tenants
    with pytest.raises(Forbidden):
        platform.vault().auth.kubernetes.login(role=f"tenant-{other}", jwt=account_token(platform, own))


def test_a_tenants_s3_key_works_on_its_prefix_and_nowhere_else(
    platform: Platform, tenants: tuple[str, str]
) -> None:
    own, other = tenants
    vault = platform.vault(tenant_token(platform, own))
    stored = vault.secrets.kv.v2.read_secret_version(
        path=f"{own}/object-storage", mount_point="tenants", raise_on_deleted_version=True
    )["data"]["data"]
    s3 = platform.s3(stored["access_key"], stored["secret_key"])
    bucket = stored["bucket"]

    s3.put_object(Bucket=bucket, Key=f"tenant_{own}/uploads/x", Body=b"mine")
    assert s3.get_object(Bucket=bucket, Key=f"tenant_{own}/uploads/x")["Body"].read() == b"mine"
    assert s3.list_objects_v2(Bucket=bucket, Prefix=f"tenant_{own}/")["KeyCount"] >= 1
    s3.delete_object(Bucket=bucket, Key=f"tenant_{own}/uploads/x")
    assert s3.list_buckets()["Buckets"] == []
    attempts: list[Callable[[], object]] = [
        lambda: s3.put_object(Bucket=bucket, Key=f"tenant_{other}/uploads/x", Body=b""),
        lambda: s3.get_object(Bucket=bucket, Key=f"tenant_{other}/workspace/"),
        lambda: s3.list_objects_v2(Bucket=bucket, Prefix=f"tenant_{other}/"),
        lambda: s3.list_objects_v2(Bucket=bucket),
        lambda: s3.copy_object(
            Bucket=bucket, Key=f"tenant_{own}/stolen", CopySource=f"{bucket}/tenant_{other}/workspace/"
        ),
    ]
    for attempt in attempts:
        with pytest.raises(ClientError, match="AccessDenied"):
            attempt()


def test_kubectl_shows_every_machine_running(platform: Platform) -> None:
    listed = subprocess.run(
        ["kubectl", "get", "vm", "-A", "-o", "jsonpath={.items[*].status.printableStatus}"],
        env=platform.exports(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert listed.split() == ["Running"] * 4


def test_kubevirts_admission_refuses_a_broken_machine(platform: Platform, tenants: tuple[str, str]) -> None:
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
            "kubevirt.io", "v1", f"tenant-{tenants[0]}", "virtualmachines", broken
        )
    assert refused.value.status in (400, 422)
    assert "no-such-volume" in str(refused.value.body) or "volumes" in str(refused.value.body)
