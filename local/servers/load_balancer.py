"""The load balancer before the gateway, as one of the platform's servers."""

import sys

from local import ports
from local.servers import certificates, kubernetes
from local.supervisor import NotReady, Service

_NAME = "load-balancer"

DOMAIN = "agents.localhost"
"""What tenants are reached under: every name below `localhost` leads to loopback (RFC 6761)."""

_CERTIFICATE = "gateway"
_HOSTS = (f"*.{DOMAIN}", DOMAIN, "gateway.gateway.svc", "127.0.0.1")
_GUESTS_VIEW = "10.0.2.100"
"""How a guest of QEMU reaches what listens on this machine's loopback."""
_KEY_BEGINS = "-----BEGIN PRIVATE KEY-----"


def port() -> int:
    """Where the gateway is reached from outside the cluster."""
    return ports.port("gateway")


def agents_port() -> int:
    """Where tenants' machines reach the gateway's API for agents."""
    return ports.port("gateway-agents")


def certificate() -> tuple[str, str]:
    """Return the gateway's certificate and its key, PEM, as `prepare` has put them on disk."""
    chain, begin, key = certificates.path(_CERTIFICATE).read_text().partition(_KEY_BEGINS)
    return chain, begin + key


def services() -> list[Service]:
    """Tell how the load balancer runs."""
    return [
        Service(
            name=_NAME,
            command=[
                *(sys.executable, "-m", "local.load_balancer"),
                *(f"{port()}:8443", f"{agents_port()}:8444"),
            ],
            environment=kubernetes.environment(),
            ports=[port(), agents_port()],
            ready=_ready,
        )
    ]


def prepare() -> None:
    """Have the certificate that the gateway shows on disk."""
    certificates.keep(_CERTIFICATE, DOMAIN, hosts=[*_HOSTS, _GUESTS_VIEW])


def bootstrap() -> None:
    """Nothing to do: the gateway's pods come with the program."""


def environment() -> dict[str, str]:
    """Return what follows a tenant's id in its URL, and the authority that its certificate is signed by."""
    return {"GATEWAY": f"{DOMAIN}:{port()}", "GATEWAY_CA": str(certificates.CA_FILE)}


def _ready() -> None:
    # Asked by looking, not by connecting: a connection would go on to a gateway.
    if any(map(ports.is_free, (port(), agents_port()))):
        raise NotReady("reads where the gateway is")
