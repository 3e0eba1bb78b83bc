"""The handover of a workspace from its volume to the prefix, before a move to a tier without machines.

`HandoverProvider` runs in Pulumi's host for dynamic resources; what is serialised of it is its name. It has
the machine started with instructions to hand its workspace over, and waits for the manifest that says that
all of it lies in the prefix (docs/decisions/0072). The machine copies: nobody else can read its volume.
"""

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider, UpdateResult

from infra.tenants.differences import differences
from infra.tenants.registration import access

if TYPE_CHECKING:
    from kubernetes.client import ApiClient
    from mypy_boto3_s3 import S3Client

    from infra.platform.services import Services
    from infra.tenants.roster import TenantEntry

MANIFEST = "handover.json"
"""The object in the prefix that the machine writes (services/agent_runtime/handover.py)."""

_STOP_SECONDS = 300.0
"""A machine has two minutes to shut down."""
_SILENT_SECONDS = 900.0
"""The time without a word from the machine after which nothing more is expected of it."""
_LONGEST_SECONDS = 12 * 3600.0
"""The time after which an update ends, even while the machine goes on."""
_LARGEST_MANIFEST = 2**16
_MOST_NAMED = 20
_LONGEST_NAME = 200
_PAUSE = 2.0
_OFF = ("", "Succeeded", "Failed")
"""The phases of a machine that is off."""
_SUBRESOURCES = "/apis/subresources.kubevirt.io/v1/namespaces/tenant-{0}/virtualmachines/tenant-{0}/"


class HandoverProvider(ResourceProvider):
    """Has a workspace handed over, once; what lies in the prefix outlives the resource."""

    serialize_as_secret_always = False

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """Compare the inputs, and the prefix with the manifest: the machine may have served in between."""
        found = differences(olds, news, stable=())
        if not found.changes:
            # A preview may have no way there.
            with contextlib.suppress(RuntimeError):
                return DiffResult(changes=not_handed_over(news["tenant"], news["storage"]) is not None)
        return found

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Run the machine until its workspace is in the prefix; it is off before and after.

        Raises:
            RuntimeError: not all of it is there; the volume is as it was.
        """
        _hand_over(props)
        return CreateResult(props["tenant"], props)

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        """Do it again, unless all of it is there."""
        if not_handed_over(news["tenant"], news["storage"]):
            _hand_over(news)
        return UpdateResult(news)

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """Remove the manifest: it says nothing of a tenant that is moving no more."""
        from infra.cluster.object_storage import s3_client

        storage = props["storage"]
        s3 = s3_client(storage["endpoint"], storage["region"])
        s3.delete_object(Bucket=storage["artifacts"], Key=_key(props["tenant"]))


class Handover(Resource, module="agent-platform", name="Handover"):
    """That a tenant's workspace is in its prefix."""

    def __init__(
        self, resource_name: str, *, tenant: "TenantEntry", platform: "Services", opts: pulumi.ResourceOptions
    ) -> None:
        """Declare that the machine of `tenant` hands its workspace over; `opts` says what comes before."""
        ways = access(platform)
        super().__init__(
            _PROVIDER,
            resource_name,
            {"tenant": tenant.id, "storage": ways["storage"], "kubernetes": ways["kubernetes"]},
            opts,
        )


_PROVIDER = HandoverProvider()


def not_handed_over(tenant: str, storage: Mapping[str, Any]) -> str | None:
    """Return the reason for which a workspace is not in its prefix as a whole, None if it is there.

    Raises:
        RuntimeError: object storage cannot be asked.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    from infra.cluster.object_storage import s3_client

    s3 = s3_client(storage["endpoint"], storage["region"])
    said = _said(s3, storage["artifacts"], tenant)
    if said is None:
        return "its machine has not handed it over"
    if said.state != "done":
        return f"its machine has not handed all of it over ({said.state})"
    try:
        return _less(said, *held(s3, storage["artifacts"], f"tenant_{tenant}/workspace/"))
    except (BotoCoreError, ClientError) as error:
        raise RuntimeError(f"object storage cannot be asked what is in the prefix: {error}") from None


def _hand_over(props: Mapping[str, Any]) -> None:
    from infra.tenants import clients

    try:
        _run(props)
    except clients.failures() as error:
        raise RuntimeError(
            f"{props['tenant']}: its workspace is not in the prefix, so it cannot move yet; its volume is as "
            f"it was: {error}"
        ) from None


def _run(props: Mapping[str, Any]) -> None:
    from infra.cluster.object_storage import s3_client
    from infra.tenants import clients

    tenant, storage = props["tenant"], props["storage"]
    cluster = clients.kubernetes_for_hours(props["kubernetes"])
    s3 = s3_client(storage["endpoint"], storage["region"])
    # What stands there was said of the volume as it was then; and until it is off, a machine may say more.
    s3.delete_object(Bucket=storage["artifacts"], Key=_key(tenant))
    _switch(cluster(), tenant, on=False)
    s3.delete_object(Bucket=storage["artifacts"], Key=_key(tenant))
    _switch(cluster(), tenant, on=True)
    try:
        said = _finished(s3, storage["artifacts"], tenant)
    except RuntimeError:
        with contextlib.suppress(*clients.failures()):
            _switch(cluster(), tenant, on=False)
        raise
    _switch(cluster(), tenant, on=False)
    if said.state == "refused":
        raise RuntimeError(_in_the_way(said))
    if less := _less(said, *held(s3, storage["artifacts"], f"tenant_{tenant}/workspace/")):
        raise RuntimeError(f"{less}; run the update again")


def _less(said: "_Manifest", files: int, size: int) -> str | None:
    """Compare the manifest with what the prefix holds; the difference as text, None without one."""
    if (said.files, said.bytes) == (files, size):
        return None
    return (
        f"its machine has handed over {said.files} files of {said.bytes} bytes, and the prefix holds {files} "
        f"of {size}"
    )


@dataclass(frozen=True)
class _Manifest:
    """The machine's report on its handover; the tenant can write anything there."""

    state: str
    """`at work`, `done` or `refused`."""
    files: int
    """Handed over so far; with `refused`, those that cannot be."""
    bytes: int
    named: tuple[str, ...] = ()
    """Some of those that cannot be handed over, and why not."""
    failure: str = ""
    """The error of the last attempt; empty if it goes on."""
    at: str = ""
    """The time at which it was said, while nothing fails."""


