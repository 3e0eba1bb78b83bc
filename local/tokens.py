"""Tokens for the gateway: signed JSON Web Tokens, made with the keys that the program keeps in Vault."""

import getpass
import time
from collections.abc import Collection

import hvac  # type: ignore[import-untyped]
import jwt
import requests

from local.errors import LocalError
from local.servers import vault

CONSOLE = "console"
"""The operators' page, and whom a token for it is meant for."""

_MOUNT = "tenants"
_SECONDS = 3600


def mint(audience: str, tenants: Collection[str]) -> str:
    """Return a token for one of the tenants, or for the console, that ends in an hour. Raises LocalError."""
    if audience != CONSOLE and audience not in tenants:
        known = ", ".join([*tenants, CONSOLE]) if tenants else "none yet, run `make up`"
        raise LocalError(f"token: there is no tenant {audience!r}, so no token was made; known: {known}.")
    path = f"{audience}/gateway"
    client = hvac.Client(url=vault.url(), token=vault.root_token(), timeout=10)
    now = int(time.time())
    claims = {"aud": audience, "sub": getpass.getuser(), "iat": now, "exp": now + _SECONDS}
    try:
        answer = client.secrets.kv.v2.read_secret_version(
            path, mount_point=_MOUNT, raise_on_deleted_version=True
        )
        key = answer["data"]["data"]
        return jwt.encode(claims, key["private_key"], algorithm="EdDSA", headers={"kid": key["key_id"]})
    except requests.RequestException:
        raise LocalError(
            f"token: Vault does not answer at {vault.url()}, so no token was made; run `make up` first."
        ) from None
    except (hvac.exceptions.VaultError, jwt.PyJWTError, KeyError, TypeError, ValueError) as error:
        raise LocalError(
            f"token: Vault gives no usable key at {_MOUNT}/{path} ({type(error).__name__}), so no token was "
            "made; `make up` makes a key where there is none; docs/runbooks/rotate-an-access-key.md "
            "tells how to replace one."
        ) from None
