"""The pods of the platform's own services: the common part of the gateway and of the jobs of each minute."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from infra.platform.redis import Credentials, Redis

Source = Mapping[str, Any]
"""Where a volume's files come from, as in the API but for the volume's name."""

LABELS: Mapping[str, str] = {"app.kubernetes.io/part-of": "agent-platform"}
_USER = 65532
_KUBERNETES = "/var/run/secrets/kubernetes.io/serviceaccount"
_REDIS = "/etc/redis"
_AUTHORITY = "ca.crt"
_PASSWORD = "password"  # noqa: S105 — a file's name
_READ_BY_GROUP = 0o440
_CONFINED: Mapping[str, Any] = {
    "allow_privilege_escalation": False,
    "read_only_root_filesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """A second container of a service's pod, of the same image."""

    name: str
    requests: Mapping[str, str]
    memory_limit: str
    container: Mapping[str, Any]
    """Its other fields: command, ports, probes."""
    files: Mapping[str, Source]
    """Its volumes, by the folder in which it finds them; those that the service has as well are the same."""
    shared: str
    """The folder in memory in which both meet."""


@dataclass(frozen=True, kw_only=True)
class ServicePod:
    """One service's pod: what differs between them."""

    name: str
    """Of its container and its account; its label `app.kubernetes.io/name`."""
    image: str
    module: str
    """The Python module that its container runs."""
    requests: Mapping[str, str]
    memory_limit: str

    @property
    def selected(self) -> Mapping[str, str]:
        """What its pods are selected by."""
        return {"app.kubernetes.io/name": self.name}

    @property
    def labels(self) -> Mapping[str, str]:
        """What its objects are labelled with."""
        return {**self.selected, **LABELS}

    def spec(
        self,
        redis: Redis,
        *,
        environment: Mapping[str, pulumi.Input[str]],
        files: Mapping[str, Source],
        container: Mapping[str, Any],
        sidecar: Sidecar | None = None,
    ) -> k8s.core.v1.PodSpecArgsDict:
        """The pod's specification, with ways into Redis and the Kubernetes API; otherwise as `bare`."""
        return self.bare(
            environment={**_redis_environment(self.name, redis), **environment},
            files={**kubernetes_files(), _REDIS: _redis_files(self.name), **files},
            container=container,
            sidecar=sidecar,
        )

    def bare(
        self,
        *,
        environment: Mapping[str, pulumi.Input[str]],
        files: Mapping[str, Source],
        container: Mapping[str, Any] = MappingProxyType({}),
        sidecar: Sidecar | None = None,
    ) -> k8s.core.v1.PodSpecArgsDict:
        """The pod's specification, within the pod security standard `restricted`; it writes nowhere.

        `files` are volumes by the folder in which the container finds them; `container` adds to it. What a
        `sidecar` shares with it may be written by both.
        """
        named: list[k8s.core.v1.EnvVarArgsDict] = [
            {"name": name, "value": value} for name, value in environment.items()
        ]
        complete: Any = {
            "name": self.name,
            "image": self.image,
            "command": ["python3", "-m", self.module],
            "security_context": _CONFINED,
            "resources": {"requests": self.requests, "limits": {"memory": self.memory_limit}},
            **container,
            "env": [*named, *container.get("env", ())],
            "volume_mounts": _mounts(files, sidecar),
        }
        volumes = {**files, **(sidecar.files if sidecar else {})}
        if sidecar:
            volumes[sidecar.shared] = {"empty_dir": {"medium": "Memory", "size_limit": "1Mi"}}
        return {
            "service_account_name": self.name,
            # Not the account's ordinary token, but one of an hour that is bound to the pod, below.
            "automount_service_account_token": False,
            "enable_service_links": False,
            "security_context": {
                "run_as_non_root": True,
                "run_as_user": _USER,
                "run_as_group": _USER,
                "fs_group": _USER,
                "seccomp_profile": {"type": "RuntimeDefault"},
            },
            "containers": [complete],
            "init_containers": [self._beside(sidecar)] if sidecar else [],
            "volumes": [_volume(_volume_name(folder), source) for folder, source in volumes.items()],
        }

    def _beside(self, sidecar: Sidecar) -> Any:
        """A container that Kubernetes starts before the service's own and ends after it."""
        return {
            "name": sidecar.name,
            "image": self.image,
            "restart_policy": "Always",
            "security_context": _CONFINED,
            "resources": {"requests": sidecar.requests, "limits": {"memory": sidecar.memory_limit}},
            **sidecar.container,
            "volume_mounts": _mounts(sidecar.files, sidecar),
        }


