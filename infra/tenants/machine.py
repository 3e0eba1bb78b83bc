"""A tenant's virtual machine.

Whether an active tenant's runs is not declared here: with `RerunOnFailure`, KubeVirt's `start` and `stop`
change its status and not its specification, so an update neither wakes a sleeping tenant nor stops a running
one. That of a tenant that is moving runs for its handover alone. Anybody else's is off, and nothing but the
roster starts it.
"""

import json
from collections.abc import Mapping
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from infra.platform.agent_pods import FOLDER
from infra.platform.network_policies import AGENT_PORT
from infra.platform.services import Services
from infra.tenants import vpn
from infra.tenants.generation import Generation
from infra.tenants.identity import identity_files
from infra.tenants.namespace import labels
from infra.tenants.node_pool import Placement
from infra.tenants.roster import TenantEntry
from infra.tenants.secrets import SERVICE_ACCOUNT
from infra.tenants.workspace import claim_name

_DEVICE = "/dev/disk/by-id/virtio-workspace"
_VIRTIO = {"disk": {"bus": "virtio"}}
_RUN_STRATEGIES = {"active": "RerunOnFailure", "moving": "Manual"}
_IDLE_SECONDS = "agent-platform/idle-seconds"
"""The idle suspender goes by it. On the machine, not in its template: another limit restarts nothing."""


def declare_machine(
    tenant: TenantEntry,
    platform: Services,
    placement: Placement,
    opts: pulumi.ResourceOptions,
) -> pulumi.Resource:
    """Declare the machine, its size and its first instructions."""
    name, size = tenant.id, tenant.size

    def named(object_name: str) -> k8s.meta.v1.ObjectMetaArgsDict:
        return {"name": object_name, "namespace": tenant.dashed, "labels": labels(tenant)}

    generation = Generation(
        f"{name}-generation", pulumi.ResourceOptions(parent=opts.parent, depends_on=opts.depends_on)
    )
    instructions = k8s.core.v1.Secret(
        f"{name}-cloud-init",
        metadata=named("cloud-init"),
        string_data={
            "userdata": identity_files(tenant, platform, generation.value).apply(
                lambda files: _cloud_config(tenant, files)
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
    return k8s.apiextensions.CustomResource(
        f"{name}-machine",
        api_version="kubevirt.io/v1",
        kind="VirtualMachine",
        metadata={**named(tenant.dashed), "annotations": {_IDLE_SECONDS: str(tenant.idle_limit)}},
        spec={
            "runStrategy": _RUN_STRATEGIES.get(tenant.state, "Halted"),
            "instancetype": {
                "kind": "VirtualMachineInstancetype",
                "name": size_name,
            },
            "template": {
                "metadata": {"labels": labels(tenant)},
                "spec": {
                    "architecture": "amd64",
                    **placement.spec,
                    "evictionStrategy": "LiveMigrateIfPossible",
                    "terminationGracePeriodSeconds": 120,
                    "domain": {
                        "machine": {"type": "q35"},
                        **_kernel(tenant, platform),
                        "devices": {
                            "disks": [
                                {"name": "system", **_VIRTIO},
                                {"name": "workspace", "serial": "workspace", **_VIRTIO},
                                {"name": "cloud-init", **_VIRTIO},
                                # KubeVirt puts the account's token on a disk of its own.
                                {"name": "service-account", "serial": "service-account", **_VIRTIO},
                            ],
                            "interfaces": [{"name": "default", "masquerade": {}, "ports": _ports(tenant)}],
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
                            "persistentVolumeClaim": {"claimName": claim_name(tenant)},
                        },
                        {
                            "name": "cloud-init",
                            "cloudInitNoCloud": {"secretRef": {"name": "cloud-init"}},
                        },
                        {
                            "name": "service-account",
                            "serviceAccount": {"serviceAccountName": SERVICE_ACCOUNT},
                        },
                    ],
                },
            },
        },
        opts=pulumi.ResourceOptions.merge(
            opts,
            pulumi.ResourceOptions(
                depends_on=[instructions, instance_type],
                # A machine that runs stays where it is, whatever its specification says; so it starts anew on
                # its other nodes before those go that it was on.
                replace_on_changes=["spec.template.spec.nodeSelector"],
                delete_before_replace=True,
            ),
        ),
    )


def _kernel(tenant: TenantEntry, platform: Services) -> dict[str, Any]:
    """The kernel on the platform's own image, booted without a boot loader; another image's is not known."""
    kernel = platform.machine_kernel
    if kernel is None or tenant.overrides.image:
        return {}
    return {
        "firmware": {
            "kernelBoot": {
                "container": {
                    "image": platform.machine_image,
                    "kernelPath": kernel["path"],
                    "initrdPath": kernel["initrd"],
                },
                "kernelArgs": kernel["arguments"],
            }
        }
    }


def _ports(tenant: TenantEntry) -> list[dict[str, str | int]]:
    """What is let through to the guest."""
    listening = [("agent", "TCP", AGENT_PORT), *([("wireguard", "UDP", vpn.PORT)] if tenant.vpn else [])]
    return [{"name": name, "protocol": protocol, "port": port} for name, protocol, port in listening]


def _cloud_config(tenant: TenantEntry, files: Mapping[str, str]) -> str:
    """What the guest is told at its first boot: who it is and where to ask, and no credential."""
    instructions = {
        "hostname": tenant.dashed,
        "fs_setup": [{"device": _DEVICE, "filesystem": "ext4", "label": "workspace", "overwrite": False}],
        "mounts": [[_DEVICE, "/workspace", "ext4", "defaults,nofail,discard", "0", "2"]],
        "write_files": [
            {"path": path, "permissions": "0644", "content": content}
            for path, content in (
                *((f"{FOLDER}/{name}", content) for name, content in files.items()),
                (vpn.CONFIGURATION, vpn.configuration(tenant)),
            )
            if content
        ],
    }
    # JSON is YAML.
    return "#cloud-config\n" + json.dumps(instructions, indent=1)
