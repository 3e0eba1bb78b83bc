"""Mends a stack whose last update was cut off, before the next one starts.

An engine that was killed leaves a lock and *pending operations*: steps whose outcome it did not get to write
down. What was being made is entered into the state under the id it has if it exists, and all that is pending
is then read from its server: so nothing is made twice, and nothing that was made is left behind.
(`pulumi refresh --import-pending-creates` only clears the operations, as of engine 3.259.)
"""

import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from exoscale.api.v2 import Client  # type: ignore[import-untyped]
from pulumi import automation as auto

from local import supervisor
from local.errors import LocalError

Inputs = Mapping[str, Any]

_CLOCK = 1.0
"""Seconds by which the moments of a process's start and of a file's writing may be off."""


def recover(
    stack: auto.Stack, *, backend: Path, environment: Mapping[str, str], output: Callable[[str], None]
) -> None:
    """Release a dead engine's lock and settle what it left pending; does nothing after an update that ended.

    `environment` is the engine's, with the Exoscale endpoint and credentials. Raises `LocalError` when
    another engine is at work on the stack.
    """
    release_dead_locks(backend)
    exported = stack.export_stack()
    deployment = dict(exported.deployment or {})
    pending = deployment.pop("pending_operations", None) or []
    if not pending:
        return
    output(f"The last update was cut off in {len(pending)} steps; asking the servers what became of them.")
    exoscale = Client(
        environment["EXOSCALE_API_KEY"],
        environment["EXOSCALE_API_SECRET"],
        url=environment["EXOSCALE_API_ENDPOINT"],
    )
    resources = deployment["resources"]
    known = {resource["urn"] for resource in resources}
    for operation in pending:
        resource = operation["resource"]
        if operation["type"] != "creating" or resource["urn"] in known:
            continue
        identifier = _identifier(resource["type"], resource.get("inputs", {}), exoscale)
        if identifier is not None:
            # A dynamic resource reads itself by its outputs, a plugin by the id alone, as when it imports.
            outputs = resource["inputs"] if resource["type"].startswith("pulumi-python:") else {}
            resources.append({**resource, "id": identifier, "outputs": outputs})
            known.add(resource["urn"])
    stack.import_stack(auto.Deployment(exported.version, deployment))
    targets = [operation["resource"]["urn"] for operation in pending if operation["resource"]["urn"] in known]
    if targets:
        stack.refresh(target=targets, on_output=output)


def release_dead_locks(backend: Path) -> None:
    """Take away the locks of engines that are no more; LocalError where one still works on this backend."""
    for lock in backend.glob(".pulumi/locks/**/*.json"):
        holder = _living_holder(lock, backend)
        if holder is not None:
            raise LocalError(
                f"Another update of this stack is running (process {holder}), and two at once would corrupt "
                "its state; nothing was changed. Wait for it to end, then try again."
            )
        lock.unlink(missing_ok=True)


def _living_holder(lock: Path, backend: Path) -> int | None:
    """The engine that may hold the lock, whatever stands in it.

    A full disk leaves a lock empty, and a machine may be given another name: an engine that this platform
    started is therefore known by its environment. One that was started by hand is known by its process's
    number, unless that is the number of a process by now which began after the lock was made.
    """
    ours = supervisor.carrying("PULUMI_BACKEND_URL", backend.as_uri())
    named = [pid for pid in _named(lock) if supervisor.began(pid) < lock.stat().st_mtime + _CLOCK]
    return next((pid for pid in (*named, *ours) if supervisor.program(pid) == "pulumi"), None)


def _named(lock: Path) -> list[int]:
    try:
        holder = json.loads(lock.read_text(encoding="utf-8"))
        return [int(holder["pid"])] if holder["hostname"] == socket.gethostname() else []
    except (ValueError, TypeError, KeyError):
        return []


def _identifier(resource_type: str, inputs: Inputs, exoscale: Client) -> str | None:
    """The id under which the server has what was being made, or None where making it again is harmless.

    Only creations that would fail or leave a double are named here; the others (server-side apply, grants,
    policies, our own dynamic resources) are idempotent.
    """
    match resource_type:
        case "postgresql:index/role:Role" | "postgresql:index/database:Database":
            return str(inputs["name"])
        case "vault:index/mount:Mount":
            return str(inputs["path"])
        case "vault:index/authBackend:AuthBackend" | "vault:index/audit:Audit":
            return str(inputs.get("path") or inputs["type"])
        case "vault:jwt/authBackend:AuthBackend":
            return str(inputs.get("path") or "jwt")
        case "exoscale:index/antiAffinityGroup:AntiAffinityGroup":
            return _by_name(exoscale.list_anti_affinity_groups()["anti-affinity-groups"], inputs)
        case "exoscale:index/securityGroup:SecurityGroup":
            return _by_name(exoscale.list_security_groups()["security-groups"], inputs)
        case "exoscale:index/privateNetwork:PrivateNetwork":
            return _zoned(_by_name(exoscale.list_private_networks()["private-networks"], inputs), inputs)
        case "exoscale:index/sksCluster:SksCluster":
            return _zoned(_by_name(exoscale.list_sks_clusters()["sks-clusters"], inputs), inputs)
        case "exoscale:index/sksNodepool:SksNodepool":
            cluster = exoscale.get_sks_cluster(id=inputs["clusterId"])
            pool = _by_name(cluster.get("nodepools", []), inputs)
            return _zoned(f"{inputs['clusterId']}/{pool}" if pool else None, inputs)
        case "exoscale:index/iamRole:IamRole":
            return _by_name(exoscale.list_iam_roles()["iam-roles"], inputs)
        case "exoscale:index/iamApiKey:IamApiKey":
            # Its secret was shown once, to the engine that died: the key is of no use and must not stay.
            for key in exoscale.list_api_keys()["api-keys"]:
                if key["name"] == inputs["name"]:
                    exoscale.delete_api_key(id=key["key"])
            return None
    return None


def _by_name(found: list[dict[str, Any]], inputs: Inputs) -> str | None:
    return next((str(item["id"]) for item in found if item.get("name") == inputs["name"]), None)


def _zoned(identifier: str | None, inputs: Inputs) -> str | None:
    return f"{identifier}@{inputs['zone']}" if identifier else None
