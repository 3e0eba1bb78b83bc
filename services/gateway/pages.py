"""The pages that the gateway answers with itself.

Each is one document: it loads nothing, runs no script, and its policy lets it do neither.
"""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from services.gateway.routes import Route
from services.gateway.states import CannotWake, Kind, Phase, StillWaking

_TEMPLATES = Path(__file__).parent / "templates"
_STYLE = (_TEMPLATES / "style.css").read_text(encoding="utf-8")
_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'",
        "img-src data:",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

STATE_HEADER = "x-gateway-state"
"""Of an answer that says to come again: `waking`, or `limited` by what one tenant may have in flight."""

_STEPS: dict[Phase, str] = {
    "queued": "Waiting for its turn",
    "start": "Starting the machine",
    "boot": "Booting the system",
    "ready": "Getting the agents ready",
}

_REASONS: dict[Kind, tuple[str, str]] = {
    "no-capacity": ("There is no room for it right now", "We try again as soon as there is."),
    "image": ("Its system image cannot be fetched", "This is on our side; your data is not affected."),
    "crash-loop": ("It does not get through its start", "It is tried again; your data is not affected."),
    "volume": ("Its workspace is not available yet", "It is tried again; nothing is started without it."),
    "not-ready": ("It runs, but its agents do not answer", "It is asked again; your data is not affected."),
    "not-active": ("This computer is not in use", "Nothing wakes it; ask your contact about it."),
    "unknown": ("It cannot be started right now", "It is tried again; your data is not affected."),
}

_environment = Environment(
    loader=FileSystemLoader(_TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def page(status: int, template: str, *, retry_after: int | None = None, **values: Any) -> Response:
    """Return a page made of a template."""
    headers = _HEADERS if retry_after is None else {**_HEADERS, "Retry-After": str(retry_after)}
    body = _environment.get_template(template).render(style=_STYLE, **values)
    return HTMLResponse(body, status, headers)


def line(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return a line of text, for programs."""
    return PlainTextResponse(f"{message}\n", status, {"cache-control": "no-store", **(headers or {})})


def state_of(route: Route) -> dict[str, str]:
    """Return the header of a machine that wakes; other agents do not sleep, so they are away."""
    return {STATE_HEADER: "waking"} if route.served_by == "machine" else {}


def waiting(route: Route, still: StillWaking) -> Response:
    """Return 503 and a page that reloads itself until the tenant is awake."""
    steps = list(_STEPS)
    reached = steps.index(still.phase) if still.phase in _STEPS else 0
    answer = page(
        503,
        "waiting.html",
        retry_after=still.retry_after,
        tenant=route.tenant,
        seconds=round(still.seconds),
        reload=still.retry_after,
        steps=[
            (text, "done" if i < reached else "now" if i == reached else "to-come")
            for i, text in enumerate(_STEPS.values())
        ],
    )
    answer.headers.update(state_of(route))
    return answer


def failed(route: Route, failure: CannotWake) -> Response:
    """Return 503 and what stands in the way; 403 for a tenant that is not active."""
    title, remedy = _REASONS[failure.kind]
    retry = None if failure.kind == "not-active" else failure.retry_after
    return page(
        403 if retry is None else 503,
        "failed.html",
        retry_after=retry,
        tenant=route.tenant,
        kind=failure.kind,
        title=title,
        remedy=remedy,
        reload=retry,
    )


def sign_in(title: str, problem: str = "", target: str = "/") -> Response:
    """Return 401 and a form that posts `token` and `target` to /.gateway/sign-in; `problem` is shown."""
    return page(401, "sign_in.html", title=title, problem=problem, target=target)


def sign_out(title: str) -> Response:
    """Return a form that posts to /.gateway/sign-out."""
    return page(200, "sign_out.html", title=title)
