"""JSON over HTTP to one of the platform's servers, with the standard library."""

import http.client
import json
import socket
from typing import Any
from urllib.parse import urlsplit

from services.agent_runtime.identity import Server

_TIMEOUT = 10


class RefusedError(Exception):
    """A server answered with an error."""

    def __init__(self, status: int, said: Any) -> None:
        """Keep the status and what was said."""
        super().__init__(f"{status}: {said}")
        self.status = status
        self.said = said


def call(
    server: Server, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> Any:
    """Send `body` and return what is answered, None for nothing.

    Raises RefusedError for an error status, OSError if the server cannot be reached.
    """
    connection = _connection(server)
    try:
        connection.request(
            method,
            path,
            body=None if body is None else json.dumps(body),
            headers={"Content-Type": "application/json", **(headers or {})},
        )
        response = connection.getresponse()
        content = response.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"{server.address} does not speak HTTP ({type(error).__name__})") from None
    finally:
        connection.close()
    try:
        said = json.loads(content) if content else None
    except ValueError:
        said = content[:200].decode(errors="replace")
    if response.status >= 300:
        raise RefusedError(response.status, said)
    return said


def _connection(server: Server) -> http.client.HTTPConnection:
    address = urlsplit(server.address)
    host = address.hostname or ""
    if address.scheme != "https":
        return http.client.HTTPConnection(host, address.port, timeout=_TIMEOUT)
    port = address.port or 443
    # Loaded only where it is needed: it takes a machine that wakes a tenth of a second.
    import ssl

    trusted = ssl.create_default_context(cafile=server.authority)
    connection = http.client.HTTPSConnection(host, port, timeout=_TIMEOUT, context=trusted)
    if server.name:
        plain = socket.create_connection((host, port), _TIMEOUT)
        connection.sock = trusted.wrap_socket(plain, server_hostname=server.name)
    return connection
