"""Pods, in all the kinds that hold one."""

from typing import Any

from tests.policy.examples import failing, passing
from tests.policy.scene import Scene, unknown

_KEPT: dict[str, Any] = {
    "automountServiceAccountToken": False,
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
}
_CLOSED: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
_BOUNDED: dict[str, Any] = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}}


def container(**changed: Any) -> dict[str, Any]:
    """A container that keeps every rule, but for what is changed."""
    image = f"ghcr.io/agent-platform/agent@sha256:{'0' * 64}"
    return {"name": "agent", "image": image, "securityContext": _CLOSED, "resources": _BOUNDED, **changed}


def pod(*containers: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """A pod that keeps every rule, but for what is changed."""
    return {**_KEPT, "containers": list(containers) or [container()], **changed}


def deployment(spec: dict[str, Any]) -> dict[str, Any]:
    """A Deployment of such pods."""
    labels = {"app": "agent"}
    return {
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        }
    }


def _secured(**changed: Any) -> dict[str, Any]:
    return container(securityContext={**_CLOSED, **changed})


@passing("pods-no-privileged")
@passing("pods-no-host-namespaces")
@passing("pods-no-host-path")
@passing("pods-no-capabilities")
@passing("pods-not-as-root")
@passing("pods-seccomp")
@passing("pods-no-escalation")
@passing("pods-read-only-root")
@passing("pods-resources")
@passing("pods-no-token")
def sound(scene: Scene) -> None:
    volumes = [{"name": "scratch", "emptyDir": {}}]
    first = [container(name="first")]
    scene.kubernetes("core/v1:Pod", {"spec": pod(volumes=volumes, initContainers=first)}, suffix="pod")
    scene.kubernetes("apps/v1:Deployment", deployment(pod()), suffix="deployment")


@passing("pods-in-sight")
def whole(scene: Scene) -> None:
    scene.kubernetes("core/v1:Pod", {"spec": pod()})


@failing("pods-in-sight")
def patched(scene: Scene) -> None:
    scene.kubernetes("apps/v1:DeploymentPatch", deployment(pod(_secured(privileged=True))))


@failing("pods-no-privileged")
def privileged(scene: Scene) -> None:
    scene.kubernetes("core/v1:Pod", {"spec": pod(_secured(privileged=True))})


@failing("pods-no-privileged")
def privileged_first_in_a_cron_job(scene: Scene) -> None:
    template = {"spec": pod(restartPolicy="Never", initContainers=[_secured(privileged=True)])}
    job = {"spec": {"template": template}}
    scene.kubernetes("batch/v1:CronJob", {"spec": {"schedule": "0 * * * *", "jobTemplate": job}})


@failing("pods-no-privileged")
def privileged_beside_an_unknown(scene: Scene) -> None:
    asked = container(name="asked", securityContext=unknown())
    scene.kubernetes("core/v1:Pod", {"spec": pod(asked, _secured(privileged=True))})


@passing("pods-no-privileged", allowed={"pods-no-privileged-2.named": "a test of exceptions"})
def privileged_by_name(scene: Scene) -> None:
    scene.kubernetes("core/v1:Pod", {"spec": pod(_secured(privileged=True))}, suffix="named")


@failing("pods-no-host-namespaces")
def host_network(scene: Scene) -> None:
    scene.kubernetes("apps/v1:Deployment", deployment(pod(hostNetwork=True)))


@failing("pods-no-host-namespaces")
def host_processes(scene: Scene) -> None:
    labels = {"app": "agent"}
    template = {"metadata": {"labels": labels}, "spec": pod(hostPID=True)}
    scene.kubernetes(
        "apps/v1:DaemonSet", {"spec": {"selector": {"matchLabels": labels}, "template": template}}
    )


@failing("pods-no-host-path")
def host_path(scene: Scene) -> None:
    volumes = [{"name": "sockets", "hostPath": {"path": "/var/run"}}]
    scene.kubernetes("core/v1:Pod", {"spec": pod(volumes=volumes)})


@failing("pods-no-capabilities")
def capabilities_kept(scene: Scene) -> None:
    scene.kubernetes("core/v1:Pod", {"spec": pod(_secured(capabilities={}))})


@failing("pods-no-capabilities")
def capability_added(scene: Scene) -> None:
    added = {"drop": ["ALL"], "add": ["NET_BIND_SERVICE", "SYS_ADMIN"]}
    scene.kubernetes("core/v1:Pod", {"spec": pod(_secured(capabilities=added))})


@failing("pods-not-as-root")
def may_be_root(scene: Scene) -> None:
    profile = {"seccompProfile": {"type": "RuntimeDefault"}}
    scene.kubernetes("core/v1:Pod", {"spec": pod(securityContext=profile)})


@failing("pods-not-as-root")
def container_overrides_its_pod(scene: Scene) -> None:
    scene.kubernetes("core/v1:Pod", {"spec": pod(_secured(runAsUser=0))})


@failing("pods-seccomp")
def unconfined(scene: Scene) -> None:
    scene.kubernetes("core/v1:Pod", {"spec": pod(_secured(seccompProfile={"type": "Unconfined"}))})


@failing("pods-seccomp")
def without_a_profile(scene: Scene) -> None:
    scene.kubernetes("apps/v1:Deployment", deployment(pod(securityContext={"runAsNonRoot": True})))


@failing("pods-no-escalation")
def escalation(scene: Scene) -> None:
    scene.kubernetes("core/v1:Pod", {"spec": pod(container(securityContext={}))})


@failing("pods-read-only-root")
def writable(scene: Scene) -> None:
    scene.kubernetes("core/v1:Pod", {"spec": pod(_secured(readOnlyRootFilesystem=False))})


@failing("pods-resources")
def unbounded(scene: Scene) -> None:
    scene.kubernetes("core/v1:Pod", {"spec": pod(container(resources={"requests": {"cpu": "1"}}))})


@failing("pods-no-token")
def token(scene: Scene) -> None:
    scene.kubernetes("core/v1:Pod", {"spec": pod(automountServiceAccountToken=None)})


@failing("pods-account-without-token")
def account_with_token(scene: Scene) -> None:
    scene.kubernetes("core/v1:ServiceAccount", {})


@passing("pods-account-without-token")
def account_without_token(scene: Scene) -> None:
    scene.kubernetes("core/v1:ServiceAccount", {"automountServiceAccountToken": False})
