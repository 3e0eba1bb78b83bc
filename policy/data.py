"""Data: kept, backed up, encrypted where that was sold, and no credential in the clear."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from policy.inputs import Path, UnknownInputError, UnsearchedError, path_text, texts, unknowns
from policy.rules import Selection, Severity, listed, resources, rule, stack_rule
from policy.subjects import Resource, Stack
from policy.tenants import NAMESPACE, registration, tenants_resources, tier_name, tier_of

_LONGHORN = "https://longhorn.io/docs/1.12.0"
_CNPG = "https://cloudnative-pg.io/documentation/current"

_CLAIM = "kubernetes:core/v1:PersistentVolumeClaim"
_SECRET = "kubernetes:core/v1:Secret"  # noqa: S105 — a type, not a secret
_STORAGE_CLASS = "kubernetes:storage.k8s.io/v1:StorageClass"
_RECURRING_JOB = "kubernetes:longhorn.io/v1beta2:RecurringJob"
_SERVERS = "kubernetes:postgresql.cnpg.io/v1:Cluster"
_SCHEDULED_BACKUP = "kubernetes:postgresql.cnpg.io/v1:ScheduledBackup"
_BACKUP_STORE = "kubernetes:barmancloud.cnpg.io/v1:ObjectStore"
_SCHEMA = "postgresql:index/schema:Schema"
_DATABASE = "postgresql:index/database:Database"
_ROLE = "postgresql:index/role:Role"
_MOUNT = "vault:index/mount:Mount"
_CLUSTER = "exoscale:index/sksCluster:SksCluster"
_BUCKET = "pulumi-python:dynamic/agent-platform:Bucket"
_PREFIX = "pulumi-python:dynamic/agent-platform:Prefix"
_HOLDINGS = "pulumi-python:dynamic/agent-platform:VaultHoldings"

_PLATFORM_ELSEWHERE = "agent-platform:platform:PlatformReference"
"""Stands in a stack for the platform of another one, where classes, servers and backups are judged."""

_OF_ALL = frozenset((_CLUSTER, _BUCKET, _SERVERS, _MOUNT))
_OF_A_TENANT: Mapping[str, str] = {
    _SCHEMA: "database",
    _DATABASE: "database",
    _CLAIM: "workspace",
    _ROLE: "",
    _PREFIX: "",
    _HOLDINGS: "",
}
"""What the roster's `discard` calls it; what has no name there goes with the tenant alone."""


@stack_rule(
    id="data-protected",
    severity=Severity.HIGH,
    on=resources(*_OF_ALL, *_OF_A_TENANT, NAMESPACE),
    reason="one mistaken line in a pull request would delete what nobody can make again",
    remedy="declare it with `protect=True`; a tenant's is let go by `state: offboarding` or `discard`, its "
    "volume by `state: moving`, too",
    source="https://www.pulumi.com/docs/iac/concepts/resources/options/protect/",
)
def protected(resource: Resource, stack: Stack) -> Iterator[str]:
    """What holds data is protected, unless the roster says of its tenant that it may go."""
    if resource.protect or not _holds_data(resource, stack):
        return
    said = registration(resource, stack) if resource.tenant else {}
    kind = "workspace" if resource.type == NAMESPACE else _OF_A_TENANT.get(resource.type, "")
    leaves = said.get("state") == "offboarding" or (said.get("state") == "moving" and kind == "workspace")
    if not leaves and kind not in (said.get("discard") or ()):
        yield "it holds data and is not protected"


def _holds_data(resource: Resource, stack: Stack) -> bool:
    if resource.type == _MOUNT:
        return resource.inputs["type"] in ("kv", "kv-v2", "generic")
    if resource.type == _ROLE:
        # Of the platform's roles none owns data.
        return resource.tenant is not None
    return resource.type != NAMESPACE or any(stack.by(_namespace, _CLAIM)[resource.object_name])


@stack_rule(
    id="data-workspace-encrypted",
    severity=Severity.HIGH,
    on=tenants_resources(_CLAIM),
    reason="encryption with a key of its own was sold, and whoever gets the disk could read the workspace",
    remedy="use the class `workspace-encrypted`, and declare the key as the Secret of the claim's name",
    source=f"{_LONGHORN}/advanced-resources/security/volume-encryption/",
    settings=listed(
        "classes", default=("workspace-encrypted",), of="storage classes that encrypt each volume on its own"
    ),
)
def workspace_encrypted(claim: Resource, stack: Stack, values: Mapping[str, Any]) -> Iterator[str]:
    """A workspace is encrypted with a key of its own where the tier says so."""
    tier, name = tier_of(claim, stack), claim.inputs["spec"].get("storageClassName")
    if name not in values["classes"]:
        if tier and tier.encrypted_workspace:
            yield f"tier {tier_name(claim, stack)} has encrypted workspaces; class {name} does not encrypt"
        return
    keys = stack.by(_namespace, _SECRET)[claim.namespace]
    if not any(each.object_name == claim.object_name for each in keys):
        yield f"there is no key for it: no Secret {claim.object_name} in its namespace"


