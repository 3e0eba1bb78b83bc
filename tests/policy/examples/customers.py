"""A tenant on a scene, as the program declares one: registered first, everything below its component."""

from collections.abc import Mapping
from typing import Any

import pulumi

from policy.tenants import NAMESPACE, REGISTRATION
from tests.policy.scene import Scene

MACHINE = "kubevirt.io/v1:VirtualMachine"
SIZE = "instancetype.kubevirt.io/v1beta1:VirtualMachineInstancetype"
CLAIM = "core/v1:PersistentVolumeClaim"
POLICY = "networking.k8s.io/v1:NetworkPolicy"
NODE_POOL = "exoscale:index/sksNodepool:SksNodepool"


class Customer:
    """A tenant of the scene's own id."""

    def __init__(self, scene: Scene, tier: str, **registered: Any) -> None:
        """Declare the component and its registration; `registered` is what differs in the latter's inputs."""
        self.id = scene.tenant_id
        self.namespace = f"tenant-{self.id}"
        self.tier = tier
        self._scene = scene
        self._component = scene.tenant()
        said = {
            "tenant": self.id,
            "tier": tier,
            "state": "active",
            "workspaceGib": 0,
            "discard": [],
            "claims": [],
        }
        self.declare(REGISTRATION, {**said, **registered}, suffix="registration", protect=True)

    @property
    def labels(self) -> dict[str, str]:
        """What every object of the tenant carries."""
        return {"tenant-id": self.id, "tier": self.tier}

    def declare(self, token: str, inputs: Mapping[str, Any], **options: Any) -> pulumi.CustomResource:
        """Declare a resource of the tenant."""
        return self._scene.declare(token, inputs, parent=self._component, **options)

    def has(
        self,
        token: str,
        inputs: Mapping[str, Any],
        *,
        metadata: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> pulumi.CustomResource:
        """Declare a Kubernetes object of the tenant, in its namespace, under its labels."""
        own = {"namespace": self.namespace, "labels": self.labels, **(metadata or {})}
        return self._scene.kubernetes(token, inputs, parent=self._component, metadata=own, **options)

    def has_namespace(self, *, name: str = "", protect: bool = False) -> pulumi.CustomResource:
        """Declare the namespace."""
        metadata = {"name": name or self.namespace, "namespace": None}
        token = NAMESPACE.removeprefix("kubernetes:")
        return self.has(token, {}, metadata=metadata, suffix="namespace", protect=protect)

    def has_machine(self, *, spec: Mapping[str, Any] | None = None, **pod: Any) -> pulumi.CustomResource:
        """Declare the machine; `spec` is what differs in its specification, `pod` in its pod's."""
        template = {"metadata": {"labels": self.labels}, "spec": {"domain": {"devices": {}}, **pod}}
        inputs = {"spec": {"runStrategy": "RerunOnFailure", "template": template, **(spec or {})}}
        return self.has(MACHINE, inputs, suffix="machine")

    def has_volume(self, storage_class: str | None = "workspace-encrypted", **options: Any) -> None:
        """Declare the workspace's claim."""
        spec = {"storageClassName": storage_class, "resources": {"requests": {"storage": "20Gi"}}}
        name = {"name": f"workspace-{self.id}"}
        self.has(CLAIM, {"spec": spec}, metadata=name, suffix="workspace", **{"protect": True, **options})

    def has_nodes(self, **changed: Any) -> pulumi.CustomResource:
        """Declare the node pool."""
        mark = {"tenant-id": self.id}
        taints = {key: f"{value}:NoSchedule" for key, value in mark.items()}
        pool = {"clusterId": "sks", "instanceType": "standard.large", "size": 2, "zone": "ch-gva-2"}
        marked = {"labels": mark, "taints": taints, "antiAffinityGroupIds": ["apart"]}
        return self.declare(NODE_POOL, {"name": self.namespace, **pool, **marked, **changed}, suffix="nodes")
