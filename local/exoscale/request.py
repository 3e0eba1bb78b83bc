"""One call of an operation, as its handler sees it."""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from local.exoscale.contract import Json
from local.exoscale.store import GLOBAL, Store

DURATION = 0.2
"""Seconds that an asynchronous operation takes: enough for a client that does not wait to be found out."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Checked against the contract and authorized."""

    store: Store
    zone: str
    base_url: str
    """What `api-endpoint` of a zone must look like for this caller, with `{zone}`."""
    parameters: dict[str, str]
    body: Json
    after: list[Callable[[], None]] = field(default_factory=list)
    """Runs once the change is safely written."""

    @property
    def id(self) -> str:
        """The `{id}` of the path."""
        return self.parameters["id"]


Handler = Callable[[Request], Json]
HANDLERS: dict[str, Handler] = {}


def serves(name: str) -> Callable[[Handler], Handler]:
    """Mark the handler of an operation, by the `operationId` of the document."""

    def register(handler: Handler) -> Handler:
        HANDLERS[name] = handler
        return handler

    return register


def now() -> str:
    """The present, as the API writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def started(request: Request, command: str, path: str, identifier: str, zone: str = GLOBAL) -> Json:
    """Record an asynchronous operation on a resource and answer it, pending."""
    reference = {"id": identifier, "link": f"/v2/{path}/{identifier}", "command": command}
    operation = {"id": str(uuid.uuid4()), "state": "pending", "reference": reference}
    request.store.put("operation", GLOBAL, operation | {"_done": time.time() + DURATION, "_zone": zone})
    return operation


def becoming(state: str, then: str) -> Json:
    """The fields of a resource that is `state` until its operation is done."""
    return {"state": state, "_then": then, "_done": time.time() + DURATION}


def public(body: Json) -> Json:
    """The resource as the API shows it now."""
    shown = {key: value for key, value in body.items() if not key.startswith("_")}
    if "_done" in body and body["_done"] <= time.time():
        shown["state"] = body.get("_then", "success")
    return shown


def changed(body: Json, fields: dict[str, Any]) -> Json:
    """The resource with the fields of an update; null takes a field away."""
    merged = body | fields
    return {key: value for key, value in merged.items() if value is not None}
