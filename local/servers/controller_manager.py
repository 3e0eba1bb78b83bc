"""kube-controller-manager, as a process on loopback: what makes of a Deployment its Pods, counts quotas, etc.

It starts when KubeVirt's definitions are there. Those that come later it looks for every 30 s only, and until
it knows them a quota that counts machines lets none through.
"""

from local import ports, toolchain
from local.paths import DATA
from local.servers import certificates, kubernetes, kubernetes_api
from local.servers.kubernetes_api import LOOPBACK
from local.supervisor import Service

_NAME = "kube-controller-manager"
_KUBECONFIG = DATA / "kubernetes" / f"{_NAME}.kubeconfig"


def services() -> list[Service]:
    """Tell how the process runs."""
    pair = str(certificates.path(_NAME))
    return [
        Service(
            name=_NAME,
            command=[
                str(toolchain.tool(_NAME)),
                f"--bind-address={LOOPBACK}",
                f"--secure-port={ports.port(_NAME)}",
                f"--kubeconfig={_KUBECONFIG}",
                f"--tls-cert-file={pair}",
                f"--tls-private-key-file={pair}",
                f"--root-ca-file={certificates.CA_FILE}",
                f"--service-account-private-key-file={certificates.key_path('service-accounts')}",
                "--use-service-account-credentials",
                "--leader-elect=false",
                "--kube-api-qps=100",
                "--kube-api-burst=200",
                "--profiling=false",
            ],
            ports=[ports.port(_NAME)],
            ready=_healthy,
        )
    ]


def prepare() -> None:
    """Have its certificates and its kubeconfig on disk."""
    certificates.keep(_NAME, f"system:{_NAME}", hosts=["localhost", LOOPBACK])
    kubernetes.write_kubeconfig(_KUBECONFIG, _NAME)


def bootstrap() -> None:
    """Nothing to do: all it knows is in the Kubernetes API."""


def environment() -> dict[str, str]:
    """Return nothing: it has no clients."""
    return {}


def _healthy() -> None:
    kubernetes_api.check(f"https://{LOOPBACK}:{ports.port(_NAME)}/healthz")
