"""What each tier is sold with, and how far a tenant of it can grow. Every tier gets a machine of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

TierName = Literal["starter", "professional", "enterprise", "private-cloud"]


@dataclass(frozen=True)
class Size:
    """What a tenant buys: all of it reaches the guest, the platform adds its own overhead."""

    cpu: int
    """Virtual CPUs."""
    memory_gib: int
    """Memory in GiB."""
    workspace_gib: int
    """The workspace volume in GiB."""


@dataclass(frozen=True)
class Tier:
    """A tier's size as sold, and the largest that an entry's `sizes` may ask for."""

    default: Size
    maximum: Size


#                                     CPU, memory, workspace
TIERS: Mapping[TierName, Tier] = {
    "starter": Tier(default=Size(1, 2, 10), maximum=Size(2, 4, 20)),
    "professional": Tier(default=Size(2, 4, 20), maximum=Size(4, 8, 100)),
    "enterprise": Tier(default=Size(4, 8, 50), maximum=Size(8, 32, 500)),
    "private-cloud": Tier(default=Size(4, 8, 100), maximum=Size(16, 128, 2000)),
}