STEPS = ("provisioner", "node-publish", "node-stage", "node-expand")
"""Of a volume's life, those that take its key."""


@rule(
    id="data-key-per-volume",
    severity=Severity.CRITICAL,
    on=resources(_STORAGE_CLASS),
    reason="one key would open every tenant's volume, or none would be encrypted under a name that says so",
    remedy='set `encrypted: "true"` and, for each step, the Secret `${pvc.name}` in `${pvc.namespace}`',
    source=f"{_LONGHORN}/advanced-resources/security/volume-encryption/",
)
def key_per_volume(storage_class: Resource) -> Iterator[str]:
    """A class that is called encrypted encrypts, each volume with the key of its own claim."""
    parameters = storage_class.inputs.get("parameters") or {}
    if parameters.get("encrypted") != "true":
        if "encrypted" in storage_class.object_name:
            yield "it does not encrypt"
        return
    for step in STEPS:
        for what, own in (("name", "${pvc.name}"), ("namespace", "${pvc.namespace}")):
            key = f"csi.storage.k8s.io/{step}-secret-{what}"
            if parameters.get(key) != own:
                yield f"{key} is {parameters.get(key)}"


@stack_rule(
    id="data-volume-backed-up",
    severity=Severity.HIGH,
    on=resources(_CLAIM, _STORAGE_CLASS),
    reason="what is on it is gone with the disk, or with the first mistake that reaches it",
    remedy="use a class whose `recurringJobSelector` names a group with a RecurringJob of task `backup`",
    source=f"{_LONGHORN}/snapshots-and-backups/scheduling-backups-and-snapshots/",
)
def volume_backed_up(resource: Resource, stack: Stack) -> Iterator[str]:
    """Every volume is of a class whose volumes are backed up by the clock."""
    if resource.type == _STORAGE_CLASS:
        if not _has_backups(resource, stack):
            yield "no backup of its volumes is scheduled"
    elif not any(stack.of(_PLATFORM_ELSEWHERE)):
        name = resource.inputs["spec"].get("storageClassName")
        if not any(each.object_name == name for each in stack.of(_STORAGE_CLASS)):
            yield f"its class {name} is none that this stack declares, so nobody knows of a backup"


def _has_backups(storage_class: Resource, stack: Stack) -> bool:
    parameters = storage_class.inputs.get("parameters") or {}
    selected = json.loads(parameters.get("recurringJobSelector") or "[]")
    groups = {each["name"] for each in selected if each.get("isGroup")}
    jobs = {each["name"] for each in selected if not each.get("isGroup")}
    specs = (job.inputs["spec"] for job in stack.of(_RECURRING_JOB))
    return any(
        spec["task"] == "backup" and (groups & set(spec.get("groups") or ()) or spec.get("name") in jobs)
        for spec in specs
    )


@stack_rule(
    id="data-schema-backed-up",
    severity=Severity.HIGH,
    on=resources(_SCHEMA),
    reason="the customer's memory, logs and agents would be gone with the servers' disks",
    remedy="use a database of servers that this stack declares, or say in `given` who backs up the others",
    source=f"{_CNPG}/backup/",
    settings={
        "given": {
            "type": "string",
            "default": "",
            "description": "who backs up the servers that the stack is given, and how; empty: nobody",
        }
    },
)
def schema_backed_up(schema: Resource, stack: Stack, values: Mapping[str, Any]) -> Iterator[str]:
    """Every schema is on servers that are backed up: by this stack, or by whoever gives them."""
    if values["given"] or any(stack.of(_PLATFORM_ELSEWHERE)):
        return
    database = schema.inputs["database"]
    if any(stack.by(_first_database, _SERVERS)[database]):
        return
    if not any(stack.of(_SERVERS)) or not any(stack.by(_database_name, _DATABASE)[database]):
        yield f"nobody is known to back up the database {database}"


def _database_name(database: Resource) -> str:
    return str(database.inputs["name"])


def _first_database(servers: Resource) -> str:
    """The database that servers are made with."""
    return str(((servers.inputs["spec"].get("bootstrap") or {}).get("initdb") or {}).get("database") or "app")


@stack_rule(
    id="data-servers-backed-up",
    severity=Severity.HIGH,
    on=resources(_SERVERS),
    reason="every tenant's data would be gone with the servers' disks",
    remedy="declare a ScheduledBackup of this Cluster, and a plugin with `isWALArchiver: true`",
    source=f"{_CNPG}/backup/",
)
def servers_backed_up(servers: Resource, stack: Stack) -> Iterator[str]:
    """PostgreSQL servers archive their log, and have a base backup on a schedule that is not suspended."""
    plugins = servers.inputs["spec"].get("plugins") or ()
    if not any(plugin.get("isWALArchiver") and plugin.get("enabled", True) for plugin in plugins):
        yield "they archive no log, so what came after the last backup is lost"
    backups = (backup.inputs["spec"] for backup in stack.by(_namespace, _SCHEDULED_BACKUP)[servers.namespace])
    if not any(
        backup["cluster"]["name"] == servers.object_name and not backup.get("suspend") for backup in backups
    ):
        yield "no backup of them is scheduled"


