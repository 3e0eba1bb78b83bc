"""Small servers in the place of those that a runtime asks."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Answering(BaseHTTPRequestHandler):
    """Says JSON, and nothing on the console; what it says, with what status, is the test's."""

    def get(self) -> tuple[int, Any]:
        """Answer a GET."""
        raise NotImplementedError

    def post(self, asked: Any) -> tuple[int, Any]:
        """Answer a POST."""
        raise NotImplementedError

    def do_GET(self) -> None:
        self._say(*self.get())

    def do_POST(self) -> None:
        self._say(*self.post(self._asked()))

    def _asked(self) -> Any:
        content = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        return json.loads(content) if content else None

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _say(self, status: int, said: Any) -> None:
        content = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def serving(server: ThreadingHTTPServer) -> Iterator[str]:
    """Its address, while it serves."""
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
