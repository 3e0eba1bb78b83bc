"""A tenant's login to Vault, renewed by logging in again."""

import sys
import threading
import time
from typing import Any

from services.agent_runtime import remote
from services.agent_runtime.credentials import Credential
from services.agent_runtime.identity import Identity, NotReadyError


class Vault:
    """One tenant's part of Vault, entered with a credential."""

    def __init__(self, identity: Identity, credential: Credential) -> None:
        """Log in when it is first needed."""
        self._identity = identity
        self._credential = credential
        self._lock = threading.Lock()
        self._tokens: list[str] = []
        self._until = 0.0
        self._left = False

    def log_in(self) -> str:
        """The token of a login that is valid for a while yet.

        Raises NotReadyError if Vault does not let us in.
        """
        with self._lock:
            if self._left:
                raise NotReadyError(f"The request of {self._identity.tenant} is over, and so is its login.")
            if time.monotonic() >= self._until:
                token, seconds = self._new_login()
                # The one before may be in use yet.
                self._tokens = [*self._tokens[-1:], token]
                self._until = time.monotonic() + seconds / 2
            return self._tokens[-1]

    def leave(self) -> None:
        """Give all tokens back, and take no other; what is not given back ends by itself."""
        with self._lock:
            self._left = True
            tokens, self._tokens = self._tokens, []
        for token in tokens:
            try:
                self._call("POST", "auth/token/revoke-self", token)
            except (OSError, remote.RefusedError) as error:
                sys.stderr.write(f"A login of {self._identity.tenant} is left to end by itself: {error}.\n")

    def secret(self, name: str) -> dict[str, Any]:
        """The secret `name` of the tenant's; empty if there is none."""
        mount, _, folder = self._identity.secrets.partition("/")
        try:
            said = self._call("GET", f"{mount}/data/{folder}/{name}", self.log_in())
        except remote.RefusedError as error:
            if error.status == 404:
                return {}
            raise
        found: dict[str, Any] = said["data"]["data"]
        return found

    def needed(self, name: str) -> dict[str, Any]:
        """The secret `name`, for a request that cannot be served before Vault has answered.

        Raises NotReadyError if it does not.
        """
        try:
            return self.secret(name)
        except remote.RefusedError as error:
            raise NotReadyError(
                f"Vault refuses {self._identity.tenant} the secret {name} ({error.status}), so what needs "
                "it is not done."
            ) from None
        except OSError as error:
            raise NotReadyError(
                f"Vault at {self._identity.vault.address} does not answer ({error}), so what needs the "
                f"secret {name} is not done yet."
            ) from None

    def _call(self, method: str, path: str, token: str) -> Any:
        return remote.call(self._identity.vault, method, f"/v1/{path}", headers={"X-Vault-Token": token})

    def _new_login(self) -> tuple[str, float]:
        identity = self._identity
        entry = {"role": identity.role, "jwt": self._credential.shown()}
        try:
            said = remote.call(identity.vault, "POST", f"/v1/{identity.login}", entry)
        except remote.RefusedError as error:
            raise NotReadyError(
                f"Vault refuses {identity.tenant} ({error.status}), so its agents do not run; its role "
                f"{identity.role} exists while the tenant is active."
            ) from None
        except OSError as error:
            raise NotReadyError(
                f"Vault at {identity.vault.address} does not answer ({error}), so the agents of "
                f"{identity.tenant} do not run yet."
            ) from None
        return said["auth"]["client_token"], float(said["auth"]["lease_duration"])
