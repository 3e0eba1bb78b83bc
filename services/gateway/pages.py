"""The pages that the gateway answers with itself: self-contained, escaped, under a strict policy."""

from starlette.responses import Response

from services.gateway.routes import Route
from services.gateway.states import CannotWake, StillWaking


def waiting(route: Route, still: StillWaking) -> Response:
    """Return 503 and a page that reloads itself until the tenant is awake."""
    raise NotImplementedError


def failed(route: Route, failure: CannotWake) -> Response:
    """Return 503 and what stands in the way; 403 for a tenant that is not active."""
    raise NotImplementedError


def sign_in(title: str, problem: str = "", target: str = "/") -> Response:
    """Return 401 and a form that posts `token` and `target` to /.gateway/sign-in; `problem` is shown."""
    raise NotImplementedError
