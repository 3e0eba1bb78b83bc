"""A tenant's last backup: what it has in PostgreSQL, in its prefix and on its volume, when it leaves.

`FinalBackupProvider` runs in Pulumi's host for dynamic resources; what is serialised of it is its name. What
it saves lies in the logs bucket under `offboarded/ID/TIME/`, the manifest last: without one it is incomplete.
The database is saved by `dump.py`. The volume's backup is Longhorn's own and lies where Longhorn's lie; its
key lies with the manifest.

Not in it: secrets, which would outlive their deletion (their owner has them, or makes new ones), and older
versions of objects.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pulumi
from pulumi.dynamic import (
    CheckFailure,
    CheckResult,
    CreateResult,
    DiffResult,
    Resource,
    ResourceProvider,
    UpdateResult,
)

from infra.tenants.differences import differences
from infra.tenants.registration import ARCHIVE, RETENTION_DAYS, access

if TYPE_CHECKING:
    from infra.platform.services import Services
    from infra.tenants.roster import TenantEntry

_STOP_SECONDS = 300.0
"""A machine has two minutes to shut down."""
_BACKUP_SECONDS = 4 * 3600.0
_PAUSE = 2.0


class FinalBackupProvider(ResourceProvider):
    """Saves what a tenant has, once; what is saved outlives the resource."""

    serialize_as_secret_always = False

    def check(self, olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Refuse while it is still a preview what could not be saved for want of a program."""
        from infra.tenants import dump

        missing = [] if olds else dump.missing_programs()
        failures = (
            [CheckFailure("tenant", f"{news['tenant']}: {dump.no_program(missing)}")] if missing else []
        )
        return CheckResult(news, failures)

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """What is saved is saved; the ways into the servers are only taken note of."""
        return differences(olds, news, stable=())

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Wait until its machine is off, end its logins, and save what it has.

        Raises:
            RuntimeError: the backup is not complete, and has no manifest; nothing was deleted.
        """
        from infra.tenants import clients

        taken = datetime.now(UTC)
        folder = f"{ARCHIVE}/{props['tenant']}/{taken:%Y-%m-%dT%H%M%SZ}/"
        try:
            _save(props, folder, taken)
        except clients.failures() as error:
            raise RuntimeError(
                f"{props['tenant']}: the final backup failed, so the tenant stays: {error}. Run the update "
                "again, or write `offboarding: {backup: waived, reason: …}`"
            ) from None
        return CreateResult(folder, props)

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Take note."""
        return UpdateResult(news)

    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Nothing: the backup is there for when the tenant is not."""


class FinalBackup(Resource, module="agent-platform", name="FinalBackup"):
    """A tenant's last backup."""

    def __init__(
        self,
        resource_name: str,
        *,
        tenant: "TenantEntry",
        platform: "Services",
        workspace_key: pulumi.Output[str] | None,
        opts: pulumi.ResourceOptions,
    ) -> None:
        """Declare that what `tenant` has is saved; `opts` says what has to be stopped before.

        `workspace_key` is what its volume is encrypted with, if it has one.
        """
        ways = access(platform)
        if tenant.own_database:
            ways["database"]["database"] = tenant.underscored
        super().__init__(
            _PROVIDER,
            resource_name,
            {
                "tenant": tenant.id,
                "tier": tenant.tier,
                "ownDatabase": tenant.own_database,
                "workspaceKey": workspace_key,
                **ways,
            },
            pulumi.ResourceOptions.merge(
                opts,
                pulumi.ResourceOptions(
                    additional_secret_outputs=["workspaceKey", "database", "vault", "redis"]
                ),
            ),
        )


_PROVIDER = FinalBackupProvider()


