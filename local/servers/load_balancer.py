"""The load balancer before the gateway, as one of the platform's servers."""

import sys

from local import ports
from local.paths import DATA
from local.servers import certificates, kubernetes
from local.supervisor import NotReady, Service

_NAME = "load-balancer"
_KUBECONFIG = DATA / "kubernetes" / f"{_NAME}.kubeconfig"
# Kubernetes itself lets this user read Services and their endpoints, and nothing more.
_USER = "system:kube-proxy"


def port() -> int:
    """Where the gateway is reached from outside the cluster."""
    return ports.port("gateway")


def services() -> list[Service]:
    """Tell how the load balancer runs."""
    return [
        Service(
            name=_NAME,
            command=[sys.executable, "-m", "local.load_balancer", str(port())],
            environment={"KUBECONFIG": str(_KUBECONFIG)},
            ports=[port()],
            ready=_ready,
        )
    ]


def prepare() -> None:
    """Have its access to the Kubernetes API on disk."""
    certificates.keep(_NAME, _USER)
    kubernetes.write_kubeconfig(_KUBECONFIG, _NAME)


def bootstrap() -> None:
    """Nothing to do: the gateway's pods come with the program."""


def environment() -> dict[str, str]:
    """Return the port of every tenant's URL, and the authority that its certificate is signed by."""
    return {"GATEWAY_PORT": str(port()), "GATEWAY_CA": str(certificates.CA_FILE)}


def _ready() -> None:
    # Asked by looking, not by connecting: a connection would go on to a gateway.
    if ports.is_free(port()):
        raise NotReady("reads where the gateway is")
