"""The guests behind VirtualMachineInstances."""

from dataclasses import dataclass
from typing import Literal, Protocol

from local.node_agent.kube import Object


@dataclass(frozen=True, kw_only=True)
class Guest:
    """A guest as its hypervisor sees it: alive, shut down in good order, or crashed."""

    state: Literal["running", "shutdown", "crashed"]
    os_name: str = ""
    os_version: str = ""


class Hypervisor(Protocol):
    """Starts and stops guests, each known by the uid of its VirtualMachineInstance. No call blocks.

    Every call may be repeated. Guests outlive the agent: `find` knows those that an earlier agent started.
    """

    def find(self, machine: Object) -> Guest | None:
        """Return the guest of `machine`, None if it was never started or is forgotten."""

    def start(self, machine: Object) -> None:
        """Boot the guest of `machine`."""

    def shut_down(self, machine: Object) -> None:
        """Ask the guest to shut down within `spec.terminationGracePeriodSeconds`, then switch it off."""

    def forget(self, uid: str) -> None:
        """Drop what is left of a guest whose VirtualMachineInstance is final or gone."""


class ReportedGuests:
    """Guests that exist in their status only: they are up as soon as they are started."""

    def __init__(self) -> None:
        """Start with no guest but those that the API server says are running."""
        self._started: set[str] = set()
        self._stopped: set[str] = set()

    def find(self, machine: Object) -> Guest | None:
        """Return the guest of `machine`; a machine in phase Running has had one before this agent started."""
        uid = machine["metadata"]["uid"]
        if uid in self._stopped:
            return Guest(state="shutdown")
        if uid in self._started or machine["status"]["phase"] == "Running":
            return Guest(state="running")
        return None

    def start(self, machine: Object) -> None:
        """Take the guest for booted."""
        self._started.add(machine["metadata"]["uid"])

    def shut_down(self, machine: Object) -> None:
        """Take the guest for shut down."""
        self._stopped.add(machine["metadata"]["uid"])

    def forget(self, uid: str) -> None:
        """Drop both notes."""
        self._started.discard(uid)
        self._stopped.discard(uid)
