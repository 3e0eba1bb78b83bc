"""A tenant's virtual machine.

Whether it runs is not declared here: with `RerunOnFailure`, KubeVirt's `start` and `stop` change its status
and not its specification, so an update neither wakes a sleeping tenant nor stops a running one.
"""

import json

import pulumi
import pulumi_kubernetes as k8s

from infra.platform.platform import Platform
from infra.tenants.roster import TenantEntry
from infra.tenants.secrets import OBJECT_STORAGE
from infra.tenants.workspace import Workspace, labels

_IDENTITY = "/etc/agent-platform/identity.json"
_AUTHORITY = "/etc/agent-platform/vault-ca.pem"
"""What the guest verifies Vault by; without it, by what its system trusts."""
_DEVICE = "/dev/disk/by-id/virtio-workspace"
_VIRTIO = {"disk": {"bus": "virtio"}}


def declare_machine(
    tenant: TenantEntry,
    platform: Platform,
    workspace: Workspace,
    opts: pulumi.ResourceOptions,
) -> None:
    """Declare the machine, its size and its first instructions."""
    name, size = tenant.id, tenant.size

    def named(object_name: str) -> k8s.meta.v1.ObjectMetaArgsDict:
        return {"name": object_name, "namespace": workspace.namespace, "labels": labels(tenant)}

    instructions = k8s.core.v1.Secret(
        f"{name}-cloud-init",
        metadata=named("cloud-init"),
        string_data={
            "userdata": pulumi.Output.from_input(platform.vault.authority).apply(
                lambda authority: _cloud_config(tenant, platform.vault.address, authority)
            )
        },
        opts=opts,
    )
    # KubeVirt keeps what an instance type said when a machine first took it, so another size needs another
    # name.
    size_name = f"cpu{size.cpu}-memory{size.memory_gib}"
    instance_type = k8s.apiextensions.CustomResource(
        f"{name}-size",
        api_version="instancetype.kubevirt.io/v1beta1",
        kind="VirtualMachineInstancetype",
        metadata=named(size_name),
        spec={"cpu": {"guest": size.cpu}, "memory": {"guest": f"{size.memory_gib}Gi"}},
        opts=opts,
    )
    k8s.apiextensions.CustomResource(
        f"{name}-machine",
        api_version="kubevirt.io/v1",
        kind="VirtualMachine",
        metadata=named(tenant.dashed),
        spec={
            "runStrategy": "RerunOnFailure",
            "instancetype": {
                "kind": "VirtualMachineInstancetype",
                "name": size_name,
            },
            "template": {
                "metadata": {"labels": labels(tenant)},
                "spec": {
                    "architecture": "amd64",
                    "evictionStrategy": "LiveMigrateIfPossible",
                    "terminationGracePeriodSeconds": 120,
                    "domain": {
                        "machine": {"type": "q35"},
                        "devices": {
                            "disks": [
                                {"name": "system", **_VIRTIO},
                                {"name": "workspace", "serial": "workspace", **_VIRTIO},
                                {"name": "cloud-init", **_VIRTIO},
                                # KubeVirt puts the account's token on a disk of its own.
                                {"name": "service-account", "serial": "service-account", "disk": {}},
                            ],
                            "interfaces": [{"name": "default", "masquerade": {}}],
                            "rng": {},
                        },
                    },
                    "networks": [{"name": "default", "pod": {}}],
                    "volumes": [
                        {
                            "name": "system",
                            "containerDisk": {"image": tenant.overrides.image or platform.machine_image},
                        },
                        {
                            "name": "workspace",
                            "persistentVolumeClaim": {"claimName": workspace.volume_claim},
                        },
                        {
                            "name": "cloud-init",
                            "cloudInitNoCloud": {"secretRef": {"name": instructions.metadata.name}},
                        },
                        {
                            "name": "service-account",
                            "serviceAccount": {"serviceAccountName": workspace.service_account},
                        },
                    ],
                },
            },
        },
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=[instance_type])),
    )


def _cloud_config(tenant: TenantEntry, vault: str, authority: str | None) -> str:
    """What the guest is told at its first boot: who it is and where to ask, and no credential."""
    identity = {
        "tenant": tenant.id,
        "tier": tenant.tier,
        "vault": {
            "address": vault,
            "authority": _AUTHORITY if authority else None,
            "authentication": {"path": "auth/kubernetes", "role": tenant.dashed},
            "secrets": f"tenants/{tenant.id}",
            "objectStorage": f"tenants/{tenant.id}/{OBJECT_STORAGE}",
            "databaseLogin": f"database/creds/{tenant.dashed}",
        },
    }
    instructions = {
        "hostname": tenant.dashed,
        "fs_setup": [{"device": _DEVICE, "filesystem": "ext4", "label": "workspace", "overwrite": False}],
        "mounts": [[_DEVICE, "/workspace", "ext4", "defaults,nofail,discard", "0", "2"]],
        "write_files": [
            {"path": path, "permissions": "0644", "content": content}
            for path, content in ((_IDENTITY, json.dumps(identity)), (_AUTHORITY, authority))
            if content
        ],
    }
    # JSON is YAML.
    return "#cloud-config\n" + json.dumps(instructions, indent=1)
