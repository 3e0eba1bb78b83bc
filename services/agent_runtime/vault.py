"""A tenant's login to Vault, renewed by logging in again."""

import threading
import time
from pathlib import Path
from typing import Any

from services.agent_runtime import remote
from services.agent_runtime.identity import Identity, NotReadyError


class Vault:
    """One tenant's part of Vault, reached with the account's token."""

    def __init__(self, identity: Identity, account_token: Path) -> None:
        """Log in when it is first needed."""
        self._identity = identity
        self._account_token = account_token
        self._lock = threading.Lock()
        self._token = ""
        self._until = 0.0

    def log_in(self) -> str:
        """The token of a login that is valid for a while yet.

        Raises NotReadyError if Vault does not let us in.
        """
        with self._lock:
            if time.monotonic() >= self._until:
                self._token, seconds = self._new_login()
                self._until = time.monotonic() + seconds / 2
            return self._token

    def secret(self, name: str) -> dict[str, Any]:
        """The secret `name` of the tenant's; empty if there is none."""
        mount, _, folder = self._identity.secrets.partition("/")
        try:
            said = remote.call(
                self._identity.vault,
                "GET",
                f"/v1/{mount}/data/{folder}/{name}",
                headers={"X-Vault-Token": self.log_in()},
            )
        except remote.RefusedError as error:
            if error.status == 404:
                return {}
            raise
        found: dict[str, Any] = said["data"]["data"]
        return found

    def _new_login(self) -> tuple[str, float]:
        identity = self._identity
        try:
            account_token = self._account_token.read_text().strip()
        except OSError as error:
            raise NotReadyError(
                f"{self._account_token}: {error.strerror}, so Vault does not let {identity.tenant} in; the "
                "account's token comes with the pod or with the machine's disk `service-account`."
            ) from None
        try:
            said = remote.call(
                identity.vault,
                "POST",
                f"/v1/{identity.login}",
                {"role": identity.role, "jwt": account_token},
            )
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
