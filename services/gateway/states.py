"""Where a tenant stands on its way from asleep to awake, and what a request is told that comes meanwhile."""

from dataclasses import dataclass
from typing import Literal

Phase = Literal["asleep", "stopping", "queued", "start", "boot", "ready", "awake", "failed"]
"""A wake is `queued` (for its turn, or until a stop under way is over), then the machine's `start`, its
`boot` until the guest answers anything at all, and `ready`, until it says that it is."""

Kind = Literal["no-capacity", "image", "crash-loop", "volume", "not-ready", "not-active", "unknown"]

_RETRY_AFTER = 2


class StillWaking(Exception):  # noqa: N818 - no error, the wake goes on
    """Patience has run out before the tenant was ready; ask again in `retry_after` seconds."""

    def __init__(self, phase: Phase, seconds: float, retry_after: int = _RETRY_AFTER) -> None:
        """Tell how far the wake is and how many seconds it has taken."""
        super().__init__(f"{phase} after {seconds:.0f} s")
        self.phase: Phase = phase
        self.seconds = seconds
        self.retry_after = retry_after


class CannotWake(Exception):  # noqa: N818 - the reason to a caller, not a fault of ours
    """The tenant cannot be woken now; no attempt is made for `retry_after` seconds."""

    def __init__(self, kind: Kind, detail: str, retry_after: int) -> None:
        """Tell the kind to whoever asked, and the detail, in the cluster's words, to operators only."""
        super().__init__(f"{kind}: {detail}")
        self.kind: Kind = kind
        self.detail = detail
        self.retry_after = retry_after


@dataclass(frozen=True, kw_only=True)
class State:
    """Where a tenant stands, for a page."""

    phase: Phase
    seconds: float | None = None
    """How long a wake under way has taken, or how long the machine has been awake or asleep."""
    failure: CannotWake | None = None
