"""One tenant's tables, objects, secrets and workspace, for agents' code and its own (docs/agents.md).

The names of the guide's "Implementation Pattern". What it does by naming the tenant in each statement and
path is done here by the login: it can enter the one schema, prefix and folder of secrets and nothing else.
"""

import os
import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from services.agent_runtime import identity
from services.agent_runtime.arrival import Arrival
from services.agent_runtime.credentials import Account
from services.agent_runtime.files import Files, FolderFiles
from services.agent_runtime.identity import Identity, NotReadyError
from services.agent_runtime.settings import Settings
from services.agent_runtime.vault import Vault

if TYPE_CHECKING:
    from services.agent_runtime.database import Database
    from services.agent_runtime.storage import Storage


class Secrets:
    """The tenant's secrets, each some named fields."""

    def __init__(self, vault: Vault) -> None:
        """Read and write them in `vault`."""
        self._vault = vault

    def names(self) -> list[str]:
        """The names of all; a folder's ends in a slash."""
        return self._vault.secrets()

    def read(self, name: str) -> dict[str, Any]:
        """The fields of a secret; empty if there is none."""
        return self._vault.needed(name)

    def write(self, name: str, **fields: Any) -> None:
        """Write a secret, in the place of what was there."""
        self._vault.write_secret(name, fields)

    def delete(self, name: str) -> None:
        """Delete a secret."""
        self._vault.delete_secret(name)


class TenantContext:
    """One tenant's tables, objects, secrets and workspace.

    Nothing is reached before it is used. What is used raises NotReadyError if it cannot be reached, with what
    is missing and whose it is to mend; RefusedPathError for a name that cannot be.
    """

    secrets: Secrets

    def __init__(self, known: Identity, vault: Vault, settings: Settings) -> None:
        """Reach all of it as `vault` lets in."""
        self.tenant = known.tenant
        self.tier = known.tier
        self.secrets = Secrets(vault)
        self._files = _workspace(settings, vault)
        self._known = known
        self._vault = vault
        self._settings = settings
        self._lock = threading.Lock()
        self._database: Database | None = None
        volume = self._files if isinstance(self._files, FolderFiles) else None
        self._arrival = Arrival(volume, known.machine, vault) if volume else None

    @classmethod
    def own(cls) -> Self:
        """That of the tenant whose machine or pod this is; NotReadyError if it is nobody's."""
        settings = Settings.read(os.environ)
        known = identity.read(settings.identity)
        return cls(known, Vault(known, Account(settings.account_token, known.tenant)), settings)

    def ready(self) -> None:
        """NotReadyError unless what is written to the workspace would last."""
        self._files.ready()

    @property
    def workspace(self) -> Files:
        """The machine's volume, or `workspace/` in the prefix of a tenant without one.

        A volume is used once what lies in the prefix is there, too; NotReadyError until then.
        """
        if self._known.leaving:
            raise NotReadyError(f"{self.tenant} is moving, so its workspace is not used until it has moved.")
        if self._arrival:
            self._arrival.require()
        return self._files

    @property
    def database(self) -> "Database":
        """The tables of the tenant's schema."""
        # Loaded only where it is needed, as the storage is: a machine that wakes has no time for it.
        from services.agent_runtime.database import Database

        with self._lock:
            if self._database is None:
                self._database = Database(self._known, self._vault)
            return self._database

    @cached_property
    def storage(self) -> "Storage":
        """The folders of its prefix in object storage."""
        from services.agent_runtime.storage import Storage

        return Storage(self._vault, self._settings.scratch)

    def close(self) -> None:
        """End its connections and its login."""
        if self._arrival:
            self._arrival.close()
        with self._lock:
            if self._database:
                self._database.close()
        self._vault.leave()

    def __enter__(self) -> Self:
        """Nothing is reached yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


def _workspace(settings: Settings, vault: Vault) -> Files:
    if settings.workspace:
        return FolderFiles(settings.workspace)
    # Loaded only where it is needed: it takes a machine that wakes half a second.
    from services.agent_runtime.prefix_files import PrefixFiles

    return PrefixFiles(vault, settings.scratch)
