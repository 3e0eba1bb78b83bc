"""A tenant's part of Vault: its secrets, and its logins to PostgreSQL."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

from services.agent_runtime import remote
from services.agent_runtime.credentials import Credential
from services.agent_runtime.files import RefusedPathError
from services.agent_runtime.identity import Identity, NotReadyError

_WORTHWHILE = 0.75
"""Of a login's first seconds: renewed for fewer, another takes its place while it is good yet."""
_OLD = 1 / 3
"""Of a login's time: a run that begins has the rest for itself, whoever vouches for it then."""


class DatabaseLogin(NamedTuple):
    """A login to PostgreSQL, which ends with the login to Vault that it was issued to."""

    user: str
    password: str
    lease: str
    token: str
    """The login to Vault."""
    until: float
    """By `time.monotonic`; it is to be renewed before."""


class Vault:
    """One tenant's part of Vault, entered with a credential.

    Unless it says otherwise, a method raises NotReadyError if Vault does not let us in, refuses, or does not
    answer.
    """

    def __init__(self, identity: Identity, credential: Credential) -> None:
        """Log in when it is first needed."""
        self._identity = identity
        self._credential = credential
        self._lock = threading.Lock()
        self._tokens: list[str] = []
        self._seconds = 0.0
        self._since = 0.0
        self._until = 0.0
        self._left = False

    @property
    def object_storage(self) -> str | None:
        """The endpoint of object storage as it is reached from here; None: as the secret names it."""
        return self._identity.object_storage

    def log_in(self) -> str:
        """The token of a login that is valid for a while yet: it is renewed for as long as it can be."""
        with self._lock:
            if self._left:
                raise NotReadyError(f"The request of {self._identity.tenant} is over, and so is its login.")
            if time.monotonic() >= self._until:
                seconds = self._renewed()
                if seconds > self._seconds * _WORTHWHILE:
                    self._until = time.monotonic() + seconds / 2
                else:
                    self._replace(seconds)
            return self._tokens[-1]

    def _replace(self, left: float) -> None:
        """Log in anew; without it, the login that is good for `left` seconds yet has to do."""
        try:
            self._keep(*self._new_login(self._credential))
        except NotReadyError:
            if not left:
                raise
            self._until = time.monotonic() + left / 2

    def _keep(self, token: str, seconds: float) -> None:
        # The one before may be in use yet.
        self._tokens = [*self._tokens[-1:], token]
        self._seconds = seconds
        self._since = time.monotonic()
        self._until = self._since + seconds / 2

    def leave(self) -> None:
        """Give all tokens back, and take no other; what is not given back ends by itself."""
        with self._lock:
            self._left = True
            tokens, self._tokens = self._tokens, []
        for token in tokens:
            self._give_back(token)

    def admit(self, credential: Credential) -> None:
        """Have Vault decide on another credential for the same tenant; its login takes an old one's place."""
        token, seconds = self._new_login(credential)
        with self._lock:
            old = not self._tokens or time.monotonic() - self._since > self._seconds * _OLD
            if old and not self._left:
                self._keep(token, seconds)
                return
        self._give_back(token)

    def secret(self, name: str) -> dict[str, Any]:
        """The secret `name` of the tenant's; empty if there is none.

        Raises RefusedError if Vault refuses it, OSError if it does not answer.
        """
        said = self._call("GET", self._path("data", name))
        found: dict[str, Any] = said["data"]["data"] if said else {}
        return found

    def needed(self, name: str) -> dict[str, Any]:
        """The secret `name`, for what cannot be done before Vault has answered."""
        with self._told(f"the secret {name}"):
            return self.secret(name)

    def write_secret(self, name: str, fields: dict[str, Any]) -> None:
        """Write a secret, in the place of what was there."""
        with self._told(f"to write the secret {name}"):
            self._call("POST", self._path("data", name), {"data": fields})

    def delete_secret(self, name: str) -> None:
        """Delete the newest version of a secret."""
        with self._told(f"to delete the secret {name}"):
            self._call("DELETE", self._path("data", name))

    def secrets(self) -> list[str]:
        """The names of all secrets; a folder's ends in a slash."""
        with self._told("the list of its secrets"):
            said = self._call("GET", f"{self._path('metadata')}?list=true")
        return sorted(said["data"]["keys"]) if said else []

    def database_login(self, before: DatabaseLogin | None) -> DatabaseLogin:
        """A login to PostgreSQL that is good for a while yet: `before`, renewed if need be, or a new one."""
        token = self.log_in()
        if before and before.token == token:
            if time.monotonic() < before.until:
                return before
            # One that is renewed no longer gives way to another.
            with contextlib.suppress(OSError, remote.RefusedError):
                said = self._call("POST", "sys/leases/renew", {"lease_id": before.lease})
                return before._replace(until=_half_way(said))
        with self._told("a login to PostgreSQL"):
            said = self._call("GET", self._identity.logins)
        if not said:
            raise NotReadyError(
                f"Vault has no logins to PostgreSQL for {self._identity.tenant}, so its tables cannot be "
                "used; the platform's next update declares them."
            )
        issued = said["data"]
        return DatabaseLogin(issued["username"], issued["password"], said["lease_id"], token, _half_way(said))

    def _path(self, kind: str, name: str = "") -> str:
        """The path of a secret; RefusedPathError if it would be another's."""
        if name and not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise RefusedPathError(
                f"{name!a}: is no name of a secret: a part of it is empty, or made of dots."
            )
        mount, _, folder = self._identity.secrets.partition("/")
        return f"{mount}/{kind}/{folder}/{quote(name)}"

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Say as one error of the runtime's that Vault did not give `what`."""
        try:
            yield
        except remote.RefusedError as error:
            raise NotReadyError(
                f"Vault refuses {self._identity.tenant} {what} ({error.status}), so what needs it is not "
                "done."
            ) from None
        except OSError as error:
            raise NotReadyError(
                f"Vault at {self._identity.vault.address} does not answer ({error}), so what needs {what} "
                "is not done yet."
            ) from None

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        """The answer; None where there is nothing."""
        token = self.log_in()
        try:
            return self._call_with(token, method, path, body)
        except remote.RefusedError as error:
            if error.status == 404:
                return None
            if error.status != 403 or self._is_in(token):
                raise
        # Somebody has revoked the login.
        return self._call_with(self.log_in(), method, path, body)

    def _is_in(self, token: str) -> bool:
        """True if Vault still knows a login; if not, the next call takes another."""
        with self._lock:
            if self._tokens[-1:] != [token]:
                return False
            if self._renewed():
                return True
            self._tokens, self._until = [], 0.0
            return False

    def _call_with(self, token: str, method: str, path: str, body: Any = None) -> Any:
        shown = {"X-Vault-Token": token}
        return remote.call(self._identity.vault, method, f"/v1/{path}", body, headers=shown)

    def _renewed(self) -> float:
        """The seconds for which the login is good, renewed; 0 without one, or if it cannot be."""
        try:
            said = (
                self._call_with(self._tokens[-1], "POST", "auth/token/renew-self") if self._tokens else None
            )
        except (OSError, remote.RefusedError):
            return 0.0
        return float(said["auth"]["lease_duration"]) if said else 0.0

    def _give_back(self, token: str) -> None:
        try:
            self._call_with(token, "POST", "auth/token/revoke-self")
        except (OSError, remote.RefusedError) as error:
            sys.stderr.write(f"A login of {self._identity.tenant} is left to end by itself: {error}.\n")

    def _new_login(self, credential: Credential) -> tuple[str, float]:
        identity = self._identity
        entry = {"role": identity.role, "jwt": credential.shown()}
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


def _half_way(said: dict[str, Any]) -> float:
    """The moment at which half of a lease is over."""
    return time.monotonic() + float(said["lease_duration"]) / 2
