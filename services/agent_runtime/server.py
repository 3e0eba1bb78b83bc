"""The runtime's HTTP server: health, files, and the API for agents (`api.py`)."""

import contextlib
import itertools
import json
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote_to_bytes

from services.agent_runtime import problems
from services.agent_runtime.body import BadRequestError, Body
from services.agent_runtime.files import BLOCK, File, Files
from services.agent_runtime.identity import NotReadyError
from services.agent_runtime.tenants import Asked, Tenant, Tenants

_FOLDERS = ("/v1/files/", "/v1/uploads/", "/v1/artifacts/")
_LEFT = 2**16
"""Bytes of a body that are read though the request is refused."""
_RUNS = ("/v1/agent", "/v1/runs")
"""A POST there begins a run."""
_METHODS_OF_FILES = ("GET", "PUT", "DELETE")
_LAST_SECONDS = 5.0
"""For runs that are cut off by the end, to be noted as such."""


class Server(ThreadingHTTPServer):
    """Serves the tenants' requests, each in a thread."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, address: tuple[str, int], tenants: Tenants) -> None:
        """Listen at `address`."""
        self.tenants = tenants
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without looking up our own name, which takes a machine that wakes seconds."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "", self.server_address[1]

    def server_close(self) -> None:
        """Listen no more, and end what is at work."""
        super().server_close()
        self.tenants.close(_LAST_SECONDS)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of whoever went away: the gateway knocks until somebody is there."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "agent-runtime"
    sys_version = ""
    # Of a connection on which nothing happens.
    timeout = 120
    _body: Body | None = None

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self._body = None
        try:
            self._body = body = Body(self.headers, self.rfile)
            self._answer(path, body)
            if not body.ended:
                self.close_connection = True
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except problems.TOLD as error:
            status, why = problems.of(error)
            self._refuse(status, why, **problems.headers(error))

    do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = do_OPTIONS = do_GET  # noqa: N815

    def send_error(self, code: int, message: str | None = None, _: str | None = None) -> None:
        """Refuse what is no request, in the format of all other refusals."""
        status = HTTPStatus(code)
        self._refuse(status, f"{message or status.phrase}: this is no request that can be answered.")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of single requests: the gateway counts them, and their paths are the tenant's."""

    def _answer(self, path: str, body: Body) -> None:
        if (self.command, path) == ("GET", "/livez"):
            self._json({"status": "ok"})
            return
        if (self.command, path) == ("GET", "/readyz"):
            self._json(self.server.tenants.ready())
            return
        begins_run = self.command == "POST" and path in _RUNS
        with self.server.tenants.of(Asked.read(self.headers, begins_run)) as tenant:
            self._served(tenant, path, body)

    def _served(self, tenant: Tenant, path: str, body: Body) -> None:
        folder = next((each for each in _FOLDERS if path.startswith(each)), None)
        if (self.command, path) == ("GET", "/"):
            self._json(tenant.told())
        elif folder and self.command in _METHODS_OF_FILES:
            self._file(tenant.files(folder), _name(path.removeprefix(folder)), body)
        else:
            # Loaded only where it is needed: a machine that wakes has no time for it.
            from services.agent_runtime import api, asgi

            asgi.answer(api.application, self, body.blocks(), {"tenant": tenant})

    def _file(self, files: Files, name: str, body: Body) -> None:
        if self.command == "GET":
            found = files.find(name)
            if isinstance(found, File):
                self._send_file(found)
            else:
                self._json({"files": found.names, "more": found.more})
        elif self.command == "PUT":
            files.write(name, body.blocks())
            self._json({"written": name}, HTTPStatus.CREATED)
        else:
            files.delete(name)
            self._json({"deleted": name})

    def _send_file(self, file: File) -> None:
        with contextlib.closing(file.content) as content:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(file.size))
            self.end_headers()
            left = file.size
            while left:
                try:
                    block = content.read(min(left, BLOCK))
                except (NotReadyError, OSError):
                    block = b""
                if not block:
                    # The head is sent: that the connection ends before the file does is what is left to say.
                    raise ConnectionError("The file ended early.")
                left -= len(block)
                self.wfile.write(block)

    def _json(
        self, said: Any, status: HTTPStatus = HTTPStatus.OK, media_type: str = "application/json", **more: str
    ) -> None:
        content = json.dumps(said).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(content)))
        for name, value in more.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _refuse(self, status: HTTPStatus, why: str, **headers: str) -> None:
        self._leave_body()
        self._json(problems.said(status, why), status, problems.MEDIA_TYPE, **headers)

    def _leave_body(self) -> None:
        """Read a short body to its end: closed before, the connection would take the answer with it."""
        body = self._body
        if body and not body.begun:
            with contextlib.suppress(BadRequestError, OSError):
                sizes = itertools.accumulate(map(len, body.blocks()))
                next((size for size in sizes if size > _LEFT), None)
        # What is left of it would be read as the next request.
        self.close_connection = not (body and body.ended)


def _name(path: str) -> str:
    try:
        return unquote_to_bytes(path.encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise BadRequestError("A path is text in UTF-8, so there is no file of this name.") from None
