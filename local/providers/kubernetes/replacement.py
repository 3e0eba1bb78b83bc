"""Which fields of which kinds the API never changes in place: the official plugin's list."""

import re
from collections.abc import Mapping
from typing import Any

from local.providers.kubernetes.manifest import group, is_secret
from local.providers.values import Path

_SELECTOR = ("spec.selector",)
_WORKLOAD = {"DaemonSet": _SELECTOR, "Deployment": _SELECTOR}
_STATEFUL_SET = (
    "spec.podManagementPolicy",
    "spec.revisionHistoryLimit",
    "spec.selector",
    "spec.serviceName",
    "spec.volumeClaimTemplates",
)
_JOB = {"Job": ("spec.completions", "spec.parallelism", "spec.selector", "spec.template")}
_BINDING = {"ClusterRoleBinding": ("roleRef",), "RoleBinding": ("roleRef",)}
_VOLUME_SOURCES = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "glusterfs",
    "hostPath",
    "iscsi",
    "local",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
]
_POD_SPEC = [
    "affinity",
    "automountServiceAccountToken",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "hostAliases",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostname",
    "imagePullSecrets",
    "nodeName",
    "nodeSelector",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates",
    "restartPolicy",
    "runtimeClassName",
    "schedulerName",
    "securityContext",
    "serviceAccount",
    "serviceAccountName",
    "shareProcessNamespace",
    "subdomain",
    "terminationGracePeriodSeconds",
    "volumes",
]
_CONTAINER = [
    "args",
    "command",
    "env",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "ports",
    "readinessProbe",
    "resources",
    "securityContext",
    "stdin",
    "stdinOnce",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeDevices",
    "volumeMounts",
    "workingDir",
]

_FIELDS: Mapping[tuple[str, str], Mapping[str, tuple[str, ...]]] = {
    ("apps", "v1beta1"): {"StatefulSet": _STATEFUL_SET},
    ("apps", "v1beta2"): {**_WORKLOAD, "StatefulSet": _STATEFUL_SET},
    ("apps", "v1"): {**_WORKLOAD, "StatefulSet": _STATEFUL_SET},
    ("policy", "v1beta1"): {"PodDisruptionBudget": ("spec",)},
    ("rbac.authorization.k8s.io", "v1alpha1"): _BINDING,
    ("rbac.authorization.k8s.io", "v1beta1"): _BINDING,
    ("rbac.authorization.k8s.io", "v1"): _BINDING,
    ("storage.k8s.io", "v1"): {"StorageClass": ("parameters", "provisioner")},
    ("batch", "v1beta1"): _JOB,
    ("batch", "v1"): _JOB,
    ("batch", "v2alpha1"): _JOB,
    ("", "v1"): {
        "PersistentVolume": tuple(f"spec.{source}" for source in _VOLUME_SOURCES),
        "PersistentVolumeClaim": (
            "spec.accessModes",
            "spec.selector",
            "spec.storageClassName",
            "spec.volumeName",
        ),
        "Pod": (
            *(f"spec.{field}" for field in _POD_SPEC),
            *(f"spec.containers.{field}" for field in _CONTAINER),
            *(f"spec.initContainers.{field}" for field in _CONTAINER),
        ),
        "ResourceQuota": ("spec.scopes",),
        "Secret": ("type",),
        "Service": ("spec.clusterIP",),
    },
}

IDENTITY = ("metadata.name", "metadata.namespace")
"""An object under another name is another object."""


def fields(manifest: Mapping[str, Any], *, secret_mutable: bool, config_map_mutable: bool) -> tuple[str, ...]:
    """The fields of an object whose change means a new object."""
    version = str(manifest.get("apiVersion", "")).rpartition("/")[2]
    by_kind = _FIELDS.get((group(manifest), version))
    if by_kind is None:
        return IDENTITY
    immutable = manifest.get("immutable") is True
    if is_secret(manifest) and (not secret_mutable or immutable):
        return (*IDENTITY, "type", "stringData", "data")
    kind = str(manifest.get("kind"))
    if kind == "ConfigMap" and group(manifest) == "" and (not config_map_mutable or immutable):
        return (*IDENTITY, "binaryData", "data")
    return (*IDENTITY, *by_kind.get(kind, ()))


def replaces(path: Path, fields: tuple[str, ...]) -> bool:
    """Whether a change at `path` is one of these fields, in one, or takes one away with it."""
    dotted = ".".join(step for step in path if isinstance(step, str))
    return any(_within(dotted, field) or _within(field, dotted) for field in fields)


def _within(inner: str, outer: str) -> bool:
    return re.match(rf"{re.escape(outer)}(\.|$)", inner) is not None
