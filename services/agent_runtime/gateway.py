"""The gateway's API for agents: what keeps a machine awake."""

import contextlib
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.agent_runtime import remote
from services.agent_runtime.identity import Identity

_LEASE_SECONDS = 120
_RENEWED_AFTER = 40.0


class StoppingError(Exception):
    """The machine is about to be stopped, or may not be kept awake any longer: no work is begun."""


class Gateway:
    """Says for one tenant that its machine is at work."""

    def __init__(self, identity: Identity, account_token: Path) -> None:
        """Say it as the tenant's account."""
        self._server = identity.gateway
        self._account_token = account_token

    @contextlib.contextmanager
    def lease(self, lost: threading.Event) -> Iterator[None]:
        """Hold a work lease, renewed until the work is done; `lost` is set when it is refused meanwhile.

        StoppingError if it is refused at once. Without an answer the work goes on: the request it is done
        for keeps the machine awake, too.
        """
        name = f"agent-{uuid.uuid4().hex[:12]}"
        self._take(name)
        done = threading.Event()

        def renew() -> None:
            try:
                while not done.wait(_RENEWED_AFTER):
                    self._take(name)
            except StoppingError:
                pass
            finally:
                # However the renewing has ended: the lease is as good as lost.
                lost.set()

        threading.Thread(target=renew, daemon=True).start()
        try:
            yield
        finally:
            done.set()
            self._say("DELETE", f"/v1/leases/{name}")

    def report(self, signals: list[str]) -> None:
        """Report what of the machine shows that it is in use."""
        self._say("POST", "/v1/activity", {"signals": signals})

    def _take(self, name: str) -> None:
        refused = self._say("PUT", f"/v1/leases/{name}", {"seconds": _LEASE_SECONDS})
        if refused in (403, 409):
            raise StoppingError(
                "This machine is about to be stopped, so no work is begun; the next request wakes it again."
                if refused == 409
                else "This work has kept the machine awake for as long as it may, so it ends here."
            )

    def _say(self, method: str, path: str, body: Any = None) -> int:
        """Say something; the status with which it was refused, 0 if it was not."""
        if self._server is None:
            return 0
        try:
            token = self._account_token.read_text().strip()
            remote.call(self._server, method, path, body, {"Authorization": f"Bearer {token}"})
        except remote.RefusedError as error:
            sys.stderr.write(f"The gateway refuses {method} {path}: {error.status}.\n")
            return error.status
        except OSError as error:
            sys.stderr.write(f"The gateway does not answer {method} {path}: {error}.\n")
        return 0
