"""EXO2-HMAC-SHA256, the signature of API v2 requests.

`Authorization: EXO2-HMAC-SHA256 credential=KEY[,signed-query-args=a;b],expires=UNIX,signature=BASE64` over
method and path, body, the values of the signed query arguments, no headers, and the expiry, a line each.
"""

import base64
import hashlib
import hmac
import time
from collections.abc import Callable
from urllib.parse import parse_qs

from local.exoscale.errors import ApiError, forbidden

_SCHEME = "EXO2-HMAC-SHA256 "


def verify(
    authorization: str,
    *,
    method: str,
    path: str,
    query: str,
    body: bytes,
    secret_of: Callable[[str], str | None],
) -> str:
    """The API key that signed this request; else `ApiError` 403, the same for a bad key and a bad secret."""
    if not authorization.startswith(_SCHEME):
        raise forbidden("Authorization header missing or of another scheme than EXO2-HMAC-SHA256")
    fields = dict(field.split("=", 1) for field in authorization[len(_SCHEME) :].split(",") if "=" in field)
    key, expires = fields.get("credential", ""), fields.get("expires", "")
    arguments = parse_qs(query, keep_blank_values=True)
    signed = [name for name in fields.get("signed-query-args", "").split(";") if name]
    # An argument that is not signed could have been added on the way.
    if sorted(signed) != sorted(name for name, values in arguments.items() if len(values) == 1):
        raise _refused()
    message = b"\n".join(
        [
            f"{method} {path}".encode(),
            body,
            "".join(arguments[name][0] for name in signed).encode(),
            b"",
            expires.encode(),
        ]
    )
    secret = secret_of(key)
    expected = hmac.new((secret or "").encode(), message, hashlib.sha256).digest()
    if secret is None or not hmac.compare_digest(
        base64.b64encode(expected), fields.get("signature", "").encode()
    ):
        raise _refused()
    if not expires.isdigit() or int(expires) < time.time():
        raise forbidden("signature expired: check this machine's clock")
    return key


def _refused() -> ApiError:
    return forbidden("invalid credentials or signature")
