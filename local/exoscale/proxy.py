"""The way in for clients that always call `https://api-ZONE.exoscale.com/v2`: an HTTPS proxy for these names.

Set as `HTTPS_PROXY` of such a process, with the platform's authority as its `SSL_CERT_FILE`. Nothing is
passed on to the internet; any other name is refused.
"""

import logging
import re
import ssl
from http import HTTPStatus
from pathlib import Path

from local.exoscale import contract
from local.exoscale.server import Api, Handler, Listener

_LOG = logging.getLogger("exoscale")


class _ProxyHandler(Handler):
    """Answers inside the tunnel; outside of it, only CONNECT is understood."""

    base_url = f"https://{contract.host('{zone}')}/v2"
    tls: ssl.SSLContext

    def do_CONNECT(self) -> None:  # noqa: N802 - http.server's name
        match = re.fullmatch(r"api-([a-z0-9-]+)\.exoscale\.com:443", self.path)
        if self.zone or match is None or match[1] not in contract.zones():
            _LOG.info("CONNECT %s refused", self.path)
            self.close_connection = True
            self._send(
                HTTPStatus.FORBIDDEN,
                {"message": f"{self.path}: only {contract.host('ZONE')}:443 can be reached here"},
            )
            return
        self.send_response(HTTPStatus.OK)
        self.end_headers()
        try:
            self.connection = self.tls.wrap_socket(self.connection, server_side=True)
        except OSError as error:
            _LOG.info("CONNECT %s: %s", self.path, error)
            self.close_connection = True
            return
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", buffering=0)
        self.zone = match[1]
        self.close_connection = False

    def serve(self) -> None:
        if self.zone is None:
            self.close_connection = True
            self._send(HTTPStatus.FORBIDDEN, {"message": "this is a proxy for HTTPS"})
            return
        super().serve()

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = serve  # noqa: N815 - http.server's names


def listen(api: Api, port: int, certificate: Path) -> Listener:
    """The proxy on a loopback port, with a certificate for all zones' names."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    return Listener(port, _ProxyHandler, api=api, tls=tls)