def _finished(s3: "S3Client", bucket: str, tenant: str) -> _Manifest:
    """Wait for the last manifest, as long as the machine goes on writing others."""
    began = silent_since = time.monotonic()
    before: _Manifest | None = None
    while True:
        # Object storage that is away for a moment is as a machine that says nothing.
        with contextlib.suppress(RuntimeError):
            said = _said(s3, bucket, tenant)
            if said and said.state in ("done", "refused"):
                return said
            if said != before:
                before, silent_since = said, time.monotonic()
        now = time.monotonic()
        if now - silent_since > _SILENT_SECONDS or now - began > _LONGEST_SECONDS:
            far = f"after {before.files} files of {before.bytes} bytes " if before and before.files else ""
            why = f" ({before.failure})" if before and before.failure else ""
            raise RuntimeError(
                f"its machine has not ended {far}in {int(now - began)} s{why}; look at its console "
                f"(`virtctl console tenant-{tenant} -n tenant-{tenant}`) and run the update again"
            )
        time.sleep(_PAUSE)


def _in_the_way(said: _Manifest) -> str:
    more = said.files - len(said.named)
    told = "; ".join(said.named) + (f"; and {more} more" if more > 0 else "")
    return (
        f"object storage cannot hold these of its files: {told}. Write `state: active`, have the tenant pack "
        "them into an archive (`tar`) or delete them, and move it then; or park the volume with "
        "`keep: [workspace]`"
    )


def _said(s3: "S3Client", bucket: str, tenant: str) -> _Manifest | None:
    """The manifest; None if there is none, or none that a machine would write.

    Raises:
        RuntimeError: object storage cannot be asked.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    from infra.cluster.object_storage import error_code

    try:
        found = s3.get_object(Bucket=bucket, Key=_key(tenant))
        return _read(json.loads(found["Body"].read(_LARGEST_MANIFEST)))
    except ClientError as error:
        if error_code(error) == "NoSuchKey":
            return None
        raise RuntimeError(f"object storage refuses to say what is in the prefix: {error}") from None
    except BotoCoreError as error:
        raise RuntimeError(f"object storage cannot be asked what is in the prefix: {error}") from None
    except (ValueError, RecursionError):
        return None


def _read(said: Any) -> _Manifest | None:
    if not isinstance(said, dict) or said.get("state") not in ("at work", "done", "refused"):
        return None
    files, size, named = said.get("files", 0), said.get("bytes", 0), said.get("named", [])
    if type(files) is not int or type(size) is not int or not isinstance(named, list):
        return None
    failure = _printable(said.get("failure", ""))
    return _Manifest(
        said["state"],
        files,
        size,
        tuple(_printable(name) for name in named[:_MOST_NAMED]),
        failure,
        "" if failure else _printable(said.get("at", "")),
    )


def _printable(name: Any) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in str(name)[:_LONGEST_NAME])


def _key(tenant: str) -> str:
    return f"tenant_{tenant}/{MANIFEST}"


def held(s3: "S3Client", bucket: str, prefix: str) -> tuple[int, int]:
    """The number of files below a prefix, and their bytes; what only shows a folder is none."""
    files = size = 0
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in (item for item in page.get("Contents", []) if not item["Key"].endswith("/")):
            files, size = files + 1, size + item["Size"]
    return files, size


def _switch(cluster: "ApiClient", tenant: str, *, on: bool) -> None:
    """Start the machine or stop it, and wait until that is done."""
    action, deadline = "start" if on else "stop", time.monotonic() + _STOP_SECONDS
    while ((phase := _phase(cluster, tenant)) in _OFF) == on:
        refusal = _ask(cluster, _SUBRESOURCES.format(tenant) + action)
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"its machine does not {action} in {int(_STOP_SECONDS)} s: {refusal or f'it is {phase}'}"
            )
        time.sleep(_PAUSE)


def _phase(cluster: "ApiClient", tenant: str) -> str:
    """Return KubeVirt's phase of the machine; empty if it has no instance."""
    from kubernetes.client import CustomObjectsApi
    from kubernetes.client.exceptions import ApiException

    objects: Any = CustomObjectsApi(cluster)
    where = ("kubevirt.io", "v1", f"tenant-{tenant}", "virtualmachineinstances", f"tenant-{tenant}")
    try:
        return str(objects.get_namespaced_custom_object(*where).get("status", {}).get("phase", "Pending"))
    except ApiException as error:
        if error.status != 404:
            raise
        return ""


def _ask(cluster: "ApiClient", path: str) -> str:
    """Send a request to KubeVirt; return its refusal, empty if it has none."""
    request = cluster.param_serialize(
        "PUT",
        path,
        header_params={"Content-Type": "application/json"},
        body={},
        auth_settings=["BearerToken"],
    )
    answer: Any = cluster.call_api(*request)
    said = str(answer.read().decode(errors="replace"))
    # While a stop or a start is under way, KubeVirt says 409 or 500.
    if answer.status in (404, 409) or answer.status >= 500:
        return said
    if answer.status >= 300:
        raise RuntimeError(f"KubeVirt refuses {path} ({answer.status}): {said}")
    return ""
