"""How agents run in pods: alike in the runtime that tenants share and in a Deployment of a tenant's own."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pulumi
import pulumi_kubernetes as k8s

from infra.platform.network_policies import AGENT_PORT
from infra.platform.service_pods import probe
from infra.platform.vault import AUDIENCE, Vault

SCRATCH_GIB = 10
"""Room for temporary files in GiB, gone with the pod: what lasts is in the prefix."""

FOLDER = "/etc/agent-platform"
AUTHORITY = "vault-ca.pem"
"""What Vault is verified by; without it, by what the system trusts."""
GATEWAY_AUTHORITY = "gateway-ca.pem"
"""What the gateway is verified by, likewise."""
DATABASE_AUTHORITY = "database-ca.pem"
"""The certificate of the platform's own authority, where PostgreSQL is verified by it."""
_COMMAND = ["python3", "-m", "services.agent_runtime"]
_TOKEN = "/var/run/secrets/vault"  # noqa: S105 — a folder, not a token
_USER = 65532


@dataclass(frozen=True, kw_only=True)
class AgentPod:
    """One kind of pod: what differs between them."""

    image: str
    service_account: str
    configuration: str
    """The ConfigMap whose files the agent finds in `/etc/agent-platform`."""
    cpu: int
    memory_gib: int
    logs_in: bool = True
    """Its account enters Vault."""
    environment: Mapping[str, pulumi.Input[str]] = field(default_factory=dict)
    """Further environment variables, by name."""

    def spec(self, vault: Vault) -> k8s.core.v1.PodSpecArgsDict:
        """The pod's specification, within the pod security standard `restricted`.

        All that was sold is both requested and the limit: the scheduler sets it aside, nobody takes more.
        """
        amounts = {
            "cpu": str(self.cpu),
            "memory": f"{self.memory_gib}Gi",
            "ephemeral-storage": f"{SCRATCH_GIB}Gi",
        }
        environment: dict[str, pulumi.Input[str]] = {
            "VAULT_ADDR": vault.address,
            "TMPDIR": "/tmp",  # noqa: S108 — a volume of the pod's own
            **({"VAULT_TOKEN_FILE": f"{_TOKEN}/token"} if self.logs_in else {}),
            **self.environment,
        }
        if vault.authority:
            environment["VAULT_CACERT"] = f"{FOLDER}/{AUTHORITY}"
        return {
            "service_account_name": self.service_account,
            # The API server has nothing to tell an agent; Vault gets a token of its own, below.
            "automount_service_account_token": False,
            "enable_service_links": False,
            "security_context": {
                "run_as_non_root": True,
                "run_as_user": _USER,
                "run_as_group": _USER,
                "fs_group": _USER,
                "seccomp_profile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "agent",
                    "image": self.image,
                    "command": _COMMAND,
                    "ports": [{"name": "http", "container_port": AGENT_PORT}],
                    "env": [
                        _OWN_ADDRESS,
                        *(_variable(name, value) for name, value in environment.items()),
                    ],
                    "security_context": {
                        "allow_privilege_escalation": False,
                        "read_only_root_filesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "resources": {"requests": amounts, "limits": amounts},
                    "startup_probe": {
                        **probe("/livez", "http"),
                        "failure_threshold": 30,
                        "period_seconds": 2,
                    },
                    "liveness_probe": probe("/livez", "http"),
                    "readiness_probe": probe("/readyz", "http"),
                    "volume_mounts": [
                        {"name": "configuration", "mount_path": FOLDER, "read_only": True},
                        *([_TOKEN_MOUNT] if self.logs_in else []),
                        {"name": "scratch", "mount_path": "/tmp"},  # noqa: S108
                    ],
                }
            ],
            "volumes": [
                {"name": "configuration", "config_map": {"name": self.configuration}},
                *([_TOKEN_VOLUME] if self.logs_in else []),
                {"name": "scratch", "empty_dir": {"size_limit": f"{SCRATCH_GIB}Gi"}},
            ],
        }


_OWN_ADDRESS: k8s.core.v1.EnvVarArgsDict = {
    "name": "POD_IP",
    "value_from": {"field_ref": {"field_path": "status.podIP"}},
}
"""Where it listens."""
_TOKEN_MOUNT: k8s.core.v1.VolumeMountArgsDict = {
    "name": "vault-token",
    "mount_path": _TOKEN,
    "read_only": True,
}
_TOKEN_VOLUME: k8s.core.v1.VolumeArgsDict = {
    "name": "vault-token",
    "projected": {
        "sources": [
            {
                "service_account_token": {
                    "audience": AUDIENCE,
                    "expiration_seconds": 3600,
                    "path": "token",
                }
            }
        ]
    },
}


def _variable(name: str, value: pulumi.Input[str]) -> k8s.core.v1.EnvVarArgsDict:
    return {"name": name, "value": value}
