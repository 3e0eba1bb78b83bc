"""The assertion that lets the shared runtime into Vault: a signed statement of whose request it serves.

It lasts for a minute and is renewed for as long as the request is in flight, in this replica and no other. So
whoever takes the runtime over can act for the tenants whose requests it has, and for nobody else.
"""

import contextlib
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

ISSUER = "gateway"
AUDIENCE = "vault"
_SECONDS = 60


class OverError(Exception):
    """The assertion is none of a request that is in flight here."""


class Assertions:
    """The requests in flight, each with the tenant and the subject that it is of."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        """Sign with `key`, and renew nothing that another has signed."""
        self._key = key
        self._in_flight: dict[str, tuple[str, str]] = {}

    @classmethod
    def signed_by(cls, file: Path) -> "Assertions":
        """Sign with the key in `file`. Raises ValueError or OSError if it holds no Ed25519 key in PEM."""
        key = load_pem_private_key(file.read_bytes(), None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("it is no Ed25519 key")
        return cls(key)

    @contextlib.contextmanager
    def of_request(self, tenant: str, subject: str) -> Iterator[str]:
        """Keep a request in flight, and yield its assertion."""
        request = secrets.token_urlsafe(16)
        self._in_flight[request] = (tenant, subject)
        try:
            yield self._signed(request)
        finally:
            del self._in_flight[request]

    def tenant(self, assertion: str) -> str:
        """Return whose request an assertion is of, expired or not. Raises `OverError`."""
        return self._in_flight[self._request(assertion)][0]

    def renewed(self, assertion: str) -> str:
        """Return a new one for the same request. Raises `OverError`."""
        return self._signed(self._request(assertion))

    def _request(self, assertion: str) -> str:
        try:
            claims = jwt.decode(
                assertion,
                self._key.public_key(),
                algorithms=["EdDSA"],
                audience=AUDIENCE,
                issuer=ISSUER,
                # A request that is in flight says more than the time: a run may have waited for long.
                options={"require": ["jti"], "verify_exp": False},
            )
        except (jwt.InvalidTokenError, ValueError):
            raise OverError("this is no assertion of this gateway's") from None
        request = claims["jti"]
        if request not in self._in_flight:
            raise OverError("the request that this assertion was given for is over")
        return str(request)

    def _signed(self, request: str) -> str:
        tenant, subject = self._in_flight[request]
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "tenant": tenant, "jti": request}
        return jwt.encode({**claims, "iat": now, "nbf": now, "exp": now + _SECONDS}, self._key, "EdDSA")
