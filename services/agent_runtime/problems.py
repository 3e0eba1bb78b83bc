"""The errors for which a request is refused, and their one format (RFC 9457)."""

import errno
import math
from http import HTTPStatus
from typing import Any

from services.agent_runtime.body import BadRequestError
from services.agent_runtime.files import AbsentError, RefusedPathError
from services.agent_runtime.gateway import StoppingError
from services.agent_runtime.identity import NotReadyError

MEDIA_TYPE = "application/problem+json"


_AGAIN_AFTER = 5.0
"""Seconds, where nothing says how long it takes."""


class UnknownTenantError(Exception):
    """A request for somebody who is not served here."""


class BusyError(Exception):
    """Too much of a tenant's at once, or in too short a time."""

    def __init__(self, why: str, again_after: float = _AGAIN_AFTER) -> None:
        """Say why; whoever asked may ask again after so many seconds."""
        super().__init__(why)
        self.again_after = again_after


class NotFoundError(Exception):
    """There is no such agent, memory, session or run."""


class ConflictError(Exception):
    """A request that something in its present state does not allow."""


_STATUS: dict[type[Exception], HTTPStatus] = {
    BadRequestError: HTTPStatus.BAD_REQUEST,
    RefusedPathError: HTTPStatus.BAD_REQUEST,
    AbsentError: HTTPStatus.NOT_FOUND,
    NotFoundError: HTTPStatus.NOT_FOUND,
    ConflictError: HTTPStatus.CONFLICT,
    StoppingError: HTTPStatus.CONFLICT,
    UnknownTenantError: HTTPStatus.MISDIRECTED_REQUEST,
    BusyError: HTTPStatus.TOO_MANY_REQUESTS,
    NotReadyError: HTTPStatus.SERVICE_UNAVAILABLE,
    OSError: HTTPStatus.INTERNAL_SERVER_ERROR,
}
TOLD = tuple(_STATUS)
"""The errors that are told to whoever asked."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def of(error: Exception) -> tuple[HTTPStatus, str]:
    """The status and the words for one of `TOLD`."""
    if isinstance(error, OSError):
        full = error.errno in _FULL
        return (
            HTTPStatus.INSUFFICIENT_STORAGE if full else HTTPStatus.INTERNAL_SERVER_ERROR,
            f"{error.strerror or error}.",
        )
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), str(error)


def headers(error: Exception) -> dict[str, str]:
    """The headers of a refusal, besides those of its body."""
    if isinstance(error, BusyError):
        return {"Retry-After": str(math.ceil(error.again_after))}
    return {"Retry-After": str(math.ceil(_AGAIN_AFTER))} if isinstance(error, NotReadyError) else {}


def said(status: HTTPStatus, detail: str, **more: Any) -> dict[str, Any]:
    """The body of an answer."""
    return {"title": status.phrase, "status": status.value, "detail": detail, **more}
