"""A tenant's virtual machine.

Whether an active tenant's runs is not declared here: with `RerunOnFailure`, KubeVirt's `start` and `stop`
change its status and not its specification, so an update neither wakes a sleeping tenant nor stops a running
one. Anybody else's is off, and nothing but the roster starts it.
"""

import json

import pulumi
import pulumi_kubernetes as k8s

from infra.platform.agent_pods import AUTHORITY, FOLDER
from infra.platform.network_policies import AGENT_PORT
from infra.platform.services import Services
from infra.tenants import vpn
from infra.tenants.identity import FILE, identity
from infra.tenants.namespace import labels
from infra.tenants.node_pool import Placement
from infra.tenants.roster import TenantEntry
from infra.tenants.secrets import SERVICE_ACCOUNT
from infra.tenants.workspace import claim_name

_DEVICE = "/dev/disk/by-id/virtio-workspace"
_VIRTIO = {"disk": {"bus": "virtio"}}


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

    instructions = k8s.core.v1.Secret(
        f"{name}-cloud-init",
        metadata=named("cloud-init"),
        string_data={
            "userdata": pulumi.Output.from_input(platform.vault.authority).apply(
                lambda authority: _cloud_config(tenant, identity(tenant, platform.vault), authority)
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
        metadata=named(tenant.dashed),
        spec={
            "runStrategy": "RerunOnFailure" if tenant.state == "active" else "Halted",
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
                        "devices": {
                            "disks": [
                                {"name": "system", **_VIRTIO},
                                {"name": "workspace", "serial": "workspace", **_VIRTIO},
                                {"name": "cloud-init", **_VIRTIO},
                                # KubeVirt puts the account's token on a disk of its own.
                                {"name": "service-account", "serial": "service-account", "disk": {}},
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


def _ports(tenant: TenantEntry) -> list[dict[str, str | int]]:
    """What is let through to the guest."""
    listening = [("agent", "TCP", AGENT_PORT), *([("wireguard", "UDP", vpn.PORT)] if tenant.vpn else [])]
    return [{"name": name, "protocol": protocol, "port": port} for name, protocol, port in listening]


def _cloud_config(tenant: TenantEntry, told: str, authority: str | None) -> str:
    """What the guest is told at its first boot: who it is and where to ask, and no credential."""
    instructions = {
        "hostname": tenant.dashed,
        "fs_setup": [{"device": _DEVICE, "filesystem": "ext4", "label": "workspace", "overwrite": False}],
        "mounts": [[_DEVICE, "/workspace", "ext4", "defaults,nofail,discard", "0", "2"]],
        "write_files": [
            {"path": path, "permissions": "0644", "content": content}
            for path, content in (
                (f"{FOLDER}/{FILE}", told),
                (f"{FOLDER}/{AUTHORITY}", authority),
                (vpn.CONFIGURATION, vpn.configuration(tenant)),
            )
            if content
        ],
    }
    # JSON is YAML.
    return "#cloud-config\n" + json.dumps(instructions, indent=1)
