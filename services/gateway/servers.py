"""Serves the gateway's ASGI applications: to Envoy at Unix sockets, to probes and monitoring at a port."""

import contextlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from services.gateway.request import Application

_BACKLOG = 4096
_KEEP_SECONDS = 3600
"""Envoy closes its idle connections first, so that none is closed under a request."""


class Server(uvicorn.Server):
    """One application at one place; signals are the program's."""

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until `should_exit` is set, or until cancelled; then nobody listens any more."""
        try:
            await super().serve(sockets)
        finally:
            for listener in getattr(self, "servers", ()):
                listener.close()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def server(application: Application, *, path: Path | None = None, address: str = "", port: int = 0) -> Server:
    """Return a server, at a socket or at an address and port; `serve` runs it until `should_exit` is set."""
    place: dict[str, Any] = {"uds": str(path)} if path else {"host": address, "port": port}
    return Server(
        uvicorn.Config(
            application,
            **place,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_SECONDS,
            timeout_graceful_shutdown=1,
        )
    )
