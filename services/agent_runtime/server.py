"""The runtime's HTTP server: health, the workspace's files, and the agent."""

import itertools
import json
import sys
from collections.abc import Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from services.agent_runtime.files import Files, RefusedPathError
from services.agent_runtime.gateway import StoppingError
from services.agent_runtime.identity import NotReadyError
from services.agent_runtime.tenants import Asked, Tenant, Tenants, UnknownTenantError

_LARGEST_PROMPT = 2**20
_BLOCK = 2**16


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
        path = urlsplit(self.path).path
        if path == "/livez":
            self._json({"status": "ok"})
        elif path == "/readyz":
            self._readiness()
        else:
            self._for_tenant(path)

    def do_PUT(self) -> None:
        self._for_tenant(urlsplit(self.path).path)

    do_POST = do_DELETE = do_PUT  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of single requests: the gateway counts them, and their paths are the tenant's."""

    def _readiness(self) -> None:
        try:
            self._json(self.server.tenants.ready())
        except NotReadyError as error:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, str(error))

    def _for_tenant(self, path: str) -> None:
        try:
            with self.server.tenants.of(Asked.read(self.headers)) as tenant:
                self._served(tenant, path)
        except _BadRequestError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except RefusedPathError as error:
            self._refuse(HTTPStatus.NOT_FOUND, str(error))
        except UnknownTenantError as error:
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST, str(error))
        except NotReadyError as error:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        except StoppingError as error:
            self._refuse(HTTPStatus.CONFLICT, str(error))
        except OSError as error:
            if isinstance(error, ConnectionError | TimeoutError):
                self.close_connection = True
            else:
                self._refuse(HTTPStatus.INSUFFICIENT_STORAGE, f"{path}: {error.strerror}.")

    def _served(self, tenant: Tenant, path: str) -> None:
        if path == "/" and self.command == "GET":
            self._json(tenant.told())
        elif path == "/v1/agent" and self.command == "POST":
            self._stream(tenant.answer(self._prompt()))
        elif path.startswith("/v1/files/") and self.command != "POST":
            self._file(tenant.files, unquote(path.removeprefix("/v1/files/")))
        else:
            self._refuse(HTTPStatus.NOT_FOUND, f"{self.command} {path}: there is no such thing here.")

    def _file(self, files: Files, name: str) -> None:
        if self.command == "GET":
            path = files.existing(name)
            if path.is_dir():
                self._json({"files": files.listed(name)})
            else:
                self._send_file(path)
        elif self.command == "PUT":
            files.write(name, self._blocks())
            self._json({"written": name}, HTTPStatus.CREATED)
        else:
            files.delete(name)
            self._json({"deleted": name})

    def _prompt(self) -> str:
        length = self._length()
        if length > _LARGEST_PROMPT:
            raise _BadRequestError(
                f"A prompt has at most {_LARGEST_PROMPT} bytes; put more into a file of the workspace."
            )
        try:
            said = json.loads(self.rfile.read(length))
        except ValueError:
            said = None
        prompt = said.get("prompt") if isinstance(said, dict) else None
        if not isinstance(prompt, str) or not prompt.strip():
            raise _BadRequestError(
                'The body has to be {"prompt": "…"}: there is nothing to answer otherwise.'
            )
        return prompt

    def _length(self) -> int:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self.close_connection = True
            raise _BadRequestError("The body's length is missing: send Content-Length.")
        return int(length)

    def _blocks(self) -> Iterable[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            yield from self._chunks()
            return
        left = self._length()
        while left:
            block = self.rfile.read(min(left, _BLOCK))
            if not block:
                raise ConnectionError("The body ended early.")
            left -= len(block)
            yield block

    def _chunks(self) -> Iterable[bytes]:
        while size := int(self.rfile.readline(100).partition(b";")[0] or b"0", 16):
            while size:
                block = self.rfile.read(min(size, _BLOCK))
                if not block:
                    raise ConnectionError("The body ended early.")
                size -= len(block)
                yield block
            self.rfile.readline(100)
        while self.rfile.readline(1000).strip():
            pass

    def _stream(self, events: Iterable[dict[str, Any]]) -> None:
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

    def _event(self, event: dict[str, Any]) -> None:
        content = f"event: {event['event']}\ndata: {json.dumps(event['data'])}\n\n".encode()
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")

    def _send_file(self, path: Path) -> None:
        with path.open("rb") as file:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(path.stat().st_size))
            self.end_headers()
            while block := file.read(_BLOCK):
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


class _BadRequestError(Exception):
    """What the request lacks."""