@rule(
    id="data-backups-kept",
    severity=Severity.HIGH,
    on=resources(_BACKUP_STORE, _RECURRING_JOB),
    reason="a mistake that is noticed late could not be undone",
    remedy="keep backups for at least `minimum` days (a daily job: as many backups)",
    source="guide, Phase 4: Production Ready",
    settings={
        "minimum": {
            "type": "integer",
            "minimum": 1,
            "default": 7,
            "description": "days that backups are kept",
        }
    },
)
def backups_kept(resource: Resource, values: Mapping[str, Any]) -> Iterator[str]:
    """Backups are kept long enough for a mistake to be noticed."""
    spec, minimum = resource.inputs["spec"], values["minimum"]
    if resource.type == _BACKUP_STORE:
        written = str(spec.get("retentionPolicy") or "")
        days = int(written[:-1] or 0) * _DAYS[written[-1]] if written else 0
        if days < minimum:
            yield (
                f"backups are kept for {days} days"
                if written
                else "it says nothing of how long they are kept"
            )
    elif spec["task"] == "backup" and spec.get("retain", 0) < minimum:
        yield f"the last {spec.get('retain', 0)} backups are kept"


_DAYS = {"d": 1, "w": 7, "m": 30}


@rule(
    id="data-bucket-versioned",
    severity=Severity.MEDIUM,
    on=resources(_BUCKET),
    reason="an object that is overwritten or deleted by mistake could not be got back",
    remedy="leave `versioned` true",
    source="https://community.exoscale.com/product/storage/object-storage/",
)
def bucket_versioned(bucket: Resource) -> Iterator[str]:
    """Every bucket keeps old versions."""
    if bucket.inputs.get("versioned") is not True:
        yield "it keeps no old versions"


_CREDENTIAL = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|\bEXO[0-9a-f]{24}\b|\bAKIA[0-9A-Z]{16}\b"
    r"|\bhv[sbr]\.[A-Za-z0-9_-]{20,}|\bs\.[A-Za-z0-9]{24}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{36}|\bglpat-[A-Za-z0-9_-]{20}|\bxox[abprs]-[A-Za-z0-9-]{10,}"
    r"|\bsk-[A-Za-z0-9_-]{20,}|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}"
    r"|://[^/\s:@{]+:[^/\s:@{]+@"
)
"""What keys and tokens of these services look like, and a password in an address."""

_NAMED = re.compile(
    r"(password|passwd|passphrase|secret_?key|secret_?access_?key|private_?key|access_?token|auth_?token"
    r"|(?<!csrf)token|api_?key|api_?secret|crypto_?key_?value)$",
    re.IGNORECASE,
)
"""Fields, and variables of an environment, that hold a credential."""


@rule(
    id="data-no-plaintext-secret",
    severity=Severity.CRITICAL,
    on=Selection(lambda _type: True, lambda resource: (resource,)),
    reason="it stands in the clear in the state, in every preview and in the log of whoever ran it",
    remedy="take it from a secret of the configuration, a resource's secret output, or Vault; then rotate it",
    source="https://www.pulumi.com/docs/iac/concepts/secrets/",
)
def no_plaintext_secret(resource: Resource) -> Iterator[str]:
    """Nothing that is, or is called, a password, key or token stands in the clear."""
    for path, text in texts(resource.inputs):
        # Providers are configured in texts: `true` opens nothing.
        if resource.is_secret(*path) or text in ("", "true", "false"):
            continue
        if _holds_credential(resource, path):
            yield f"{path_text(path)} is not marked as a secret"
        elif _CREDENTIAL.search(text):
            yield f"{path_text(path)} looks like a credential"
    open_to_all = [path for path in unknowns(resource.inputs) if path[0] not in resource.secret_outputs]
    for path in open_to_all:
        if _holds_credential(resource, path):
            raise UnknownInputError(path)
    for path in open_to_all:
        raise UnsearchedError(path)


def _holds_credential(resource: Resource, path: Path) -> bool:
    """Whether a field is one, by its place, its name, or the `name` that stands beside a `value`."""
    if resource.type == _SECRET and path[0] in ("data", "stringData"):
        return True
    if path[-1] != "value":
        return _NAMED.search(str(path[-1])) is not None
    around: Any = resource.inputs
    for step in path[:-1]:
        around = around[step]
    return _NAMED.search(str(around.get("name") or "")) is not None


def _namespace(resource: Resource) -> str:
    return resource.namespace
