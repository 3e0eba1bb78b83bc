"""Waking a tenant: one task per tenant, however many requests wait for it."""

from dataclasses import dataclass
from typing import Literal

from services.gateway.routes import Route

Phase = Literal["asleep", "queued", "start", "boot", "ready", "awake", "failed"]
Kind = Literal["no-capacity", "image", "crash-loop", "volume", "not-ready", "not-active", "unknown"]


@dataclass(frozen=True, kw_only=True)
class State:
    """Where a tenant stands, for a page."""

    phase: Phase
    seconds: float = 0
    """How long the wake under way has taken so far."""


class StillWaking(Exception):  # noqa: N818 - no error, the wake goes on
    """Patience has run out before the tenant was ready; ask again in `retry_after` seconds."""

    def __init__(self, phase: Phase, seconds: float, retry_after: int) -> None:
        """Tell how far the wake is and how many seconds it has taken."""
        super().__init__(f"{phase} after {seconds:.0f} s")
        self.phase = phase
        self.seconds = seconds
        self.retry_after = retry_after


class CannotWake(Exception):  # noqa: N818 - the reason to a caller, not a fault of ours
    """The tenant cannot be woken now; no attempt is made for `retry_after` seconds."""

    def __init__(self, kind: Kind, detail: str, retry_after: int) -> None:
        """Tell the kind for programs and the detail for people."""
        super().__init__(f"{kind}: {detail}")
        self.kind: Kind = kind
        self.detail = detail
        self.retry_after = retry_after


class Wakes:
    """Who is awake, and the wakes under way."""

    def state(self, route: Route) -> State:
        """Return where the tenant stands, from what is known here."""
        raise NotImplementedError

    async def awake(self, route: Route, patience: float) -> str:
        """Return the tenant's address (`http://ip:port`) once it is ready, waking it if need be.

        The caller has entered its request with `Holds` before. Raises `StillWaking` when `patience` seconds
        are over, `CannotWake` when it failed.
        """
        raise NotImplementedError

    def invalidate(self, route: Route) -> None:
        """Take back that the tenant is ready: a connection to it was refused."""
        raise NotImplementedError
