"""Whom this runtime serves, and each one's agent."""

import contextlib
import dataclasses
import importlib
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from email.message import Message
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from services.agent_runtime import identity
from services.agent_runtime.context import TenantContext
from services.agent_runtime.credentials import Account, Assertion, Credential
from services.agent_runtime.gateway import Gateway
from services.agent_runtime.identity import Identity, NotReadyError, Server
from services.agent_runtime.settings import Settings
from services.agent_runtime.vault import Vault

_PRELOAD_AFTER = 2.0
"""Seconds; whoever waited for the machine to wake is answered first."""
_MOST_REQUESTS = 64
"""Requests of one tenant that the shared runtime has in hand: each takes threads that all tenants share."""
_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class UnknownTenantError(Exception):
    """A request for somebody who is not served here."""


class BusyError(Exception):
    """One request too many of a tenant's at once."""


class Asked(NamedTuple):
    """The headers that the gateway adds to a request; it removes a client's own."""

    tenant: str | None
    assertion: str | None = None
    """The credential that Vault accepts for that tenant."""
    gateway: str | None = None
    """The address of the gateway's replica that has the request."""

    @classmethod
    def read(cls, headers: Message) -> "Asked":
        """Take it from the headers of the request."""
        return cls(headers.get("X-Tenant"), headers.get("X-Assertion"), headers.get("X-Gateway"))


class Tenant:
    """One tenant: its login, what it has, and its agent."""

    def __init__(self, known: Identity, settings: Settings, credential: Credential | None = None) -> None:
        """Do nothing yet; without a `credential`, its account's token is one."""
        self.known = known
        self._began = time.time()
        self.vault = Vault(known, credential or Account(settings.account_token, known.tenant))
        self.context = TenantContext(known, self.vault, settings)
        # Only a machine sleeps, and only its token is one that the gateway takes.
        awake = known if settings.workspace else dataclasses.replace(known, gateway=None)
        self.gateway = Gateway(awake, settings.account_token)

    def ready(self) -> None:
        """NotReadyError unless the tenant's login and workspace are there."""
        self.vault.log_in()
        self.context.workspace.ready()

    def told(self) -> dict[str, Any]:
        """Who this is."""
        return {
            "tenant": self.known.tenant,
            "tier": self.known.tier,
            "runtime": "agent-platform",
            "servingFor": round(time.time() - self._began),
            "files": self.context.workspace.listed().names,
        }

    def answer(self, prompt: str) -> Iterator[dict[str, Any] | None]:
        """Run the agent on a prompt; its events, as they come, and None while nothing comes."""
        from services.agent_runtime.agent import answer

        return answer(prompt, self.known, self.context, self.gateway)


class Tenants:
    """The only tenant of a machine or a pod of its own; in the shared runtime any, by the gateway's word."""

    def __init__(self, settings: Settings) -> None:
        """Know nobody yet."""
        self._settings = settings
        if not settings.workspace:
            # Loaded before the first request, which would wait for it.
            importlib.import_module("services.agent_runtime.prefix_files")
        self._lock = threading.Lock()
        self._own: Tenant | None = None
        self._requests: Counter[str | None] = Counter()
        self._preload = threading.Timer(_PRELOAD_AFTER, _load_agent)
        self._preload.daemon = True

    @property
    def shared(self) -> bool:
        """Whether this is the runtime that tenants share: it is told of none."""
        return self._settings.workspace is None and not self._settings.identity.exists()

    def ready(self) -> dict[str, Any]:
        """What is ready; NotReadyError if it is not."""
        if self.shared:
            return {"status": "ok", "serves": "whom Vault lets it"}
        tenant = self.only()
        tenant.ready()
        with self._lock:
            if not self._preload.ident:
                self._preload.start()
        return {"status": "ok", "tenant": tenant.known.tenant}

    @contextlib.contextmanager
    def of(self, asked: Asked) -> Iterator[Tenant]:
        """The tenant that the gateway names, for one request.

        A runtime of one tenant's own takes no other's request; the shared one keeps nothing afterwards.
        """
        if self.shared:
            with self._counted(asked.tenant):
                tenant = self._shared(asked)
                try:
                    yield tenant
                finally:
                    tenant.context.close()
            return
        tenant = self.only()
        own = tenant.known.tenant
        if asked.tenant not in (None, own):
            raise UnknownTenantError(f"{asked.tenant}: this is the runtime of {own} and of nobody else.")
        yield tenant

    def only(self) -> Tenant:
        """The tenant whose own runtime this is; NotReadyError while it is unknown."""
        with self._lock:
            if self._own is None:
                known = identity.read(self._settings.identity)
                self._own = Tenant(known, self._settings)
            return self._own

    @contextlib.contextmanager
    def _counted(self, tenant: str | None) -> Iterator[None]:
        """Count a request of a tenant's while it is in hand; BusyError if there are too many."""
        with self._lock:
            if self._requests[tenant] == _MOST_REQUESTS:
                raise BusyError(
                    f"{tenant} has {_MOST_REQUESTS} requests in hand already, so this one is not begun; ask "
                    "again when one has ended."
                )
            self._requests[tenant] += 1
        try:
            yield
        finally:
            with self._lock:
                self._requests[tenant] -= 1
                if not self._requests[tenant]:
                    del self._requests[tenant]

    def _shared(self, asked: Asked) -> Tenant:
        settings, name = self._settings, asked.tenant
        if not name or not _ID.fullmatch(name) or not asked.assertion or not asked.gateway:
            raise UnknownTenantError(
                "X-Tenant, X-Assertion and X-Gateway name no tenant's request: the shared runtime is reached "
                "by the gateway."
            )
        if settings.vault is None or settings.gateway is None or settings.database is None:
            raise NotReadyError(
                "VAULT_ADDR, GATEWAY_ADDR and DATABASE_URL: not all set, so no tenant can be logged in; the "
                "platform sets them."
            )
        replica = Server(
            address=asked.gateway,
            authority=settings.gateway.authority,
            name=urlsplit(settings.gateway.address).hostname,
        )
        known = identity.shared(name, settings.vault, settings.database)
        tenant = Tenant(known, settings, Assertion(asked.assertion, replica))
        # Vault decides whom this runtime serves, before anything is done for anybody.
        tenant.vault.log_in()
        return tenant


def _load_agent() -> None:
    """Load what the first prompt needs, which is most of what there is to load."""
    importlib.import_module("services.agent_runtime.agent")