def redis_credentials(
    prefix: str,
    pod: ServicePod,
    namespace: str,
    redis: Redis,
    credentials: Credentials,
    opts: pulumi.ResourceOptions,
) -> list[pulumi.Resource]:
    """Declare what the pod enters Redis with: its password, and the authority that it trusts."""
    name = f"{pod.name}-redis"
    metadata: k8s.meta.v1.ObjectMetaArgsDict = {"name": name, "namespace": namespace, "labels": pod.labels}
    return [
        k8s.core.v1.Secret(
            f"{prefix}-redis", metadata=metadata, string_data={_PASSWORD: credentials.password}, opts=opts
        ),
        k8s.core.v1.ConfigMap(
            f"{prefix}-redis-authority",
            metadata=metadata,
            data={_AUTHORITY: redis.authority} if redis.authority else {},
            opts=opts,
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The times at which a job runs."""

    cron: str
    """In UTC."""
    deadline_seconds: int
    """The time that it may take."""


EACH_MINUTE = Schedule(cron="* * * * *", deadline_seconds=50)
"""A job ends before the next one begins."""


def scheduled(
    resource_name: str,
    namespace: str,
    pod: ServicePod,
    spec: k8s.core.v1.PodSpecArgsDict,
    schedule: Schedule,
    opts: pulumi.ResourceOptions,
) -> None:
    """Declare a CronJob of the pod's name that runs `spec` as scheduled, never twice at a time."""
    k8s.batch.v1.CronJob(
        resource_name,
        metadata={"name": pod.name, "namespace": namespace, "labels": pod.labels},
        spec={
            "schedule": schedule.cron,
            "concurrency_policy": "Forbid",
            "starting_deadline_seconds": schedule.deadline_seconds,
            "successful_jobs_history_limit": 1,
            "failed_jobs_history_limit": 3,
            "job_template": {
                "metadata": {"labels": pod.labels},
                "spec": {
                    # The next job does what this one leaves undone.
                    "backoff_limit": 0,
                    "active_deadline_seconds": schedule.deadline_seconds,
                    "template": {
                        "metadata": {"labels": pod.labels},
                        "spec": {
                            **spec,
                            "restart_policy": "Never",
                            "termination_grace_period_seconds": 10,
                        },
                    },
                },
            },
        },
        opts=opts,
    )


def from_secret(name: str) -> Source:
    """A volume of the Secret's keys, which the container's user can read."""
    return {"secret": {"secret_name": name, "default_mode": _READ_BY_GROUP}}


def from_field(name: str, path: str) -> k8s.core.v1.EnvVarArgsDict:
    """A variable with a field of the pod's own, such as `status.podIP`."""
    return {"name": name, "value_from": {"field_ref": {"field_path": path}}}


def probe(path: str, port: str = "health") -> k8s.core.v1.ProbeArgsDict:
    """A probe by HTTP at a named port."""
    return {"http_get": {"path": path, "port": port}, "timeout_seconds": 5}


def on_different_nodes(selected: Mapping[str, str]) -> k8s.core.v1.AffinityArgsDict:
    """A node that fails takes one of the pods with it, never all."""
    return {
        "pod_anti_affinity": {
            "required_during_scheduling_ignored_during_execution": [
                {"label_selector": {"match_labels": selected}, "topology_key": "kubernetes.io/hostname"}
            ]
        }
    }


def _mounts(files: Mapping[str, Source], sidecar: Sidecar | None) -> list[dict[str, Any]]:
    read = [{"name": _volume_name(folder), "mount_path": folder, "read_only": True} for folder in files]
    shared = [{"name": _volume_name(sidecar.shared), "mount_path": sidecar.shared}] if sidecar else []
    return [*read, *shared]


def _volume_name(folder: str) -> str:
    return re.sub(r"[^a-z]+", "-", folder).strip("-")


def _volume(name: str, source: Source) -> k8s.core.v1.VolumeArgsDict:
    volume: Any = {"name": name, **source}
    made: k8s.core.v1.VolumeArgsDict = volume
    return made


def _redis_environment(user: str, redis: Redis) -> dict[str, str]:
    scheme = "rediss" if redis.tls else "redis"
    environment = {
        "REDIS_URL": f"{scheme}://{user}@{redis.host}:{redis.port}",
        "REDIS_PASSWORD_FILE": f"{_REDIS}/{_PASSWORD}",
    }
    if redis.authority:
        environment["REDIS_CA_FILE"] = f"{_REDIS}/{_AUTHORITY}"
    return environment


def _redis_files(pod: str) -> Source:
    name = f"{pod}-redis"
    return {
        "projected": {
            "default_mode": _READ_BY_GROUP,
            "sources": [{"secret": {"name": name}}, {"config_map": {"name": name}}],
        }
    }


def kubernetes_files() -> dict[str, Source]:
    """What the kubelet would mount by itself, where clients look for it, for an hour at a time."""
    namespace: k8s.core.v1.DownwardAPIVolumeFileArgsDict = {
        "path": "namespace",
        "field_ref": {"field_path": "metadata.namespace"},
    }
    return {
        _KUBERNETES: {
            "projected": {
                "default_mode": _READ_BY_GROUP,
                "sources": [
                    {"service_account_token": {"path": "token", "expiration_seconds": 3600}},
                    {"config_map": {"name": "kube-root-ca.crt"}},
                    {"downward_api": {"items": [namespace]}},
                ],
            }
        }
    }
