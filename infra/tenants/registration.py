"""That a tenant exists: the first thing made of it and, once all is known to be gone, the last deleted.

`RegistrationProvider` runs in Pulumi's host for dynamic resources; what is serialised of it is its name. It
refuses what would lose data while that is still a preview, and leaves the receipt of a removal.
"""

import json
import math
import time
from collections.abc import Iterator, Mapping
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

if TYPE_CHECKING:
    from infra.platform.services import Services
    from infra.tenants.places import Place
    from infra.tenants.roster import TenantEntry

_ACCOUNTS_DAYS = 3653
RETENTION_DAYS = 90
"""How long a final backup is kept (docs/decisions/0039)."""

ARCHIVE = "offboarded"
"""The folder of final backups in the logs bucket."""

_PATIENCE = 180.0
"""Seconds until what goes by itself has to be gone: a volume goes after its namespace."""
_PAUSE = 2.0


class RegistrationProvider(ResourceProvider):
    """Guards a tenant's data, and its id."""

    serialize_as_secret_always = False

    def check(self, olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        """Refuse, before anything is changed, what would lose data, and an id that was used before."""
        failures = _losses(olds, news) if olds else _used_before(news)
        return CheckResult(news, [CheckFailure(key, reason) for key, reason in failures])

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """Everything may change but the id."""
        return differences(olds, news, stable=("tenant",))

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Take the id.

        Raises:
            RuntimeError: it was somebody's before; nothing of the tenant has been made.
        """
        from infra.tenants import receipt

        if receipt.exists(props["tenant"], props["storage"]):
            raise RuntimeError(_retired(props["tenant"]))
        return CreateResult(props["tenant"], props)

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Take note."""
        return UpdateResult(news)

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """Look for the tenant everywhere until nothing of it is found, then leave the receipt.

        An interrupted run is simply repeated.

        Raises:
            RuntimeError: something of it is left; there is no receipt.
        """
        from infra.tenants import clients

        try:
            _remove(props)
        except clients.failures() as error:
            raise RuntimeError(
                f"{props['tenant']}: removed as far as it went, without a receipt: {error}. Run the update "
                "again"
            ) from None


class Registration(Resource, module="agent-platform", name="Registration"):
    """That a tenant exists, in a tier and a state."""

    def __init__(
        self, resource_name: str, *, tenant: "TenantEntry", platform: "Services", opts: pulumi.ResourceOptions
    ) -> None:
        """Declare that `tenant` exists on `platform`; whatever else it has depends on this."""
        leaving = tenant.offboarding
        super().__init__(
            _PROVIDER,
            resource_name,
            {
                "tenant": tenant.id,
                "tier": tenant.tier,
                "state": tenant.state,
                "workspaceGib": tenant.size.workspace_gib if tenant.has_workspace else 0,
                "ownDatabase": tenant.own_database,
                "discard": list(tenant.discard),
                "claims": list(tenant.claims),
                "backup": leaving.backup if leaving else None,
                "reason": leaving.reason if leaving else None,
                "backupDays": platform.database.backup_days,
                **access(platform),
            },
            pulumi.ResourceOptions.merge(
                opts, pulumi.ResourceOptions(additional_secret_outputs=["database", "vault", "redis"])
            ),
        )


def access(platform: "Services") -> dict[str, Any]:
    """The ways into every server, as `clients` takes them."""
    from infra.platform.registrar import GROUP

    database, vault, redis = platform.database, platform.vault, platform.redis
    objects = platform.object_storage
    return {
        # With the platform's own part of the server, before which nothing of a tenant's is made there.
        "database": {**database.entrance(), "control": database.control_schema},
        "vault": {
            "address": vault.provider.address,
            "serverName": vault.server_name,
            "token": vault.token,
            "mount": vault.kv_mount,
            "databaseMount": vault.database_mount,
            "kubernetesPath": vault.kubernetes_auth_path,
            "jwtPath": vault.jwt_auth_path,
        },
        "redis": {
            "host": redis.operator_host,
            "port": redis.port,
            "tls": redis.tls,
            "authority": redis.authority,
            "password": redis.password,
        },
        "storage": {
            "endpoint": objects.endpoint,
            "region": objects.region,
            "artifacts": objects.artifacts,
            "logs": objects.logs,
        },
        "kubernetes": {
            "zone": platform.api.zone,
            "cluster": platform.api.cluster,
            "group": GROUP,
        },
    }


_PROVIDER = RegistrationProvider()


def _losses(olds: Mapping[str, Any], news: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What of the tenant's data the change would destroy without the roster having said so before."""
    from infra.tenants.tiers import TIERS

    tenant, had, gets = news["tenant"], int(olds["workspaceGib"]), int(news["workspaceGib"])
    if 0 < gets < had:
        yield (
            "workspaceGib",
            f"{tenant}: its workspace has {had} GiB and would get {gets}, but a volume cannot shrink; write "
            f"`sizes: {{workspaceGib: {had}}}` or more",
        )
    if gets == 0 < had and not _may_go("workspace", olds, news):
        yield from _stays_on_volume(olds, news)
    if gets and not TIERS[olds["tier"]].machine and TIERS[news["tier"]].machine:
        yield from _too_large(news)
    if olds["ownDatabase"] != news["ownDatabase"] and not _may_go("database", olds, news):
        yield (
            "ownDatabase",
            f"{tenant}: it would get empty tables in another database, and those it has would be lost; put "
            "`ownDatabase` back, or, if they are to go, write `discard: [database]` and run that update "
            "first",
        )


def _stays_on_volume(olds: Mapping[str, Any], news: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Refuse a move to a tier without volumes while files of the workspace lie on the volume alone."""
    from infra.tenants.handover import not_handed_over

    tenant, had = news["tenant"], int(olds["workspaceGib"])
    if olds["state"] != "moving":
        yield (
            "workspaceGib",
            f"{tenant}: tier {news['tier']} has no volume, so all that is on its volume ({had} GiB) would "
            "be lost; first write `state: moving` in the tier it has and run that update, which brings its "
            "files to the prefix; or write `keep: [workspace]` and the size to park the volume; or, if it is "
            "to go, write `discard: [workspace]` and run that update, then change the tier",
        )
        return
    try:
        reason = not_handed_over(tenant, news["storage"])
    except RuntimeError as error:
        reason = str(error)
    if reason:
        yield (
            "workspaceGib",
            f"{tenant}: what is on its volume ({had} GiB) would be lost: {reason}; put the tier back, keep "
            "`state: moving` and run that update until it succeeds, then change the tier",
        )


def _too_large(news: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Refuse a volume that is smaller than the workspace in the prefix; silent if that cannot be asked."""
    from botocore.exceptions import BotoCoreError, ClientError

    from infra.cluster.object_storage import s3_client
    from infra.tenants.handover import held

    storage, tenant, gib = news["storage"], news["tenant"], int(news["workspaceGib"])
    if pulumi.runtime.rpc.UNKNOWN in (storage, *(storage.values() if isinstance(storage, dict) else ())):
        return
    try:
        s3 = s3_client(storage["endpoint"], storage["region"])
        _, size = held(s3, storage["artifacts"], f"tenant_{tenant}/workspace/")
    except (RuntimeError, BotoCoreError, ClientError):
        return
    # A file system takes a part of its volume for itself.
    needed = math.ceil(size / 2**30 * 1.05)
    if needed > gib:
        yield (
            "workspaceGib",
            f"{tenant}: its workspace holds {size} bytes in the prefix, which a volume of {gib} GiB does not "
            f"take, so it could not be used there; write `sizes: {{workspaceGib: {needed}}}` or more",
        )


def _may_go(what: str, olds: Mapping[str, Any], news: Mapping[str, Any]) -> bool:
    """Whether the roster said so in an earlier update, which took the protection off, and still does."""
    return what in olds["discard"] and what in news["discard"]


def _used_before(news: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Whether the id was given before; silent where that cannot be asked yet, since `create` asks again."""
    from botocore.exceptions import BotoCoreError, ClientError

    from infra.tenants import receipt

    storage, unknown = news["storage"], pulumi.runtime.rpc.UNKNOWN
    if storage == unknown or storage["logs"] == unknown:
        return
    try:
        used = receipt.exists(news["tenant"], storage)
    except (RuntimeError, BotoCoreError, ClientError):
        return
    if used:
        yield "tenant", _retired(news["tenant"])


def _retired(tenant: str) -> str:
    from infra.tenants import receipt

    return (
        f"{tenant}: a tenant of this id was removed before ({receipt.key(tenant)} in the logs bucket), and "
        "its backups and records would be taken for the new one's; choose another id"
    )


def _remove(props: dict[str, Any]) -> None:
    from infra.tenants import clients, places, receipt, roles

    tenant = props["tenant"]
    if keys := places.activity_keys(tenant, props["redis"], *places.ACTIVITY):
        clients.activity(props["redis"]).delete(*keys)
    roles.end_tenant(props["database"], f"tenant_{tenant}")
    checked = list(_all_gone(list(places.places(props))))
    receipt.write(
        tenant,
        props["storage"],
        {
            "tenant": tenant,
            "tier": props["tier"],
            "removed": _now().isoformat(timespec="seconds"),
            "backup": {"kind": props.get("backup"), "reason": props.get("reason")},
            "places": checked,
            "remains": list(_remains(props)),
        },
    )


def _all_gone(left: "list[Place]") -> Iterator[dict[str, str]]:
    """What was looked at, each place once nothing is there any more."""
    deadline = time.monotonic() + _PATIENCE
    while left:
        found: dict[str, list[str]] = {}
        for place in list(left):
            if names := place.look():
                found[f"{place.server}, {place.what}"] = names
                continue
            left.remove(place)
            yield {
                "server": place.server,
                "what": place.what,
                "how": place.how,
                "at": _now().isoformat(timespec="seconds"),
                "found": "nothing",
            }
        if found and time.monotonic() > deadline:
            told = "; ".join(f"{where}: {', '.join(names[:5])}" for where, names in found.items())
            raise RuntimeError(
                f"still there after {int(_PATIENCE)} s: {told}; whatever stays, delete on that server"
            )
        if found:
            time.sleep(_PAUSE)


def _remains(props: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """What is left of the tenant by intention, until when, and who deletes it then."""
    from infra.cluster.object_storage import s3_client
    from infra.tenants import places

    storage, now = props["storage"], _now()
    runbook = "an operator (docs/runbooks/delete-what-has-expired.md)"
    client = s3_client(storage["endpoint"], storage["region"])
    folder = f"{ARCHIVE}/{props['tenant']}/"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=storage["logs"], Prefix=folder)
    for item in (item for page in pages for item in page.get("Contents", [])):
        if item["Key"].endswith("/manifest.json"):
            manifest = json.loads(client.get_object(Bucket=storage["logs"], Key=item["Key"])["Body"].read())
            yield {
                "what": "final backup",
                "where": f"{storage['logs']}/{item['Key'].removesuffix('manifest.json')}",
                "until": manifest["expires"],
                "deletedBy": runbook,
                "holds": _held(manifest),
            }
    kept = RETENTION_DAYS if props.get("backup") == "final" else 0
    for name in places.longhorn_backups(props):
        yield {
            "what": "backup of the workspace",
            "where": f"backups.longhorn.io/{name}",
            "until": (now + timedelta(days=kept)).date().isoformat(),
            "deletedBy": runbook,
        }
    yield {
        "what": "its logs",
        "where": f"{storage['logs']}/tenant_{props['tenant']}/",
        "until": (now + timedelta(days=1)).date().isoformat(),
        "deletedBy": "the platform's CronJob log-retention, in the night",
    }
    days = props.get("backupDays")
    yield {
        "what": "its rows in backups of the whole database",
        "where": "PostgreSQL's backups",
        "until": (now + timedelta(days=int(days))).date().isoformat()
        if days
        else "not known to this program",
        "deletedBy": "the database's own retention",
    }
    yield {
        "what": "how much it used, hour by hour",
        "where": "PostgreSQL, agent_platform.ledger",
        "until": (now + timedelta(days=_ACCOUNTS_DAYS)).date().isoformat(),
        # Swiss Code of Obligations, art. 958f: ten years.
        "deletedBy": "nobody before then: it is an account",
    }


def _held(manifest: Mapping[str, Any]) -> str:
    """The contents of a final backup; one of an earlier release says nothing of large objects."""
    database = manifest.get("database")
    if database is None:
        return "tables, without large objects"
    large = database["largeObjects"]
    return (
        f"{database['entries']} entries of pg_dump of {database['server']}, "
        f"{large['count']} large objects of {large['bytes']} bytes, "
        f"{manifest['objects']} objects, {len(manifest['volumes'])} volumes"
    )


def _now() -> datetime:
    return datetime.now(UTC)
