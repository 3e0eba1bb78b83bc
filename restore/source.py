"""The steps of every kind of restore, in this order: `plan`, `prepare`, `apply`, `differences`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Change:
    """One thing that the restore changes."""

    what: str
    now: str
    """The present contents; they are gone afterwards, but for the way back."""
    then: str
    """The contents afterwards."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The changes that a restore would make."""

    changes: Sequence[Change]
    same: int
    """The number of things that are already as they were."""
    way_back: str
    """A sentence that tells the way to undo the restore."""
    lost: Sequence[str] = ()
    """The things that cannot come back and stay as they are, each with the reason."""


class Source(Protocol):
    """Something that can be brought back."""

    def plan(self) -> Plan:
        """Find out what would be changed, and change nothing. Raises RestoreError."""
        ...

    def prepare(self, plan: Plan) -> str:
        """Do what has to be done before anything is changed; return how to undo the restore.

        Raises RestoreError.
        """
        ...

    def apply(self, plan: Plan) -> None:
        """Do what was planned. Raises RestoreError; it can be repeated after an interruption."""
        ...

    def differences(self) -> list[str]:
        """Compare what is there with what was there at the time, and return what differs."""
        ...
