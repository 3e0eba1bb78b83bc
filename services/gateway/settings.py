"""What the gateway is told by its environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

AGENTS_PORT = 8444
"""Envoy's, for the API for agents."""
HEALTH_PORT = 9090

_REQUIRED = (
    "DOMAIN",
    "POD_NAME",
    "POD_IP",
    "SOCKETS",
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
    """What one tenant may use, in bytes, seconds and numbers; what one connection may, Envoy bounds."""

    body: int = 2**30
    """The largest request body that may be announced."""
    tenant_requests: int = 2_048
    """Requests and streams of one tenant that are in flight at a time, or ended a moment ago."""
    patience_seconds: float = 60
    """How long the request of a program is held while its tenant wakes."""
    drain_seconds: float = 25
    """How long requests may go on after SIGTERM."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The environment, read once."""

    domain: str
    pod_name: str
    address: str
    sockets: Path
    """The folder in which Envoy finds the gateway, and the gateway Envoy's administration."""
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
            sockets=Path(environment["SOCKETS"]),
            operator_keys=Path(environment["OPERATOR_KEYS"]),
            assertion_key=Path(environment["ASSERTION_KEY"]),
            routes_namespace=environment["ROUTES_NAMESPACE"],
            limits=Limits(
                body=_number(environment, "BODY_BYTES", Limits.body),
                patience_seconds=_number(environment, "PATIENCE_SECONDS", int(Limits.patience_seconds)),
            ),
        )


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    if not text.isascii() or not text.isdigit():
        raise SettingsError(
            f"{name} is {text!r}, so the gateway does not start; it is a whole number, such as {default}"
        )
    return int(text)
