"""The runtime's HTTP server: health, the workspace's files, and the agent."""

import contextlib
import errno
import itertools
import json
import sys
from collections.abc import Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote_to_bytes

from services.agent_runtime.body import BadRequestError, Body
from services.agent_runtime.files import BLOCK, AbsentError, File, Files, RefusedPathError
from services.agent_runtime.gateway import StoppingError
from services.agent_runtime.identity import NotReadyError
from services.agent_runtime.tenants import Asked, BusyError, Tenant, Tenants, UnknownTenantError

_LARGEST_PROMPT = 2**20
_FILES = "/v1/files/"
_REFUSED: dict[type[Exception], HTTPStatus] = {
    BadRequestError: HTTPStatus.BAD_REQUEST,
    RefusedPathError: HTTPStatus.BAD_REQUEST,
    AbsentError: HTTPStatus.NOT_FOUND,
    UnknownTenantError: HTTPStatus.MISDIRECTED_REQUEST,
    BusyError: HTTPStatus.TOO_MANY_REQUESTS,
    NotReadyError: HTTPStatus.SERVICE_UNAVAILABLE,
    StoppingError: HTTPStatus.CONFLICT,
}
"""The status of each error that is told to whoever asked."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        try:
            self._body = Body(self.headers, self.rfile)
            self._answer(path)
            if not self._body.ended:
                self.close_connection = True
        except tuple(_REFUSED) as error:
            self._refuse(next(_REFUSED[kind] for kind in type(error).__mro__ if kind in _REFUSED), str(error))
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except OSError as error:
            full = error.errno in _FULL
            self._refuse(
                HTTPStatus.INSUFFICIENT_STORAGE if full else HTTPStatus.INTERNAL_SERVER_ERROR,
                f"{path}: {error.strerror}.",
            )

    do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of single requests: the gateway counts them, and their paths are the tenant's."""

    def _answer(self, path: str) -> None:
        if (self.command, path) == ("GET", "/livez"):
            self._json({"status": "ok"})
            return
        if (self.command, path) == ("GET", "/readyz"):
            self._json(self.server.tenants.ready())
            return
        with self.server.tenants.of(Asked.read(self.headers)) as tenant:
            self._served(tenant, path)

    def _served(self, tenant: Tenant, path: str) -> None:
        if (self.command, path) == ("GET", "/"):
            self._json(tenant.told())
        elif (self.command, path) == ("POST", "/v1/agent"):
            self._stream(tenant.answer(self._prompt()))
        elif path.startswith(_FILES) and self.command != "POST":
            self._file(tenant.context.workspace, _name(path))
        else:
            self._refuse(HTTPStatus.NOT_FOUND, f"{self.command} {path}: there is no such thing here.")

    def _file(self, files: Files, name: str) -> None:
        if self.command == "GET":
            found = files.find(name)
            if isinstance(found, File):
                self._send_file(found)
            else:
                self._json({"files": found.names, "more": found.more})
        elif self.command == "PUT":
            files.write(name, self._body.blocks())
            self._json({"written": name}, HTTPStatus.CREATED)
        else:
            files.delete(name)
            self._json({"deleted": name})

    def _prompt(self) -> str:
        content = bytearray()
        for block in self._body.blocks():
            content += block
            if len(content) > _LARGEST_PROMPT:
                raise BadRequestError(
                    f"A prompt has at most {_LARGEST_PROMPT} bytes; put more into a file of the workspace."
                )
        try:
            said = json.loads(content)
        except (ValueError, RecursionError):
            said = None
        prompt = said.get("prompt") if isinstance(said, dict) else None
        if not isinstance(prompt, str) or not prompt.strip():
            raise BadRequestError('The body has to be {"prompt": "…"}: there is nothing to answer otherwise.')
        return prompt

    def _stream(self, events: Iterable[dict[str, Any] | None]) -> None:
        """Send server-sent events as they come."""
        coming = iter(events)
        # What stands in the way of beginning is told with a status of its own.
        first = next(coming)
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in itertools.chain([first], coming):
            self._event(event)
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, event: dict[str, Any] | None) -> None:
        content = b": nothing new\n\n"
        if event:
            content = f"event: {event['event']}\ndata: {json.dumps(event['data'])}\n\n".encode()
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")

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

    def _json(self, said: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        content = json.dumps(said).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        # What is left of the body would be read as the next request.
        self.close_connection = True
        self._json({"error": why}, status)


def _name(path: str) -> str:
    try:
        return unquote_to_bytes(path.removeprefix(_FILES).encode("latin-1")).decode()
    except UnicodeDecodeError:
        raise BadRequestError("A path is text in UTF-8, so there is no file of this name.") from None
