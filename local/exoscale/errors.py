"""An answer that is not a success."""

from http import HTTPStatus


class ApiError(Exception):
    """The status and the message that the caller gets, as the real API words them: `{"message": …}`."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        """`message` says which operation or field, and what to do where that is not obvious."""
        super().__init__(message)
        self.status = status
        self.message = message


def invalid(message: str) -> ApiError:
    """The request contradicts the document or itself."""
    return ApiError(HTTPStatus.BAD_REQUEST, message)


def forbidden(message: str) -> ApiError:
    """The caller is unknown or has not the right."""
    return ApiError(HTTPStatus.FORBIDDEN, message)


def not_found(kind: str, identifier: str) -> ApiError:
    """No such resource in this zone."""
    return ApiError(HTTPStatus.NOT_FOUND, f"{kind} {identifier} not found")


def conflict(message: str) -> ApiError:
    """The state of the resource, or of one that depends on it, stands against the request."""
    return ApiError(HTTPStatus.CONFLICT, message)
