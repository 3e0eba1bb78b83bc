"""What the change itself does: the head's steps, less what the base would do anyway."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from review.model import Operation, Plan, Step

CLUSTER, PLATFORM = "cluster", "platform"
_OWNERS = {
    "agent-platform:cluster:Cluster": CLUSTER,
    "agent-platform:platform:Platform": PLATFORM,
}
_TENANT = "agent-platform:tenants:Tenant"
_NOT_SHOWN = ("pulumi:pulumi:Stack", "agent-platform:")
"""Components: what they are made of is shown."""

_POOL = "exoscale:index/sksNodepool:SksNodepool"
LOST_WITH: Mapping[str, str] = {
    "kubernetes:core/v1:PersistentVolumeClaim": "the volume and every file on it",
    "kubernetes:core/v1:Namespace": "everything in the namespace",
    "kubernetes:postgresql.cnpg.io/v1:Cluster": "the PostgreSQL servers with every database",
    "kubernetes:apiextensions.k8s.io/v1:CustomResourceDefinition": "every object of that kind",
    "kubernetes:helm.sh/v3:Release": "what its chart runs, and for Longhorn every volume",
    "postgresql:index/schema:Schema": "the schema with every table",
    "postgresql:index/database:Database": "the database with every table",
    "pulumi-python:dynamic/agent-platform:Migration": "the tables that the migration made",
    "pulumi-python:dynamic/agent-platform:Prefix": "every object below the prefix, with all its versions",
    "pulumi-python:dynamic/agent-platform:Bucket": "every object in the bucket, with all its versions",
    "pulumi-python:dynamic/agent-platform:VaultHoldings": "the tenant's own secrets and its live logins",
    "pulumi-python:dynamic/agent-platform:Password": "what only this password or key opens",
    "vault:index/mount:Mount": "every secret below the mount",
    "exoscale:index/sksCluster:SksCluster": "the cluster and all that runs on it",
    _POOL: "the nodes, with the volumes' replicas on their disks",
}
"""What is gone when a resource of the type is deleted, or replaced by an empty one."""


@dataclass(frozen=True, kw_only=True)
class Property:
    """A property that differs; values are None where they are long, nested, or known later."""

    path: str
    before: str | None
    after: str | None
    replaces: bool


@dataclass(frozen=True, kw_only=True)
class Change:
    """One resource that the change touches."""

    owner: str
    """A tenant's id, `cluster` or `platform`."""
    kind: Literal["tenant", "shared"]
    operation: Operation
    type: str
    name: str
    urn: str
    properties: tuple[Property, ...]
    lost: str
    """What goes with it; empty where nothing does."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Two plans set against each other."""

    made: tuple[Change, ...]
    """By this change."""
    pending: tuple[Change, ...]
    """Not by this change: the base has not been brought up yet, or what runs has drifted from it."""
    settled: tuple[Change, ...]
    """Pending at the base, and no longer with this change."""
    running: tuple[Change, ...] = ()
    """Those made by this change that run already: an `up` of it came before its review."""

    @property
    def losses(self) -> tuple[Change, ...]:
        """Those that data goes with, the deletions first."""
        return tuple(change for change in self.made if change.lost)


def compare(base: Plan, head: Plan, *, from_state: bool) -> Changes:
    """Set the head's plan against the base's.

    Both come `from_state`, what really runs, and what of it the base would delete and the head keeps is the
    change's; or else from nothing, and then the two sets of resources are compared: what is only in one was
    created or deleted, and an update may yet turn out a replacement.
    """
    before, after = _by_urn(base.steps), _by_urn(head.steps)
    if not from_state:
        steps = [step for step in _set_against(before, after) if step.operation != "same"]
        return Changes(made=_changes(steps, base, head), pending=(), settled=())
    made: list[Step] = []
    pending: list[Step] = []
    for urn, step in after.items():
        if step.operation == "same":
            continue
        (pending if _same_step(before.get(urn), step) else made).append(step)
    settled: list[Step] = []
    running: list[Step] = []
    for urn, step in before.items():
        if step.operation == "same" or (urn in after and after[urn].operation != "same"):
            continue
        if step.operation == "delete" and urn in after:
            running.append(_as(after[urn], "create"))
        else:
            settled.append(step)
    return Changes(
        made=_changes([*made, *running], base, head),
        pending=_changes(pending, base, head),
        settled=_changes(settled, base, head),
        running=_changes(running, base, head),
    )


def _by_urn(steps: Iterable[Step]) -> dict[str, Step]:
    return {step.urn: step for step in steps if not _hidden(step)}


