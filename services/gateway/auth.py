"""Who is asking: a token that the tenant's key has signed, in a header or a cookie."""

import functools
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.gateway.request import Request

Keys = Mapping[str, Ed25519PublicKey]
"""Public keys by their ids."""

_LONGEST_SECONDS = 24 * 3600
_LEEWAY_SECONDS = 30
_LONGEST_TOKEN = 4096
_SUBJECT = re.compile(r"[\x21-\x7e]{1,200}")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a token speaks for."""

    subject: str
    expires: float


class Refused(Exception):  # noqa: N818 - an answer to the client, not a fault of ours
    """Nobody is told who this is; the message says why, and nothing about the tenant."""

    def __init__(self, message: str, status: int = 401) -> None:
        """Keep the answer's status and text."""
        super().__init__(message)
        self.status = status


class Authenticator(Protocol):
    """Tells who sent a request."""

    def caller(self, request: Request, audience: str, keys: Keys) -> Caller:
        """Return who asks `audience`, whose tokens `keys` verify. Raises `Refused`."""
        ...

    def verify(self, token: str, audience: str, keys: Keys) -> Caller:
        """Return whom the token speaks for. Raises `Refused`."""
        ...


class SignedTokens:
    """JWTs signed with Ed25519."""

    def __init__(self) -> None:
        """Remember the signatures verified last."""
        self._key_id = functools.lru_cache(maxsize=8192)(_key_id)
        self._verified = functools.lru_cache(maxsize=8192)(_verified)

    def caller(self, request: Request, audience: str, keys: Keys) -> Caller:
        """Return who asks, by the bearer token, else by the cookie of a browser that is on our own page."""
        authorization = request.header(b"authorization")
        if authorization is not None:
            scheme, _, token = authorization.decode("latin-1").partition(" ")
            if scheme.lower() != "bearer":
                raise Refused("The Authorization header holds no bearer token.")
            return self.verify(token.strip(), audience, keys)
        crumb = request.token()
        if crumb is None:
            raise Refused("A token is needed: Authorization: Bearer TOKEN.")
        caller = self.verify(crumb, audience, keys)
        if not _from_own_page(request):
            raise Refused("This request was made by a page of another site.", 403)
        return caller

    def verify(self, token: str, audience: str, keys: Keys) -> Caller:
        """Return whom the token speaks for; it may last a day at most."""
        if len(token) > _LONGEST_TOKEN:
            raise Refused("The token is too long.")
        try:
            key = keys.get(self._key_id(token) or "")
            if key is None:
                raise Refused("The token is signed with a key that is not known here.")
            caller = self._verified(token, audience, key.public_bytes_raw())
        except (jwt.PyJWTError, ValueError, OverflowError, RecursionError) as error:
            # What it says of the token may be the token's own text, such as half a surrogate pair.
            said = str(error).encode("ascii", "replace").decode()
            raise Refused(f"The token is not valid: {said}.") from None
        now = time.time()
        if caller.expires <= now - _LEEWAY_SECONDS:
            raise Refused("The token has expired.")
        if caller.expires > now + _LONGEST_SECONDS + _LEEWAY_SECONDS:
            raise Refused("The token lasts longer than a day.")
        return caller


def _key_id(token: str) -> str | None:
    """Return which key a token claims to be signed with."""
    kid = jwt.get_unverified_header(token).get("kid")
    return kid if isinstance(kid, str) else None


def _verified(token: str, audience: str, key: bytes) -> Caller:
    """Return what a token says, its signature verified; the time is another matter, as this is remembered."""
    claims = jwt.decode(
        token,
        Ed25519PublicKey.from_public_bytes(key),
        algorithms=["EdDSA"],
        audience=audience,
        leeway=_LEEWAY_SECONDS,
        options={"require": ["aud", "exp", "sub"], "strict_aud": True},
    )
    if not _SUBJECT.fullmatch(claims["sub"]):
        raise jwt.InvalidTokenError("its subject is no printable text without spaces")
    return Caller(claims["sub"], float(claims["exp"]))


def _from_own_page(request: Request) -> bool:
    """Tell whether a browser that sends the cookie of itself does so for our own page, or for its user.

    Tenants are neighbours under one domain, so that SameSite does not keep their pages apart.
    """
    origin = request.header(b"origin")
    if origin is not None or request.websocket or request.method not in ("GET", "HEAD"):
        return origin == request.origin
    if request.header(b"sec-fetch-site") in (b"cross-site", b"same-site"):
        # Its user has followed a link; in a frame, it is another page that shows ours.
        return (
            request.header(b"sec-fetch-mode") == b"navigate"
            and request.header(b"sec-fetch-dest") == b"document"
        )
    return True
