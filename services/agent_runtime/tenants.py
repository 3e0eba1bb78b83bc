"""Whom this runtime serves, and each one's agent."""

import dataclasses
import importlib
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

from services.agent_runtime import identity
from services.agent_runtime.files import Files
from services.agent_runtime.gateway import Gateway
from services.agent_runtime.identity import Identity, NotReadyError
from services.agent_runtime.settings import Settings
from services.agent_runtime.vault import Vault

_PRELOAD_AFTER = 2.0
"""Seconds; whoever waited for the machine to wake is answered first."""
_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class UnknownTenantError(Exception):
    """A request for somebody who is not served here."""


class Tenant:
    """One tenant: its login, its workspace and its agent."""

    def __init__(self, known: Identity, settings: Settings, files: Files) -> None:
        """Do nothing yet."""
        self.known = known
        self._began = time.time()
        self.files = files
        self.vault = Vault(known, settings.account_token)
        # Only a machine sleeps, and only its token is one that the gateway takes.
        awake = known if settings.workspace else dataclasses.replace(known, gateway=None)
        self.gateway = Gateway(awake, settings.account_token)

    def ready(self) -> None:
        """NotReadyError unless the tenant's login and workspace are there."""
        self.vault.log_in()
        if not self.files.folder.is_dir():
            raise NotReadyError(f"{self.files.folder}: there is no workspace, so nothing would be kept.")

    def told(self) -> dict[str, Any]:
        """Who this is."""
        return {
            "tenant": self.known.tenant,
            "tier": self.known.tier,
            "runtime": "agent-platform",
            "servingFor": round(time.time() - self._began),
            "files": self.files.listed(),
        }

    def answer(self, prompt: str) -> Iterator[dict[str, Any]]:
        """Run the agent on a prompt; its events, as they come."""
        from services.agent_runtime.agent import answer

        return answer(prompt, self.known, self.vault, self.gateway, self.files)


class Tenants:
    """The only tenant of a machine or a pod of its own; in the shared runtime any, by the gateway's word."""

    def __init__(self, settings: Settings) -> None:
        """Know nobody yet."""
        self._settings = settings
        self._lock = threading.Lock()
        self._known: dict[str, Tenant] = {}
        self._own: Tenant | None = None
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

    def of(self, name: str | None) -> Tenant:
        """The tenant that the gateway names; a runtime of one tenant's own takes no other's request."""
        if not self.shared:
            tenant = self.only()
            own = tenant.known.tenant
            if name not in (None, own):
                raise UnknownTenantError(f"{name}: this is the runtime of {own} and of nobody else.")
            return tenant
        if not name or not _ID.fullmatch(name):
            raise UnknownTenantError(
                "X-Tenant names no tenant: the shared runtime is reached by the gateway."
            )
        return self._shared(name)

    def only(self) -> Tenant:
        """The tenant whose own runtime this is; NotReadyError while it is unknown."""
        with self._lock:
            if self._own is None:
                settings = self._settings
                folder = settings.workspace or settings.scratch / "workspace"
                if settings.workspace is None:
                    folder.mkdir(exist_ok=True)
                self._own = Tenant(identity.read(settings.identity), settings, Files(folder))
            return self._own

    def _shared(self, name: str) -> Tenant:
        settings = self._settings
        if settings.vault is None:
            raise NotReadyError("VAULT_ADDR: not set, so no tenant can be logged in; the platform sets it.")
        with self._lock:
            tenant = self._known.get(name)
        if tenant is None:
            known = identity.shared(name, settings.vault.address, settings.vault.authority)
            tenant = Tenant(known, settings, Files(settings.scratch / "workspaces" / name))
            # Vault decides whom this runtime serves, before anything is kept of anybody.
            tenant.vault.log_in()
            tenant.files.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._lock:
                tenant = self._known.setdefault(name, tenant)
        else:
            tenant.vault.log_in()
        return tenant


def _load_agent() -> None:
    """Load what the first prompt needs, which is most of what there is to load."""
    importlib.import_module("services.agent_runtime.agent")