def _save(props: Mapping[str, Any], folder: str, taken: datetime) -> None:
    from infra.cluster.object_storage import s3_client
    from infra.tenants import clients
    from infra.tenants.dump import Dump
    from infra.tenants.holdings import end_logins

    tenant, storage = props["tenant"], props["storage"]
    home, logins = f"tenant-{tenant}", f"{props['vault']['databaseMount']}/creds/tenant-{tenant}"
    expires = (taken + timedelta(days=RETENTION_DAYS)).date().isoformat()
    cluster = clients.kubernetes_for_hours(props["kubernetes"])
    _stopped(cluster(), tenant)
    end_logins(clients.VaultClient(props["vault"]), home, logins)
    s3 = s3_client(storage["endpoint"], storage["region"])

    def put(name: str, content: Any) -> None:
        body = json.dumps(content, indent=2, ensure_ascii=False, default=str).encode()
        s3.put_object(Bucket=storage["logs"], Key=folder + name, Body=body, ContentType="application/json")

    dump = Dump(
        s3=s3,
        bucket=storage["logs"],
        folder=folder,
        where=props["database"],
        owner=f"tenant_{tenant}",
        whole=props["ownDatabase"],
    )
    database = dump.save()
    objects = _objects(s3, storage, f"tenant_{tenant}/", f"{folder}objects/")
    volumes = list(_volumes(cluster, tenant, f"final-{tenant}-{taken:%Y%m%d%H%M%S}".lower(), expires))
    if volumes:
        # Longhorn backs up what is on disk: without the key, that is noise.
        put("workspace-key.json", {"CRYPTO_KEY_VALUE": props["workspaceKey"]})
    put(
        "manifest.json",
        {
            "tenant": tenant,
            "tier": props["tier"],
            "taken": taken.isoformat(timespec="seconds"),
            "expires": expires,
            "database": database,
            "objects": objects,
            "volumes": volumes,
        },
    )


def _stopped(cluster: Any, tenant: str) -> None:
    """Wait until nothing of the tenant runs in its namespace."""
    from kubernetes.client import CoreV1Api

    core: Any = CoreV1Api(cluster)

    def running() -> list[str]:
        pods = core.list_namespaced_pod(f"tenant-{tenant}").items
        return [pod.metadata.name for pod in pods if pod.status.phase not in ("Succeeded", "Failed")]

    _wait(lambda: not running(), _STOP_SECONDS, lambda: f"still running: {', '.join(running())}")


def _objects(s3: Any, storage: Mapping[str, Any], prefix: str, folder: str) -> int:
    """Copy the newest version of each object below `prefix`, on the server; returns how many."""
    count = 0
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=storage["artifacts"], Prefix=prefix)
    for item in (item for page in pages for item in page.get("Contents", [])):
        if item["Key"].endswith("/") and not item["Size"]:
            continue  # Only shows a folder.
        source = {"Bucket": storage["artifacts"], "Key": item["Key"]}
        s3.copy(source, storage["logs"], folder + item["Key"].removeprefix(prefix))
        count += 1
    return count


def _volumes(cluster: Callable[[], Any], tenant: str, name: str, expires: str) -> Iterator[dict[str, str]]:
    """Have Longhorn back up each volume that the tenant has.

    <https://longhorn.io/docs/1.12.0/snapshots-and-backups/>; a detached volume is attached for it.
    """
    from kubernetes.client import CoreV1Api, CustomObjectsApi

    from infra.tenants.places import LONGHORN

    core: Any = CoreV1Api(cluster())

    def objects() -> Any:
        return CustomObjectsApi(cluster())

    def make(plural: str, kind: str, labels: dict[str, str], spec: dict[str, Any]) -> None:
        metadata = {"name": name, "labels": labels}
        body = {"apiVersion": "/".join(LONGHORN[:2]), "kind": kind, "metadata": metadata, "spec": spec}
        objects().create_namespaced_custom_object(*LONGHORN, plural, body)

    def status(plural: str) -> dict[str, Any]:
        found: dict[str, Any] = objects().get_namespaced_custom_object(*LONGHORN, plural, name)
        return dict(found.get("status") or {})

    for claim in core.list_namespaced_persistent_volume_claim(f"tenant-{tenant}").items:
        volume = claim.spec.volume_name
        if not volume:
            continue  # Its machine never started, so there is nothing on it.
        make("snapshots", "Snapshot", {}, {"volume": volume, "createSnapshot": True, "labels": {}})
        _wait(
            lambda: status("snapshots").get("readyToUse"), _BACKUP_SECONDS, lambda: f"{status('snapshots')}"
        )
        whose = {"pvName": volume, "namespace": f"tenant-{tenant}", "pvcName": claim.metadata.name}
        labels = {"KubernetesStatus": json.dumps(whose), "expires": expires}
        make("backups", "Backup", {"backup-volume": volume}, {"snapshotName": name, "labels": labels})
        _wait(
            lambda: status("backups").get("state") in ("Completed", "Error"),
            _BACKUP_SECONDS,
            lambda: f"{status('backups')}",
        )
        if error := status("backups").get("error"):
            raise RuntimeError(f"Longhorn could not back up {volume}: {error}")
        yield {"claim": claim.metadata.name, "volume": volume, "backup": name}


def _wait(done: Callable[[], Any], seconds: float, told: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise RuntimeError(f"after {int(seconds)} s {told()}")
        time.sleep(_PAUSE)
