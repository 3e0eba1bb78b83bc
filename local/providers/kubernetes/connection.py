"""The way to the cluster, found at the first use and kept: a preview may have no cluster to ask."""

import threading
from functools import cached_property
from typing import Any

from local.providers.kubernetes import settings as configuration
from local.providers.kubernetes.cluster import Cluster, NoMatchError, UnreachableError
from local.providers.kubernetes.manifest import BUILT_IN, Manifest, group
from local.providers.kubernetes.settings import KubeconfigError, Settings
from local.providers.provider import ProviderError

_CLUSTER_WIDE = frozenset(
    {
        "APIService",
        "CSIDriver",
        "CSINode",
        "CertificateSigningRequest",
        "ClusterRole",
        "ClusterRoleBinding",
        "ClusterTrustBundle",
        "CustomResourceDefinition",
        "DeviceClass",
        "FlowSchema",
        "IPAddress",
        "IngressClass",
        "MutatingAdmissionPolicy",
        "MutatingAdmissionPolicyBinding",
        "MutatingWebhookConfiguration",
        "Namespace",
        "Node",
        "PersistentVolume",
        "PriorityClass",
        "PriorityLevelConfiguration",
        "ResourceSlice",
        "RuntimeClass",
        "ServiceCIDR",
        "StorageClass",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "ValidatingWebhookConfiguration",
        "VolumeAttachment",
        "VolumeAttributesClass",
    }
)


class Connection:
    """One configured provider: its settings, its cluster, and what can be said without asking the cluster."""

    def __init__(self, settings: Settings) -> None:
        """Opens no connection."""
        self.settings = settings
        self._lock = threading.Lock()
        self._opened: Cluster | None = None
        self._reason = ""
        self._declared: dict[tuple[str, str], bool] = {}

    @property
    def cluster(self) -> Cluster:
        """The cluster. Raises `UnreachableError` with what stands in the way."""
        if self._opened is None:
            with self._lock:
                if self._opened is None and not self._reason:
                    self._open()
        if self._opened is None:
            raise UnreachableError(f"configured Kubernetes cluster is unreachable: {self._reason}")
        return self._opened

    @property
    def unreachable(self) -> str:
        """Why there is no cluster to talk to; empty when there is one."""
        try:
            self.cluster  # noqa: B018 - opens it
        except UnreachableError:
            return self._reason
        return ""

    def _open(self) -> None:
        if isinstance(self._document, KubeconfigError):
            self._reason = (
                f"failed to parse kubeconfig data in `kubernetes:config:kubeconfig`- {self._document}"
            )
            return
        document = configuration.with_cluster(self._document, self.settings)
        try:
            cluster = Cluster(document, self.settings.context or None)
        except UnreachableError as error:
            self._reason = f"unable to load Kubernetes client configuration from kubeconfig file: {error}"
            return
        try:
            cluster.version()
        except ProviderError as error:
            self._reason = f"unable to load schema information from the API server: {error}"
            return
        self._opened = cluster

    @cached_property
    def _document(self) -> dict[str, Any] | KubeconfigError:
        try:
            return configuration.kubeconfig(self.settings.kubeconfig)
        except KubeconfigError as error:
            return error

    @cached_property
    def default_namespace(self) -> str:
        """Where objects go that do not say."""
        if self.settings.namespace or isinstance(self._document, KubeconfigError):
            return self.settings.namespace
        context = configuration.active_context(self._document, self.settings)
        return str(context.get("namespace") or "default")

    def declare(self, definition: Manifest) -> None:
        """Take note of a definition that the program makes: its kind may not be served yet."""
        spec = definition.get("spec", {})
        kind = spec.get("names", {}).get("kind")
        if isinstance(kind, str) and isinstance(spec.get("group"), str):
            self._declared[spec["group"], kind] = spec.get("scope") != "Cluster"

    def namespaced(self, manifest: Manifest) -> bool:
        """Whether its kind lies in namespaces; a kind that nobody knows is taken to."""
        kind = str(manifest.get("kind"))
        if group(manifest) in BUILT_IN:
            return kind not in _CLUSTER_WIDE
        declared = self._declared.get((group(manifest), kind))
        if declared is not None:
            return declared
        try:
            return self.cluster.kind(manifest).namespaced
        except (NoMatchError, UnreachableError):
            return True

    def serves(self, manifest: Manifest) -> bool:
        """Whether the cluster can be asked about such an object now."""
        try:
            self.cluster.kind(manifest)
        except (NoMatchError, UnreachableError):
            return False
        return True
