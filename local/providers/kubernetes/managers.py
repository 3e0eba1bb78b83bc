"""Field managers: who owns which field of an object, in the API's own record of it."""

import hashlib
from typing import Any

from local.providers.kubernetes.cluster import Cluster, RefusedError
from local.providers.kubernetes.manifest import Manifest, annotation, metadata
from local.providers.values import Properties

CREATOR = "pulumi-kubernetes"
"""Owns what a plain creation sets, until the first update takes it over."""

_ATTEMPTS = 10
"""To write the record of an object that others write, too."""

FORCE = "pulumi.com/patchForce"
_MANAGER = "pulumi.com/patchFieldManager"
_KUBECTL = {("kubectl", "Apply"), ("kubectl", "Update"), ("before-first-apply", "Update")}
_OURS = {(name, "Update") for name in (CREATOR, "pulumi-kubernetes.exe", "pulumi-resource-kubernetes")}


def manager(urn: str, inputs: Manifest, outputs: Properties) -> str:
    """The name that a resource's fields are owned under.

    The official plugin draws it; here it follows from the resource, so that a creation whose outcome the
    engine did not get to write down is met under the same name again.
    """
    return (
        annotation(inputs, _MANAGER)
        or str(outputs.get("__fieldManager", ""))
        or f"{CREATOR}-{hashlib.sha256(urn.encode()).hexdigest()[:8]}"
    )


def force(inputs: Manifest, live: Manifest | None, *, always: bool, preview: bool) -> bool:
    """Whether to take fields from another owner."""
    if always or annotation(inputs, FORCE) == "true":
        return True
    if live is None:
        return preview
    entries = metadata(live).get("managedFields", [])
    return not entries or (preview and any(_owner(entry) in _OURS for entry in entries))


def take_over(cluster: Cluster, live: Manifest, manager: str) -> Manifest:
    """Give `manager` the fields that a plain creation or kubectl owns, so that it may also take them away."""
    for _ in range(_ATTEMPTS):
        entries = _taken_over(metadata(live).get("managedFields", []), manager)
        if entries is None:
            return live
        version = live["metadata"]["resourceVersion"]
        try:
            return cluster.json_patch(
                live,
                [
                    {"op": "replace", "path": "/metadata/managedFields", "value": entries},
                    {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
                ],
            )
        except RefusedError as error:
            if not error.conflict:
                raise
            # A controller has written its status meanwhile.
            refused = error
            live = cluster.get(live)
    raise refused


def _taken_over(entries: list[dict[str, Any]], manager: str) -> list[dict[str, Any]] | None:
    """The record once `manager` owns those fields; None if they have no such owner."""
    taken = [entry for entry in entries if _owner(entry) in _OURS | _KUBECTL and "subresource" not in entry]
    if not taken:
        return None
    own = [entry for entry in entries if _owner(entry) == (manager, "Apply")]
    fields: dict[str, Any] = {}
    for entry in own + taken:
        fields = _union(fields, entry.get("fieldsV1", {}))
    merged = {**(own + taken)[0], "manager": manager, "operation": "Apply", "fieldsV1": fields}
    return [merged, *(entry for entry in entries if entry not in own + taken)]


def relinquish(cluster: Cluster, live: Manifest, manager: str) -> None:
    """Give up every field that `manager` owns; those without another owner go."""
    identity = {key: metadata(live)[key] for key in ("name", "namespace") if key in metadata(live)}
    bare = {"apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": identity}
    cluster.apply(bare, manager=manager, force=False, dry_run=False)


def _owner(entry: dict[str, Any]) -> tuple[str, str]:
    return str(entry.get("manager")), str(entry.get("operation"))


def _union(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {
        **one,
        **{key: _union(one[key], value) if key in one else value for key, value in other.items()},
    }
