"""Pods: what a container may do to its node, to other pods, and with the API's tokens.

The `restricted` standard of Kubernetes and what it leaves out. Pods stand in many kinds; every rule looks
into all of them. What a Helm chart renders, the engine never sees: those pods its namespace's standard holds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policy.rules import Selection, Severity, resources, rule
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

    spec: Mapping[str, Any]

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
        """Its own security context."""
        return self.spec.get("securityContext") or {}

    def inherited(self, setting: str) -> Any:
        """A setting of its own security context, or else of its pod's."""
        own = self.security.get(setting)
        return self.pod.security.get(setting) if own is None else own


def _pods(resource: Resource) -> Iterator[Pod]:
    spec: Any = resource.inputs
    for step in _TEMPLATES[resource.type]:
        spec = spec.get(step) or {}
    yield Pod(spec)


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
    id="pods-in-sight",
    severity=Severity.HIGH,
    on=Selection(lambda type_: type_.startswith("kubernetes:"), lambda resource: (resource,)),
    reason="what the object becomes no rule sees, for pods or for anything else",
    remedy="declare each object whole and by itself",
    source="https://kubernetes.io/docs/reference/using-api/server-side-apply/",
)
def in_sight(resource: Resource) -> Iterator[str]:
    """No object is declared as a patch of another, or as one of a list."""
    kind = resource.type.rpartition(":")[2]
    if kind.endswith(("Patch", "List")):
        yield f"it is a {kind}"


@rule(
    id="pods-no-privileged",
    severity=Severity.CRITICAL,
    on=containers,
    reason="a privileged container is root on its node, and so over every tenant there",
    remedy="leave `privileged` out",
    source=_STANDARDS,
)
def no_privileged(container: Container) -> Iterator[str]:
    """No container is privileged."""
    if container.security.get("privileged"):
        yield f"container {container.name} is privileged"


@rule(
    id="pods-no-host-namespaces",
    severity=Severity.CRITICAL,
    on=pods,
    reason="it sees the traffic, processes or memory of everything on its node",
    remedy="leave hostNetwork, hostPID and hostIPC out",
    source=_STANDARDS,
)
def no_host_namespaces(pod: Pod) -> Iterator[str]:
    """No pod shares its node's network, processes or memory."""
    for setting in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.spec.get(setting):
            yield f"{setting} is on"


@rule(
    id="pods-no-host-path",
    severity=Severity.CRITICAL,
    on=pods,
    reason="whoever writes there owns the node, and whoever reads there sees other tenants' files",
    remedy="use an emptyDir, a volume claim, a ConfigMap or a Secret",
    source=_STANDARDS,
)
def no_host_path(pod: Pod) -> Iterator[str]:
    """No pod mounts a folder of its node."""
    for volume in pod.spec.get("volumes") or ():
        if volume.get("hostPath"):
            yield f"volume {volume.get('name')} is a folder of the node"


@rule(
    id="pods-no-capabilities",
    severity=Severity.HIGH,
    on=containers,
    reason="a capability is a part of root, and an agent runs code that nobody has read",
    remedy='write capabilities: {drop: ["ALL"]}, and add NET_BIND_SERVICE at most',
    source=_STANDARDS,
)
def no_capabilities(container: Container) -> Iterator[str]:
    """Every container drops all capabilities, and takes back none but NET_BIND_SERVICE."""
    capabilities = container.security.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or ()):
        yield f"container {container.name} keeps capabilities that it has by default"
    for added in capabilities.get("add") or ():
        if added != "NET_BIND_SERVICE":
            yield f"container {container.name} adds {added}"


@rule(
    id="pods-not-as-root",
    severity=Severity.HIGH,
    on=containers,
    reason="root in a container is root on the node as soon as one bug lets it out",
    remedy="write runAsNonRoot: true, and a runAsUser other than 0 where the image names none",
    source=_STANDARDS,
)
def not_as_root(container: Container) -> Iterator[str]:
    """No container runs as root, by its own setting or its pod's."""
    if container.inherited("runAsNonRoot") is not True:
        yield f"container {container.name} may run as root"
    if container.inherited("runAsUser") == 0:
        yield f"container {container.name} runs as user 0"


@rule(
    id="pods-seccomp",
    severity=Severity.MEDIUM,
    on=containers,
    reason="it may make every system call there is, and that is the way out of a container",
    remedy="write seccompProfile: {type: RuntimeDefault} for the pod",
    source=_STANDARDS,
)
def seccomp(container: Container) -> Iterator[str]:
    """Every container has a seccomp profile, its own or its pod's."""
    profile = container.inherited("seccompProfile") or {}
    if profile.get("type") not in ("RuntimeDefault", "Localhost"):
        yield f"container {container.name} has no seccomp profile"


@rule(
    id="pods-no-escalation",
    severity=Severity.HIGH,
    on=containers,
    reason="a setuid program in the image makes whoever runs it root",
    remedy="write allowPrivilegeEscalation: false",
    source=_STANDARDS,
)
def no_escalation(container: Container) -> Iterator[str]:
    """No process gains more rights than its parent."""
    if container.security.get("allowPrivilegeEscalation") is not False:
        yield f"container {container.name} may gain rights by escalation"


@rule(
    id="pods-read-only-root",
    severity=Severity.MEDIUM,
    on=containers,
    reason="whoever gets in can change the programs that run next",
    remedy="write readOnlyRootFilesystem: true, and mount an emptyDir where it has to write",
    source="https://kubernetes.io/docs/concepts/security/security-checklist/",
)
def read_only_root(container: Container) -> Iterator[str]:
    """No container can write where its programs are."""
    if container.security.get("readOnlyRootFilesystem") is not True:
        yield f"container {container.name} can write to its root file system"


@rule(
    id="pods-resources",
    severity=Severity.MEDIUM,
    on=containers,
    reason="without a limit it starves its node's other tenants, and without requests it is the first to die",
    remedy="write resources.requests (cpu, memory) and resources.limits.memory",
    source="https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/",
)
def bounded(container: Container) -> Iterator[str]:
    """Every container says what it needs and where it ends; a limit on CPU is the namespace's affair."""
    wanted = container.spec.get("resources") or {}
    for kind, names in (("requests", ("cpu", "memory")), ("limits", ("memory",))):
        for name in names:
            if not (wanted.get(kind) or {}).get(name):
                yield f"container {container.name} has no resources.{kind}.{name}"


@rule(
    id="pods-no-token",
    severity=Severity.MEDIUM,
    on=pods,
    reason="every process in it can talk to the Kubernetes API with the account's rights",
    remedy="write automountServiceAccountToken: false; where one is needed, project a token of one audience",
    source="https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/",
)
def no_token(pod: Pod) -> Iterator[str]:
    """No pod gets a token for the API without having asked."""
    if pod.spec.get("automountServiceAccountToken") is not False:
        yield "every container is given the service account's token"


@rule(
    id="pods-account-without-token",
    severity=Severity.MEDIUM,
    on=resources("kubernetes:core/v1:ServiceAccount"),
    reason="every pod under this account that does not refuse it is given a token for the API",
    remedy="write automountServiceAccountToken: false; a pod that needs the token asks for it",
    source="https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/",
)
def account_without_token(account: Resource) -> Iterator[str]:
    """No service account hands its token out unasked."""
    if account.inputs.get("automountServiceAccountToken") is not False:
        yield "its token goes to every pod under it"
