"""KubeVirt's control plane: its own virt-api and virt-controller, as processes on loopback.

What virt-operator does on a real cluster is done here: it installs definitions, roles, webhooks and instance
types (`local.toolchain` takes them from its code) and reports that KubeVirt is deployed. virt-handler and
virt-launcher, which run a machine on a node, are played by `local.node_agent`.
"""

import base64
import functools
import json
import platform
import signal
from typing import Any

from local import ports, supervisor, toolchain
from local.paths import DATA
from local.servers import certificates, kubernetes, kubernetes_api
from local.servers.kubernetes_api import LOOPBACK
from local.supervisor import NotReady, Service

NAMESPACE = "kubevirt"

_HOME = DATA / "kubevirt"
_API = "virt-api"
_CONTROLLER = "virt-controller"
_HANDLER_CLIENT = "kubevirt.io:system:client:virt-handler"
_HOSTS = ("localhost", LOOPBACK, f"{_API}.{NAMESPACE}.svc")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_SERVICE_ACCOUNTS = {_API: "kubevirt-apiserver", _CONTROLLER: "kubevirt-controller"}
_WITH_VIRT_API = {
    "APIService",
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
    "VirtualMachineClusterInstancetype",
    "VirtualMachineClusterPreference",
}
_KUBEVIRT = f"/apis/kubevirt.io/v1/namespaces/{NAMESPACE}/kubevirts/kubevirt"


def services() -> list[Service]:
    """Tell how the two processes run."""
    return [_virt_api(), _virt_controller()]


def prepare() -> None:
    """Install what the two need to start: definitions, roles, the KubeVirt object, certificates."""
    for name, account in _SERVICE_ACCOUNTS.items():
        # Each is the service account that it is on a real cluster, with that one's roles and no more.
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated"]
        certificates.keep(f"{name}-client", f"system:serviceaccount:{NAMESPACE}:{account}", groups=groups)
        certificates.keep(name, name, hosts=_HOSTS)
        kubernetes.write_kubeconfig(_HOME / f"{name}.kubeconfig", f"{name}-client")
    certificates.keep("virt-handler-client", _HANDLER_CLIENT)
    needed = [item for item in _manifests() if item["kind"] not in _WITH_VIRT_API]
    kubernetes_api.apply([_namespace(), *needed, *_objects()])
    kubernetes_api.merge(f"{_KUBEVIRT}/status", {"status": _status()})


def bootstrap() -> None:
    """Install what virt-api serves or has a say in, and wait until the Kubernetes API leads to it."""
    objects = [item for item in _manifests() if item["kind"] in _WITH_VIRT_API]
    kubernetes_api.apply(objects)
    for item in objects:
        if item["kind"] == "APIService":
            name = item["metadata"]["name"]
            supervisor.wait_until(
                functools.partial(_available, name), timeout=60, what=f"kubevirt: the API {name}"
            )


def environment() -> dict[str, str]:
    """Return nothing: clients reach it through the Kubernetes API."""
    return {}


def _virt_api() -> Service:
    return Service(
        name=_API,
        command=[
            *_command(_API),
            f"--tls-cert-file={certificates.path(_API)}",
            f"--tls-key-file={certificates.path(_API)}",
            f"--handler-cert-file={certificates.path('virt-handler-client')}",
            f"--handler-key-file={certificates.path('virt-handler-client')}",
        ],
        environment={"TMPDIR": str(_HOME)},
        ports=[ports.port(_API)],
        ready=_serves,
        # On SIGTERM it would wait 5 s for a load balancer to look elsewhere. It keeps nothing.
        stop_signal=signal.SIGKILL,
    )


def _virt_controller() -> Service:
    # It logs that /etc/virt-controller holds no authority for exports and backups of machines: these are off.
    return Service(
        name=_CONTROLLER,
        command=[
            *_command(_CONTROLLER),
            f"--prom-cert-file={certificates.path(_CONTROLLER)}",
            f"--prom-key-file={certificates.path(_CONTROLLER)}",
            # It ends when it loses its lease. Nobody else wants that, so let a laptop sleep for a while.
            "--leader-elect-lease-duration=120s",
            "--leader-elect-renew-deadline=100s",
        ],
        environment={"TMPDIR": str(_HOME)},
        ports=[ports.port(_CONTROLLER)],
        ready=_leads,
    )


def _command(program: str) -> list[str]:
    return [
        str(toolchain.tool(program)),
        f"--kubeconfig={_HOME / f'{program}.kubeconfig'}",
        f"--listen={LOOPBACK}",
        f"--port={ports.port(program)}",
    ]


def _ask(program: str, path: str) -> Any:
    return json.loads(kubernetes_api.check(f"https://{LOOPBACK}:{ports.port(program)}{path}"))


def _serves() -> None:
    _ask(_API, "/healthz")


def _leads() -> None:
    _ask(_CONTROLLER, "/healthz")
    if _ask(_CONTROLLER, "/leader")["apiserver"]["leader"] != "true":
        raise NotReady("waiting for its lease")


def _available(name: str) -> None:
    found = kubernetes_api.get(f"/apis/apiregistration.k8s.io/v1/apiservices/{name}")
    for condition in found.get("status", {}).get("conditions", []):
        if condition["type"] == "Available" and condition["status"] == "True":
            return
        raise NotReady(condition.get("message", "not available yet"))
    raise NotReady("not looked at yet")


def _manifests() -> list[dict[str, Any]]:
    """Return what virt-operator installs, with virt-api on loopback instead of in a Pod."""
    authority = base64.b64encode(certificates.ca_certificate().encode()).decode()
    objects = toolchain.objects("kubevirt")
    for item in objects:
        if item["kind"] == "APIService":
            item["spec"] |= {"caBundle": authority}
            item["spec"]["service"]["port"] = ports.port(_API)
        for webhook in item.get("webhooks", []):
            path = webhook["clientConfig"]["service"]["path"]
            webhook["clientConfig"] = {
                "url": f"https://{LOOPBACK}:{ports.port(_API)}{path}",
                "caBundle": authority,
            }
    return objects


def _namespace() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": NAMESPACE,
            "labels": {"kubevirt.io": "", "pod-security.kubernetes.io/enforce": "privileged"},
        },
    }


def _objects() -> list[dict[str, Any]]:
    """Return what virt-operator makes of its own accord, and the object that asks it to."""
    authority = {"ca-bundle": certificates.ca_certificate()}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": _API, "namespace": NAMESPACE},
            "spec": {"type": "ExternalName", "externalName": "localhost"},
        },
        *(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "data": authority,
            }
            for name in ("kubevirt-ca", "kubevirt-export-ca")
        ),
        {
            "apiVersion": "kubevirt.io/v1",
            "kind": "KubeVirt",
            "metadata": {"name": "kubevirt", "namespace": NAMESPACE},
            "spec": {
                "configuration": {
                    "developerConfiguration": {
                        # Launcher Pods must not ask for /dev/kvm, which this machine may not have.
                        "useEmulation": True,
                        # The gates that the program wants of a KubeVirt that it is given.
                        "featureGates": ["ExpandDisks"],
                    }
                }
            },
        },
    ]


def _status() -> dict[str, Any]:
    """Return what virt-operator reports once all is in place; without it KubeVirt takes no machine."""
    return {
        "phase": "Deployed",
        "defaultArchitecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
    }
