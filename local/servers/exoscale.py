"""The Exoscale emulator as one of the platform's servers."""

import http.client
import sys
from http import HTTPStatus

from local import credentials, ports
from local.exoscale import contract
from local.paths import DATA
from local.servers import certificates
from local.supervisor import NotReady, Service

STATE = DATA / "exoscale" / "state.sqlite"
"""What was created through the API."""
CERTIFICATE = certificates.path("exoscale-proxy")
"""Shown by the proxy for the official names, together with its key."""


def port() -> int:
    """Where the API listens."""
    return ports.port("exoscale")


def proxy_port() -> int:
    """Where the HTTPS proxy for the official names listens."""
    return ports.port("exoscale-proxy")


def owner() -> tuple[str, str]:
    """Key and secret of the organization's owner, who may do everything; the S3 server's owner, too."""
    return credentials.secret("exoscale-api-key"), credentials.secret("exoscale-api-secret")


def services() -> list[Service]:
    """API and proxy in one process."""
    return [
        Service(
            name="exoscale",
            command=[sys.executable, "-m", "local.exoscale"],
            ready=_ready,
            ports=[port(), proxy_port()],
        )
    ]


def prepare() -> None:
    """Have the proxy's certificate on disk."""
    certificates.keep(
        "exoscale-proxy", "exoscale-proxy", hosts=[contract.host(zone) for zone in contract.zones()]
    )


def bootstrap() -> None:
    """Nothing to do: the emulator starts empty, and tells the S3 server about its keys by itself."""


def environment() -> dict[str, str]:
    """For clients that find the API by its endpoint."""
    key, secret = owner()
    return {
        "EXOSCALE_API_ENDPOINT": f"http://127.0.0.1:{port()}/v2",
        "EXOSCALE_API_KEY": key,
        "EXOSCALE_API_SECRET": secret,
    }


def proxy_environment() -> dict[str, str]:
    """For a client that calls the official names whatever its endpoint is, as the official plugin does."""
    return {
        "HTTPS_PROXY": f"http://127.0.0.1:{proxy_port()}",
        "NO_PROXY": "127.0.0.1",
        "SSL_CERT_FILE": str(certificates.CA_FILE),
    }


def _ready() -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port(), timeout=2)
    try:
        connection.request("GET", "/v2/zone")
        status = connection.getresponse().status
    except http.client.HTTPException as error:
        raise NotReady(str(error)) from None
    finally:
        connection.close()
    if status != HTTPStatus.OK:
        raise NotReady(f"lists zones with status {status}")
