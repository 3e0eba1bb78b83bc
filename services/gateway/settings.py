"""What the gateway is told by its environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PUBLIC_PORT = 8443
AGENTS_PORT = 8444
HEALTH_PORT = 9090

_REQUIRED = (
    "DOMAIN",
    "POD_NAME",
    "POD_IP",
    "TLS_CERTIFICATE",
    "TLS_KEY",
    "AGENTS_TLS_CERTIFICATE",
    "AGENTS_TLS_KEY",
    "REDIS_URL",
    "REDIS_PASSWORD_FILE",
    "OPERATOR_KEYS",
    "ASSERTION_KEY",
    "ROUTES_NAMESPACE",
)


class SettingsError(Exception):
    """The environment does not say what the gateway needs; the message is for whoever deploys it."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one client may use, in bytes, seconds and numbers."""

    body: int = 2**30
    """The largest request body."""
    head: int = 32 * 1024
    """The largest request or response head, and the largest amount of anything that is neither."""
    headers: int = 100
    head_seconds: float = 10
    """From a connection, or the first byte of a further request, to the end of its head."""
    keep_alive_seconds: float = 75
    stall_seconds: float = 60
    """How long a client may neither send what it announced nor take what it asked for."""
    idle_seconds: float = 600
    """How long an agent may say nothing to a request, and both sides nothing through a WebSocket."""
    connections: int = 10_000
    tenant_connections: int = 1_024
    """Connections to the agents of one tenant."""
    patience_seconds: float = 60
    """How long the request of a program is held while its tenant wakes."""
    drain_seconds: float = 25
    """How long requests may go on after SIGTERM."""


@dataclass(frozen=True, kw_only=True)
class CertificateFiles:
    """A certificate with its chain, and its private key, both PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The environment, read once."""

    domain: str
    pod_name: str
    address: str
    public: CertificateFiles
    """Shown to everybody, for the names below the domain."""
    agents: CertificateFiles
    """Shown to agents, for the name under which they reach the gateway; may be the same."""
    operator_keys: Path
    assertion_key: Path
    """The private key, in PEM, that signs the assertions for the shared runtime."""
    routes_namespace: str
    limits: Limits

    @property
    def agents_at(self) -> str:
        """The address at which this replica alone answers agents."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"https://{host}:{AGENTS_PORT}"

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Return the settings; `SettingsError` names every variable that is missing or wrong."""
        missing = [name for name in _REQUIRED if not environment.get(name)]
        if missing:
            raise SettingsError(
                f"the environment lacks {', '.join(missing)}, so the gateway does not start; "
                "its Deployment in the namespace `gateway` sets them"
            )
        return cls(
            domain=environment["DOMAIN"].lower().strip("."),
            pod_name=environment["POD_NAME"],
            address=environment["POD_IP"],
            public=_files(environment, "TLS"),
            agents=_files(environment, "AGENTS_TLS"),
            operator_keys=Path(environment["OPERATOR_KEYS"]),
            assertion_key=Path(environment["ASSERTION_KEY"]),
            routes_namespace=environment["ROUTES_NAMESPACE"],
            limits=Limits(
                body=_number(environment, "BODY_BYTES", Limits.body),
                patience_seconds=_number(environment, "PATIENCE_SECONDS", int(Limits.patience_seconds)),
            ),
        )


def _files(environment: Mapping[str, str], prefix: str) -> CertificateFiles:
    return CertificateFiles(
        certificate=Path(environment[f"{prefix}_CERTIFICATE"]), key=Path(environment[f"{prefix}_KEY"])
    )


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    if not text.isascii() or not text.isdigit():
        raise SettingsError(
            f"{name} is {text!r}, so the gateway does not start; it is a whole number, such as {default}"
        )
    return int(text)
