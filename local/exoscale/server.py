"""The API over HTTP: signature, contract, policy, handler, contract again."""

import json
import logging
import re
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from local.errors import LocalError
from local.exoscale import compute, contract, iam, policy, signature, sks
from local.exoscale.contract import Json, Operation
from local.exoscale.errors import ApiError, forbidden, invalid
from local.exoscale.request import HANDLERS, Request
from local.exoscale.store import GLOBAL, Store

DEFAULT_ZONE = "ch-gva-2"
"""Of a path without a zone, as the official clients have it."""

_LOG = logging.getLogger("exoscale")
_BODY_LIMIT = 2**20
# Answered to anyone, as by the real service: clients need it before they know whom to ask.
_PUBLIC = frozenset({"list-zones"})
_SERVICES = {compute.__name__: "compute", sks.__name__: "compute", iam.__name__: "iam"}


class Api:
    """Answers one request after the other, from any number of threads."""

    def __init__(self, store: Store, owner: tuple[str, str]) -> None:
        """`owner` is the key and secret of the organization's owner, who may do everything."""
        self._store = store
        self._owner_key, self._owner_secret = owner

    def answer(
        self, *, method: str, target: str, authorization: str, body: bytes, base_url: str, zone: str | None
    ) -> tuple[HTTPStatus, Json, str]:
        """Status, JSON body and what to call the request in the log."""
        name = f"{method} {urlsplit(target).path}"
        try:
            operation, parameters, path_zone = _route(method, target)
            name = operation.name
            content = _decode(body)
            with self._store.transaction():
                request = Request(
                    store=self._store,
                    zone=zone or path_zone,
                    base_url=base_url,
                    parameters=parameters,
                    body=content or {},
                )
                self._authorize(operation, request, method, target, authorization, body)
                contract.check_request(operation, parameters, content)
                answered = _handler(operation)(request)
                shown = {key: value for key, value in answered.items() if not key.startswith("_")}
                contract.check_response(operation, shown)
            for action in request.after:
                action()
        except ApiError as error:
            return error.status, {"message": error.message}, name
        except LocalError as error:
            return HTTPStatus.SERVICE_UNAVAILABLE, {"message": str(error)}, name
        return HTTPStatus.OK, shown, name

    def _authorize(
        self,
        operation: Operation,
        request: Request,
        method: str,
        target: str,
        authorization: str,
        body: bytes,
    ) -> None:
        if operation.name in _PUBLIC:
            return
        parts = urlsplit(target)
        key = signature.verify(
            authorization,
            method=method,
            path=parts.path,
            query=parts.query,
            body=body,
            secret_of=self._secret_of,
        )
        if key == self._owner_key:
            return
        role = self._store.get("iam-role", GLOBAL, self._store.get("api-key", GLOBAL, key)["role-id"])
        bindings = {
            "operation": operation.name,
            "service": _service(operation),
            "zone": request.zone,
            "parameters": {
                name.replace("-", "_"): value for name, value in (request.parameters | request.body).items()
            },
            "api_key": key,
        }
        if not policy.allows(role["policy"], _service(operation), bindings):
            raise forbidden(f"{operation.name}: not allowed by the policy of role {role['name']}")

    def _secret_of(self, key: str) -> str | None:
        if key == self._owner_key:
            return self._owner_secret
        found = self._store.find("api-key", GLOBAL, key)
        return None if found is None else str(found["_secret"])


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 on a loopback port."""

    protocol_version = "HTTP/1.1"
    server_version = "exoscale-emulator"
    sys_version = ""
    timeout = 120
    api: Api
    base_url: str
    zone: str | None = None

    def serve(self) -> None:
        """Read, answer, log one line without any secret."""
        try:
            length = int(self.headers.get("Content-Length") or 0)
        except ValueError:
            length = -1
        if not 0 <= length <= _BODY_LIMIT or self.headers.get("Transfer-Encoding"):
            self.close_connection = True
            self._send(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                {"message": f"body of unknown size or over {_BODY_LIMIT}"},
            )
            return
        body = self.rfile.read(length)
        try:
            status, content, name = self.api.answer(
                method=self.command,
                target=self.path,
                authorization=self.headers.get("Authorization", ""),
                body=body,
                base_url=self.base_url,
                zone=self.zone,
            )
        except Exception:  # noqa: BLE001 - whatever it is, the caller gets an answer and the log the rest
            _LOG.exception("%s %s", self.command, urlsplit(self.path).path)
            status, name = HTTPStatus.INTERNAL_SERVER_ERROR, f"{self.command} {urlsplit(self.path).path}"
            content = {"message": "the emulator failed; its log says where"}
        _LOG.info("%s %d%s", name, status, f" {content['message']}" if status >= 400 else "")
        self._send(status, content)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = serve  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _send(self, status: HTTPStatus, content: Json) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Listener(ThreadingHTTPServer):
    """On a loopback port."""

    def __init__(self, port: int, handler: type[Handler], **attributes: Any) -> None:
        """`attributes` are those of the handler."""
        super().__init__(("127.0.0.1", port), type("ListenerHandler", (handler,), attributes))

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """A caller that went away in the middle is worth a line, not a traceback."""
        _LOG.info("connection lost: %s", sys.exception())


def listen(api: Api, port: int) -> Listener:
    """The server on a loopback port; zones are told apart by the path, `/ZONE/v2`."""
    return Listener(port, Handler, api=api, base_url=f"http://127.0.0.1:{port}/{{zone}}/v2")


def _route(method: str, target: str) -> tuple[Operation, dict[str, str], str]:
    parts = urlsplit(target)
    match = re.fullmatch(rf"(?:/({'|'.join(contract.zones())}))?/v2(/.*)", parts.path)
    if match is None:
        raise ApiError(HTTPStatus.NOT_FOUND, f"no such path: {parts.path}")
    operation, parameters = contract.find(method, match[2])
    query = parse_qs(parts.query, keep_blank_values=True)
    return (
        operation,
        {name: values[0] for name, values in query.items()} | parameters,
        match[1] or DEFAULT_ZONE,
    )


def _decode(body: bytes) -> Json | None:
    if not body.strip():
        return None
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"body is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise invalid("body is no JSON object")
    return content


def _handler(operation: Operation) -> Callable[[Request], Json]:
    if (handler := HANDLERS.get(operation.name)) is None:
        raise ApiError(HTTPStatus.NOT_IMPLEMENTED, f"{operation.name} is not served on this machine")
    return handler


def _service(operation: Operation) -> str:
    if "sos" in operation.name:
        return "sos"
    handler = HANDLERS.get(operation.name)
    return "compute" if handler is None else _SERVICES[handler.__module__]
