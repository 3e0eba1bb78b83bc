"""KubeVirt: virtual machines as Kubernetes objects.

The operator's manifest is vendored: it is generated from KubeVirt's own Go module at the pinned version and
holds the namespace `kubevirt`, the operator, its rights and its CRD. What it runs is declared below.
"""

from pathlib import Path

import pulumi
import pulumi_kubernetes as k8s

from infra.platform.manifest import declare
from infra.platform.tenant_nodes import TOLERATION
from infra.settings import ManagedKubeVirt

VERSION = "1.8.4"
"""Also the version of the embedded platform's control plane."""

_MANIFEST = Path(__file__).parent / "manifests" / f"kubevirt-operator-v{VERSION}.yaml"


def install_kubevirt(prefix: str, wanted: ManagedKubeVirt, opts: pulumi.ResourceOptions) -> pulumi.Resource:
    """Install the operator and have it run KubeVirt.

    Returns:
        What a virtual machine has to wait for.
    """
    operator = declare(f"{prefix}-operator", _MANIFEST, opts)
    return k8s.apiextensions.CustomResource(
        prefix,
        api_version="kubevirt.io/v1",
        kind="KubeVirt",
        metadata={
            "name": "kubevirt",
            "namespace": "kubevirt",
            "annotations": {"pulumi.com/waitFor": "condition=Available"},
        },
        spec={
            "imagePullPolicy": "IfNotPresent",
            # Left out, they would run on control-plane nodes only, of which SKS shows none.
            "infra": {"replicas": 2, "nodePlacement": {"nodeSelector": {"kubernetes.io/os": "linux"}}},
            # Its handler has to be on tenants' own nodes, too.
            "workloads": {
                "nodePlacement": {
                    "nodeSelector": {"kubernetes.io/os": "linux"},
                    "tolerations": [TOLERATION],
                }
            },
            # An update of KubeVirt never restarts a tenant's machine; it takes effect at the next start.
            "workloadUpdateStrategy": {"workloadUpdateMethods": []},
            "configuration": {
                "developerConfiguration": {
                    "useEmulation": wanted.allow_emulation,
                    # ExpandDisks: a guest sees its workspace grow with the tier, without a restart.
                    "featureGates": ["ExpandDisks"],
                },
            },
        },
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=operator)),
    )