def _hidden(step: Step) -> bool:
    """Components, and the providers that the engine makes by itself."""
    default = step.type.startswith("pulumi:providers:") and step.name.startswith("default")
    return default or step.type.startswith(_NOT_SHOWN)


def _same_step(base: Step | None, head: Step) -> bool:
    return base is not None and (base.operation, base.inputs) == (head.operation, head.inputs)


def _set_against(before: Mapping[str, Step], after: Mapping[str, Step]) -> Iterable[Step]:
    for urn in [*after, *(urn for urn in before if urn not in after)]:
        step, old = after.get(urn), before.get(urn)
        if step is None and old is not None:
            yield _as(old, "delete")
        elif step is not None and old is None:
            yield _as(step, "create")
        elif step is not None and old is not None and _differing(old.inputs, step.inputs, "update"):
            yield _as(step, "update", was=old.inputs)


def _as(step: Step, operation: Operation, **changes: Any) -> Step:
    return Step(**{**vars(step), "operation": operation, "changed": (), "replacing": (), **changes})


def _changes(steps: Iterable[Step], base: Plan, head: Plan) -> tuple[Change, ...]:
    owners = Owners([*base.steps, *head.steps])
    made = (_change(step, owners) for step in steps)
    return tuple(
        sorted(made, key=lambda change: (_GRAVEST.index(change.operation), change.type, change.name))
    )


_GRAVEST: tuple[Operation, ...] = ("delete", "replace", "update", "create", "same")


def _change(step: Step, owners: "Owners") -> Change:
    owner, kind = owners.of(step)
    goes = step.operation in ("delete", "replace")
    return Change(
        owner=owner,
        kind=kind,
        operation=step.operation,
        type=step.type,
        name=step.name,
        urn=step.urn,
        properties=tuple(_properties(step)),
        # On a tenant's own nodes lies no volume: Longhorn keeps them on those of the cluster.
        lost=LOST_WITH.get(step.type, "") if goes and (kind, step.type) != ("tenant", _POOL) else "",
    )


class Owners:
    """Finds the component that a resource belongs to."""

    def __init__(self, steps: Iterable[Step]) -> None:
        """Know the resources of `steps`."""
        self._parents = {step.urn: step.parent for step in steps}

    def of(self, step: Step) -> tuple[str, Literal["tenant", "shared"]]:
        """The owner's name and its kind; what stands outside every component is the platform's."""
        urn = step.urn
        while urn:
            kind, _, name = urn.rpartition("::")
            own_type = kind.rpartition("::")[2].rpartition("$")[2]
            if own_type == _TENANT:
                return name, "tenant"
            if own_type in _OWNERS:
                return _OWNERS[own_type], "shared"
            urn = self._parents.get(urn, "")
        return PLATFORM, "shared"


_LONGEST = 60
_INTERNAL = ("__defaults", "__provider")
"""Inputs that SDK and engine keep for themselves."""
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
"""How the engine writes what is known only after an update."""


def _properties(step: Step) -> Iterator[Property]:
    for path in step.changed or _differing(step.was, step.inputs, step.operation):
        top = re.split(r"[.\[]", path)[0]
        for leaf, before, after in _leaves(_value(step.was, path), _value(step.inputs, path), path):
            yield Property(
                path=leaf,
                before=_shown(before),
                after=_shown(after),
                replaces=path in step.replacing or top in step.replacing,
            )


def _differing(before: Mapping[str, Any], after: Mapping[str, Any], operation: Operation) -> tuple[str, ...]:
    """The inputs that differ, for where the plan names none: a dynamic resource's, or those from nothing."""
    keys = sorted(before.keys() | after.keys()) if operation in ("update", "replace") else ()
    return tuple(key for key in keys if key not in _INTERNAL and before.get(key) != after.get(key))


def _leaves(before: Any, after: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Where two values differ, as deep as both are mappings."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted(before.keys() | after.keys()):
            if key not in _INTERNAL and before.get(key) != after.get(key):
                step = f".{key}" if re.fullmatch(r"[\w-]+", key) else f'["{key}"]'
                yield from _leaves(before.get(key), after.get(key), path + step)
    elif path not in _INTERNAL:
        yield path, before, after


def _value(values: Any, path: str) -> Any:
    for part in re.findall(r'\["([^"]+)"\]|\[(\d+)\]|([^.\[\]]+)', path):
        key: str = part[0] or part[2]
        if isinstance(values, Mapping):
            values = values.get(key)
        elif isinstance(values, list) and part[1] and int(part[1]) < len(values):
            values = values[int(part[1])]
        else:
            return None
    return values


def _shown(value: Any) -> str | None:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    shown = isinstance(value, str | int | float) and len(text) <= _LONGEST and text != UNKNOWN
    return text if shown else None
