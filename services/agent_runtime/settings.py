"""Where the runtime finds its things: in a machine, in a pod of a tenant's own, or in the shared one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from services.agent_runtime.identity import FILE, Server

ACCOUNT_TOKEN = Path("/run/agent-platform/token")
"""The account's token in a machine, where no pod's environment names another."""
WORKSPACE = Path("/workspace")
"""The tenant's volume in a machine."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the environment says."""

    address: str
    port: int
    account_token: Path
    scratch: Path
    """For temporary files."""
    vault: Server | None
    """Vault as the pod's environment names it; the shared runtime has no other word of it."""
    gateway: Server | None
    """The gateway as the shared runtime's environment names it."""
    database: str | None
    """The URL of the database that tenants share, likewise."""
    identity: Path = FILE
    workspace: Path | None = None
    """The tenant's volume, in a machine."""

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Self:
        """Read a pod's environment; a machine has none of it."""
        vault = _server(environment, "VAULT")
        return cls(
            address=environment.get("POD_IP", "0.0.0.0"),  # noqa: S104 — who may connect, the network's policies say
            port=8080,
            account_token=Path(environment.get("VAULT_TOKEN_FILE", ACCOUNT_TOKEN)),
            scratch=Path(environment.get("TMPDIR", "/tmp")),  # noqa: S108 — a volume of the pod's own
            vault=vault,
            gateway=_server(environment, "GATEWAY"),
            database=environment.get("DATABASE_URL"),
            workspace=None if vault else WORKSPACE,
        )


def _server(environment: Mapping[str, str], name: str) -> Server | None:
    address, authority = environment.get(f"{name}_ADDR"), environment.get(f"{name}_CACERT")
    return Server(address=address, authority=Path(authority) if authority else None) if address else None
