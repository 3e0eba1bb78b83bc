"""Pods: what a container may do to its node, to other pods, and with the API's tokens.

Pods stand in many kinds; every rule here looks into all of them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policy.rules import Selection, exceptions, is_allowed, rule
from policy.subjects import Resource

_STANDARDS = "https://kubernetes.io/docs/concepts/security/pod-security-standards/"

_TEMPLATES = {
    "kubernetes:core/v1:Pod": ("spec",),
    "kubernetes:core/v1:PodTemplate": ("template", "spec"),
    "kubernetes:core/v1:ReplicationController": ("spec", "template", "spec"),
    "kubernetes:apps/v1:Deployment": ("spec", "template", "spec"),
    "kubernetes:apps/v1:ReplicaSet": ("spec", "template", "spec"),
    "kubernetes:apps/v1:StatefulSet": ("spec", "template", "spec"),
    "kubernetes:apps/v1:DaemonSet": ("spec", "template", "spec"),
    "kubernetes:batch/v1:Job": ("spec", "template", "spec"),
    "kubernetes:batch/v1:CronJob": ("spec", "jobTemplate", "spec", "template", "spec"),
}
"""Where each kind keeps its pod's specification."""


@dataclass(frozen=True)
class Pod:
    """A pod's specification, in whatever kind it stands."""

    resource: Resource
    spec: Mapping[str, Any]

    @property
    def workload(self) -> str:
        """NAMESPACE/NAME of the object, as exceptions name it."""
        return f"{self.resource.namespace}/{self.resource.object_name}"

    @property
    def security(self) -> Mapping[str, Any]:
        """Its security context."""
        return self.spec.get("securityContext") or {}


@dataclass(frozen=True)
class Container:
    """A container of a pod: an ordinary one, one that runs first, or one added to look into it."""

    pod: Pod
    spec: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Unique in its pod."""
        return str(self.spec.get("name"))

    @property
    def security(self) -> Mapping[str, Any]:
        """Its own security context, over its pod's."""
        return self.spec.get("securityContext") or {}


def _pods(resource: Resource) -> Iterator[Pod]:
    spec: Any = resource.inputs
    for step in _TEMPLATES[resource.type]:
        spec = spec.get(step) or {}
    yield Pod(resource, spec)


def _containers(resource: Resource) -> Iterator[Container]:
    for pod in _pods(resource):
        for kind in ("initContainers", "containers", "ephemeralContainers"):
            for spec in pod.spec.get(kind) or ():
                yield Container(pod, spec)


pods = Selection(_TEMPLATES.__contains__, _pods)
"""The pod's specification in each kind that has one."""

containers = Selection(_TEMPLATES.__contains__, _containers)
"""Each container in each such specification."""


@rule(
    id="pods-no-privileged",
    on=containers,
    reason="a privileged container is root on its node, and so over every tenant there",
    remedy="leave `privileged` out, or name the workload (NAMESPACE/NAME) in this rule's `allowed`",
    source=_STANDARDS,
    settings=exceptions("NAMESPACE/NAME of a workload"),
)
def no_privileged(container: Container, values: Mapping[str, Any]) -> Iterator[str]:
    """No privileged container."""
    if container.security.get("privileged") and not is_allowed(values, container.pod.workload):
        yield f"container {container.name} is privileged"
