"""Who the agents act as, and where they ask for the rest: `identity.json`, as the platform writes it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path("/etc/agent-platform")
FILE = FOLDER / "identity.json"


class NotReadyError(Exception):
    """What is missing before agents can run, what follows from it, and how to mend it."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server of the platform's."""

    address: str
    authority: Path | None
    """What it is verified by; without it, by what the system trusts."""
    name: str | None = None
    """The name in its certificate, if that is not its address."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One tenant, and its places at the platform's servers."""

    tenant: str
    tier: str
    vault: Server
    login: str
    """The path at which Vault is asked for a login, such as `auth/kubernetes/login`."""
    role: str
    secrets: str
    """The tenant's folder of secrets, such as `tenants/acme`."""
    logins: str
    """The path at which Vault is asked for a login to PostgreSQL, such as `database/creds/tenant-acme`."""
    database: str | None
    """The URL of the tenant's database, without a login; None in what an earlier release wrote."""
    object_storage: str | None = None
    """The endpoint as it is reached from here; None: as the secret with its key names it."""
    commands: bool = False
    """True if commands that the tenant names may run here, with the reach of this process."""
    machine: str = ""
    """A value that no earlier machine of the tenant had."""
    leaving: bool = False
    """True if the machine is to hand its workspace over, and to serve nobody."""
    gateway: Server | None = None
    """Where work leases are taken; a tenant without a machine never sleeps, and takes none."""


def read(file: Path = FILE) -> Identity:
    """Read the identity of the only tenant that is served here.

    Raises NotReadyError if the file cannot be read or is none.
    """
    try:
        said = json.loads(file.read_bytes())
        vault, gateway = said["vault"], said.get("gateway")
        database, storage = said.get("database"), said.get("objectStorage")
        return Identity(
            tenant=said["tenant"],
            tier=said["tier"],
            vault=_server(vault),
            login=f"{vault['authentication']['path']}/login",
            role=vault["authentication"]["role"],
            secrets=vault["secrets"],
            logins=vault["databaseLogin"],
            database=database if isinstance(database, str) else None,
            object_storage=storage if isinstance(storage, str) else None,
            commands=said.get("commands") is True,
            machine=str(said.get("machine") or ""),
            leaving=said.get("leaving") is True,
            gateway=_server(gateway) if gateway else None,
        )
    except OSError as error:
        raise NotReadyError(f"{file}: {error.strerror}, so it is unknown whose agents run here.") from None
    except (ValueError, LookupError, TypeError) as error:
        raise NotReadyError(
            f"{file}: no identity ({type(error).__name__}: {error}), so it is unknown whose agents run here; "
            "the platform writes this file, and writes it again at the next start."
        ) from None


def shared(tenant: str, vault: Server, database: str) -> Identity:
    """The identity of one of the tenants that the shared runtime serves: all follows from its id."""
    return Identity(
        tenant=tenant,
        tier="starter",
        vault=vault,
        login="auth/jwt/login",
        role=f"tenant-{tenant}",
        secrets=f"tenants/{tenant}",
        logins=f"database/creds/tenant-{tenant}",
        database=database,
    )


def _server(said: dict[str, Any]) -> Server:
    authority = said.get("authority")
    return Server(address=said["address"], authority=Path(authority) if authority else None)
