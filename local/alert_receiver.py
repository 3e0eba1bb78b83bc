"""`python -m local.alert_receiver PORT FILE`: takes Alertmanager's messages and appends each to a file."""

import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def serve(port: int, file: Path) -> None:
    """Serve at a loopback port until killed."""

    class Receiver(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            message = self.rfile.read(int(self.headers["Content-Length"]))
            with file.open("ab") as messages:
                messages.write(message.replace(b"\n", b" ") + b"\n")
            self._answer()

        def _answer(self) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    ThreadingHTTPServer(("127.0.0.1", port), Receiver).serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]))
