"""The assertion that lets the shared runtime into Vault: a signed statement of whose request it serves.

It lasts for a minute and is renewed for as long as the request is in flight, in this replica and no other. So
whoever takes the runtime over can act for the tenants whose requests it has, and for nobody else.
"""

import time
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from services.gateway.in_flight import Asked, InFlight

ISSUER = "gateway"
AUDIENCE = "vault"
_SECONDS = 60


class OverError(Exception):
    """The assertion is none of a request that is in flight here."""


def signing_key(file: Path) -> Ed25519PrivateKey:
    """Return the key in `file`. Raises ValueError or OSError if it holds no Ed25519 key in PEM."""
    key = load_pem_private_key(file.read_bytes(), None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("it is no Ed25519 key")
    return key


class Assertions:
    """Says of requests in flight which tenant and subject they are of."""

    def __init__(self, key: Ed25519PrivateKey, in_flight: InFlight) -> None:
        """Sign with `key`, and renew nothing that another has signed."""
        self._key = key
        self._in_flight = in_flight

    def of_request(self, request: str) -> str:
        """Return the assertion of a request by Envoy's id. Raises `OverError`."""
        asked = self._asked(request)
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": asked.subject,
            "tenant": asked.tenant,
            "jti": request,
        }
        return jwt.encode({**claims, "iat": now, "nbf": now, "exp": now + _SECONDS}, self._key, "EdDSA")

    def tenant(self, assertion: str) -> str:
        """Return whose request an assertion is of, expired or not. Raises `OverError`."""
        return self._asked(self._request(assertion)).tenant

    def renewed(self, assertion: str) -> str:
        """Return a new one for the same request. Raises `OverError`."""
        return self.of_request(self._request(assertion))

    def _asked(self, request: str) -> Asked:
        asked = self._in_flight.get(request)
        if asked is None:
            raise OverError("the request that this assertion was given for is over")
        return asked

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
        return str(claims["jti"])
