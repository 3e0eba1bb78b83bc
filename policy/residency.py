"""Residency: data stays in Switzerland, or where the stack's own list says; work that leaves it is marked.

The mark is the label `compute-offload` with the place as its value, on whatever runs or is rented elsewhere
(guide, "Backend Compute Pool"): it works on what it is sent and keeps nothing.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from policy.rules import Selection, Severity, listed, resources, rule
from policy.subjects import Resource

_ZONES_OF_EXOSCALE = "https://www.exoscale.com/datacenters/"

MARK = "compute-offload"
"""The label of work that is done elsewhere; its value says where."""

_ZONES = listed("zones", default=("ch-gva-2", "ch-dk-2"), of="zones of Exoscale in which data may be")

_BUCKET = "pulumi-python:dynamic/agent-platform:Bucket"
_PREFIX = "pulumi-python:dynamic/agent-platform:Prefix"
_BACKUP_STORE = "kubernetes:barmancloud.cnpg.io/v1:ObjectStore"
_RELEASE = "kubernetes:helm.sh/v3:Release"
_POD_KINDS = {
    "kubernetes:core/v1:Pod": ("spec",),
    "kubernetes:apps/v1:Deployment": ("spec", "template", "spec"),
    "kubernetes:apps/v1:StatefulSet": ("spec", "template", "spec"),
    "kubernetes:apps/v1:DaemonSet": ("spec", "template", "spec"),
    "kubernetes:batch/v1:Job": ("spec", "template", "spec"),
    "kubernetes:batch/v1:CronJob": ("spec", "jobTemplate", "spec", "template", "spec"),
    "kubernetes:kubevirt.io/v1:VirtualMachine": ("spec", "template", "spec"),
}
"""Where each kind says on which nodes it runs."""


@rule(
    id="residency-zone",
    severity=Severity.HIGH,
    on=Selection(lambda type_: type_.startswith("exoscale:"), lambda resource: (resource,)),
    reason="customers were told that their data is in Switzerland, under its law",
    remedy="use a Swiss zone, or add the zone to this rule's `zones` once customers have agreed",
    source=_ZONES_OF_EXOSCALE,
    settings=_ZONES,
)
def zone(resource: Resource, values: Mapping[str, Any]) -> Iterator[str]:
    """Whatever is rented from Exoscale is in a Swiss zone, or in one that is listed."""
    inputs = resource.inputs
    for written in [inputs.get("zone"), *(inputs.get("zones") or ())]:
        if written is not None and written not in values["zones"]:
            yield f"it is in zone {written}"


@rule(
    id="residency-bucket",
    severity=Severity.HIGH,
    on=resources(_BUCKET, _PREFIX),
    reason="customers were told that their files are in Switzerland, under its law",
    remedy="use a Swiss zone as region, and the zone's own endpoint https://sos-ZONE.exo.io",
    source=_ZONES_OF_EXOSCALE,
    settings=_ZONES,
)
def bucket(resource: Resource, values: Mapping[str, Any]) -> Iterator[str]:
    """Every bucket and prefix is in a Swiss zone, or in one that is listed, and reached there."""
    region = resource.inputs["region"]
    if region not in values["zones"]:
        yield f"its region is {region}"
    if not _is_in(resource.inputs["endpoint"], values["zones"]):
        yield f"its endpoint is {resource.inputs['endpoint']}"


@rule(
    id="residency-backups",
    severity=Severity.HIGH,
    on=resources(_BACKUP_STORE, _RELEASE),
    reason="a backup is all the data there is, and it would be abroad",
    remedy="back up to object storage in a Swiss zone",
    source=_ZONES_OF_EXOSCALE,
    settings=_ZONES,
)
def backups(resource: Resource, values: Mapping[str, Any]) -> Iterator[str]:
    """Backups of databases and volumes go to object storage in a Swiss zone, or in one that is listed."""
    if resource.type == _BACKUP_STORE:
        configuration = resource.inputs["spec"]["configuration"]
        # Left out, it is Amazon's.
        endpoint = configuration.get("endpointURL") or "https://s3.amazonaws.com"
        if not _is_in(endpoint, values["zones"]):
            yield f"they go to {endpoint}"
    elif resource.inputs.get("chart") == "longhorn":
        store = (resource.inputs.get("values") or {}).get("defaultBackupStore") or {}
        target = str(store.get("backupTarget") or "")
        region = re.fullmatch(r"s3://[^@/]+@([^/]+)/.*", target)
        if target and (region is None or region[1] not in values["zones"]):
            yield f"they go to {target}"


@rule(
    id="residency-provider",
    severity=Severity.HIGH,
    on=Selection(lambda type_: not type_.startswith("pulumi:"), lambda resource: (resource,)),
    reason="nobody has looked at where this provider keeps what it is given",
    remedy=f"label it `{MARK}: PLACE` if it only computes; or add the package to this rule's `packages`",
    source="guide, Why This Stack Works",
    settings=listed(
        "packages",
        default=("agent-platform", "exoscale", "kubernetes", "postgresql", "pulumi-python", "vault"),
        of="packages of Pulumi whose resources are where the other rules say",
    ),
)
def provider(resource: Resource, values: Mapping[str, Any]) -> Iterator[str]:
    """Nothing is rented from a provider that nobody has judged, unless it is marked as offloaded work."""
    package = resource.type.partition(":")[0]
    marks = {**(resource.inputs.get("labels") or {}), **(resource.inputs.get("tags") or {})}
    if package not in values["packages"] and not marks.get(MARK):
        yield f"it is of the package {package}"


@rule(
    id="residency-offload-marked",
    severity=Severity.MEDIUM,
    on=resources(*_POD_KINDS),
    reason="work that leaves the country would look like any other, to us and to the customer",
    remedy=f"run it in a Swiss zone, or label its pod `{MARK}: PLACE`",
    source="guide, Chosen Stack: Swiss-First Hybrid",
    settings=_ZONES,
)
def offload_marked(resource: Resource, values: Mapping[str, Any]) -> Iterator[str]:
    """What is sent to nodes in another zone or region says so with the label `compute-offload`."""
    for place in _places(_pod(resource)):
        if place not in values["zones"] and not _offloaded(resource):
            yield f"it runs in {place} and is not marked"


@rule(
    id="residency-offload-keeps-nothing",
    severity=Severity.HIGH,
    on=resources(*_POD_KINDS),
    reason="what a customer keeps would be abroad, and outlive the work that was sent there",
    remedy="send it what it needs through the API, and have it return the result; give it no volume",
    source="guide, Chosen Stack: Swiss-First Hybrid",
)
def offload_keeps_nothing(resource: Resource) -> Iterator[str]:
    """Work that is marked as offloaded mounts no volume that lasts."""
    if not _offloaded(resource):
        return
    for volume in _pod(resource).get("volumes") or ():
        for kind in (
            "persistentVolumeClaim",
            "dataVolume",
            "ephemeral",
            "hostPath",
            "hostDisk",
            "nfs",
            "csi",
        ):
            if kind in volume:
                yield f"volume {volume.get('name')} lasts ({kind})"
    spec = resource.inputs["spec"]
    if spec.get("volumeClaimTemplates") or spec.get("dataVolumeTemplates"):
        yield "it makes volumes that last"


def _pod(resource: Resource) -> Mapping[str, Any]:
    spec: Any = resource.inputs
    for step in _POD_KINDS[resource.type]:
        spec = spec.get(step) or {}
    return spec  # type: ignore[no-any-return]


def _offloaded(resource: Resource) -> bool:
    """Whether the object, or the pod that it makes, is marked."""
    above: Any = resource.inputs
    for step in _POD_KINDS[resource.type][:-1]:
        above = above.get(step) or {}
    metadata = (resource.metadata, above.get("metadata") or {})
    return any((each.get("labels") or {}).get(MARK) for each in metadata)


def _places(pod: Mapping[str, Any]) -> Iterator[str]:
    """The zones and regions that a pod asks for."""
    selector = pod.get("nodeSelector") or {}
    for key in _TOPOLOGY:
        if key in selector:
            yield selector[key]
    node = (pod.get("affinity") or {}).get("nodeAffinity") or {}
    required = (node.get("requiredDuringSchedulingIgnoredDuringExecution") or {}).get("nodeSelectorTerms")
    preferred = node.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
    for term in [*(required or ()), *(each["preference"] for each in preferred)]:
        for expression in term.get("matchExpressions") or ():
            if expression["key"] in _TOPOLOGY and expression["operator"] == "In":
                yield from expression["values"]


_TOPOLOGY = ("topology.kubernetes.io/zone", "topology.kubernetes.io/region")


def _is_in(endpoint: str, zones: list[str]) -> bool:
    """Whether an S3 endpoint is that of one of `zones`, or on this machine."""
    host = urlsplit(endpoint).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host in {f"sos-{zone}.exo.io" for zone in zones}
