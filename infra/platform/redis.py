"""Redis protocol store of activity (Valkey), keys `activity:TENANT`."""

from dataclasses import dataclass

import pulumi


@dataclass(frozen=True, kw_only=True)
class Redis:
    """Where the activity store is."""

    host: pulumi.Input[str]
    port: pulumi.Input[int]
    tls: bool
    password: pulumi.Output[str]
    """Secret."""
