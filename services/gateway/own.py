"""What the gateway answers itself: signing in and out on every host, below `/.gateway/`, and the console."""

import contextlib
import time
from collections.abc import Callable
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount
from starlette.routing import Route as Endpoint

from services.gateway import hosts, pages
from services.gateway.auth import Authenticator, Keys, Refused
from services.gateway.request import COOKIE, Application
from services.gateway.routes import Routes

_FORM_BYTES = 16 * 1024


def application(
    *,
    domain: str,
    routes: Routes,
    authenticator: Authenticator,
    operator_keys: Keys,
    console: Application,
    ready: Callable[[], bool],
) -> Starlette:
    """Return the ASGI application; only whom the authoriser lets in gets to `console`."""

    def audience(request: Request) -> tuple[str, Keys] | None:
        """Return whom a token is to be meant for on this host, and the keys that verify it."""
        label = hosts.label(request.headers.get("host", ""), domain)
        if label == hosts.CONSOLE:
            return hosts.CONSOLE, operator_keys
        route = routes.find(label) if label else None
        return (route.tenant, route.keys) if route else None

    async def sign_in(request: Request) -> Response:
        found = audience(request)
        if found is None:
            return pages.line(404, "There is nothing at this address.")
        name, keys = found
        if request.method != "POST":
            return pages.sign_in(name)
        if not _of_our_own(request):
            return pages.line(403, "The form of another site signs nobody in.")
        form = await _form(request)
        if form is None:
            return pages.line(413, f"A form has {_FORM_BYTES} bytes at most.")
        token, target = form.get("token", [""])[0].strip(), _target(form.get("target", ["/"])[0])
        try:
            caller = authenticator.verify(token, name, keys)
        except Refused as refused:
            return pages.sign_in(name, str(refused), target)
        response = RedirectResponse(target, 303)
        response.set_cookie(
            COOKIE.decode(),
            token,
            max_age=max(1, int(caller.expires - time.time())),
            secure=True,
            httponly=True,
            samesite="lax",
        )
        return response

    async def sign_out(request: Request) -> Response:
        found = audience(request)
        if found is None:
            return pages.line(404, "There is nothing at this address.")
        if request.method != "POST":
            return pages.sign_out(found[0])
        if not _of_our_own(request):
            return pages.line(403, "The form of another site signs nobody out.")
        response = RedirectResponse("/.gateway/sign-in", 303)
        response.delete_cookie(COOKIE.decode(), secure=True, httponly=True, samesite="lax")
        return response

    async def readyz(_: Request) -> Response:
        return pages.line(200, "ok") if ready() else pages.line(503, "The gateway is not ready.")

    return Starlette(
        routes=[
            Endpoint("/.gateway/sign-in", sign_in, methods=["GET", "POST"]),
            Endpoint("/.gateway/sign-out", sign_out, methods=["GET", "POST"]),
            Endpoint("/.gateway/readyz", readyz),
            # Whatever the method: nobody is asked about these paths, and the console is not for everybody.
            Mount("/.gateway", pages.line(404, "There are /.gateway/sign-in and /.gateway/sign-out.")),
            Mount("/", console),
        ]
    )


def _of_our_own(request: Request) -> bool:
    """Tell whether a form is our own page's; programs name no origin."""
    origin = request.headers.get("origin")
    return origin is None or origin == f"https://{request.headers.get('host', '').lower()}"


async def _form(request: Request) -> dict[str, list[str]] | None:
    body = b""
    # Whoever goes away meanwhile hears no answer.
    with contextlib.suppress(ClientDisconnect):
        async for piece in request.stream():
            body += piece
            if len(body) > _FORM_BYTES:
                return None
    try:
        return parse_qs(body.decode("utf-8", errors="replace"), max_num_fields=8)
    except ValueError:
        return {}


def _target(text: str) -> str:
    """Return a path on this host; anything that a browser could take for another place is `/`."""
    plain = text.isascii() and text.isprintable() and " " not in text
    return text if plain and text.startswith("/") and text[1:2] not in ("/", "\\") else "/"
