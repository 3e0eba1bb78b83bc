"""A server in the place of a machine's guest, where machines are only reported."""

import contextlib
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import urllib3
from kubernetes import client

from tests.integration.conftest import Platform
from tests.integration.machines import place


class Agent(BaseHTTPRequestHandler):
    """What answers in a guest, as far as a visitor sees; `/stream` has no end."""

    def do_GET(self) -> None:
        self.send_response(HTTPStatus.OK)
        if self.path == "/stream":
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            with contextlib.suppress(OSError):  # the client has gone
                while True:
                    self.wfile.write(b"data: on\n\n")
                    time.sleep(0.5)
            return
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_arguments: Any) -> None:
        pass


@contextlib.contextmanager
def standing_in(platform: Platform, tenant: str) -> Iterator[None]:
    """Answer wherever the tenant's machine gets an address."""
    done = threading.Event()
    serving: dict[str, ThreadingHTTPServer] = {}

    def follow() -> None:
        while not done.wait(0.1):
            try:
                address = _address(platform, tenant)
            except urllib3.exceptions.HTTPError:  # no API server just now, which ends no guest
                continue
            for gone in serving.keys() - {address}:
                _end(serving.pop(gone))
            if address and address not in serving:
                with contextlib.suppress(OSError):
                    server = serving[address] = ThreadingHTTPServer((address, 8080), Agent)
                    threading.Thread(target=server.serve_forever, daemon=True).start()
        for server in serving.values():
            _end(server)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _address(platform: Platform, tenant: str) -> str:
    group, version, namespace, _, name = place(tenant)
    try:
        found = platform.objects().get_namespaced_custom_object(
            group, version, namespace, "virtualmachineinstances", name
        )
    except client.ApiException:
        return ""
    interfaces = found.get("status", {}).get("interfaces") or [{}]
    running = found.get("status", {}).get("phase") == "Running"
    return str(interfaces[0].get("ipAddress", "")) if running else ""


def _end(server: ThreadingHTTPServer) -> None:
    """Let nobody wait for an answer any more."""
    server.shutdown()
    server.server_close()
