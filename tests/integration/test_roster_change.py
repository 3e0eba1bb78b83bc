"""A tenant's entry makes and removes that tenant's resources and touches nothing else."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hvac.exceptions import InvalidPath  # type: ignore[import-untyped]

from tests.integration.conftest import Platform

pytestmark = pytest.mark.integration

Edit = Callable[[Callable[[list[dict[str, Any]]], None]], None]

NEWCOMER = {"id": "newcomer", "name": "Newcomer", "tier": "enterprise", "owner": "ops@newcomer.example"}


def test_an_added_tenant_is_all_that_the_preview_names_and_all_that_up_creates(
    platform: Platform, edit_roster: Edit
) -> None:
    before = platform.state()
    edit_roster(lambda tenants: tenants.append(NEWCOMER))

    planned = platform.changes()
    plan = platform.run("preview").stderr
    platform.up()
    after = platform.state()

    created = after.keys() - before.keys()
    assert planned["create"] == len(created) > 0
    assert (planned["replace"], planned["delete"]) == (0, 0)
    assert not before.keys() - after.keys()
    assert all("newcomer" in urn for urn in created)
    named = [line for line in plan.splitlines() if line.strip().startswith(("+", "-", "~"))]
    for other in (tenant["id"] for tenant in platform.status()["tenants"] if tenant["id"] != "newcomer"):
        assert not any(other in line for line in named)
    for urn in before:
        if "pulumi:pulumi:Stack" not in urn:
            assert after[urn] == before[urn]


def test_a_removed_tenant_leaves_nothing_behind(platform: Platform, edit_roster: Edit) -> None:
    before = platform.state()
    edit_roster(lambda tenants: tenants.append(NEWCOMER))
    platform.up()
    leave_data_everywhere(platform)

    edit_roster(lambda _tenants: None)
    planned = platform.changes()
    platform.up()

    assert planned["delete"] > 0
    assert (planned["create"], planned["replace"]) == (0, 0)
    assert platform.state().keys() == before.keys()
    assert traces(platform) == []


def leave_data_everywhere(platform: Platform) -> None:
    """Rows, secrets, objects with several versions, and a delete marker."""
    with platform.database() as administrator:
        administrator.execute("create table tenant_newcomer.extra as select 1 as one")
    vault = platform.vault()
    vault.secrets.kv.v2.create_or_update_secret("newcomer/own", {"key": "value"}, mount_point="tenants")
    s3 = platform.s3()
    bucket = artifacts_bucket(platform)
    for body in (b"one", b"two"):
        s3.put_object(Bucket=bucket, Key="tenant_newcomer/uploads/file", Body=body)
    s3.delete_object(Bucket=bucket, Key="tenant_newcomer/uploads/file")
    s3.create_multipart_upload(Bucket=bucket, Key="tenant_newcomer/uploads/unfinished")


def artifacts_bucket(platform: Platform) -> str:
    """The bucket that holds the tenants' prefixes."""
    names: list[str] = [bucket["Name"] for bucket in platform.s3().list_buckets()["Buckets"]]
    return next(name for name in names if "artifacts" in name)


def traces(platform: Platform) -> list[str]:
    """Where anything of the tenant is still found, asked of every server itself."""
    found = []
    with platform.database() as administrator:
        for kind, query in {
            "schema": "select nspname from pg_namespace where nspname like '%newcomer%'",
            "role": "select rolname from pg_roles where rolname like '%newcomer%'",
        }.items():
            found += [f"{kind} {name}" for (name,) in administrator.execute(query)]
    vault = platform.vault()
    found += [
        f"policy {name}" for name in vault.sys.list_policies()["data"]["policies"] if "newcomer" in name
    ]
    with contextlib.suppress(InvalidPath):
        found += vault.secrets.kv.v2.list_secrets("newcomer", mount_point="tenants")["data"]["keys"]
    for listed in (vault.secrets.database.list_roles(), vault.auth.kubernetes.list_roles()):
        keys = listed["data"]["keys"] if "data" in listed else listed["keys"]
        found += [f"vault role {name}" for name in keys if "newcomer" in name]
    s3, bucket = platform.s3(), artifacts_bucket(platform)
    versions = s3.list_object_versions(Bucket=bucket, Prefix="tenant_newcomer/")
    found += [entry["Key"] for entry in versions.get("Versions", []) + versions.get("DeleteMarkers", [])]
    uploads = s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    found += [upload["Key"] for upload in uploads if "newcomer" in upload["Key"]]
    namespaces = platform.core().list_namespace().items
    found += [item.metadata.name for item in namespaces if "newcomer" in item.metadata.name]
    volumes = platform.core().list_persistent_volume().items
    found += [item.metadata.name for item in volumes if "newcomer" in item.spec.claim_ref.name]
    return found
