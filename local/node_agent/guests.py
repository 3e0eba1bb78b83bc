"""The guests behind VirtualMachineInstances."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from local.node_agent.kube import Object


@dataclass(frozen=True, kw_only=True)
class Guest:
    """A guest as its hypervisor sees it: on its way up, alive, shut down in good order, or crashed."""

    state: Literal["starting", "running", "shutdown", "crashed"]
    os_name: str = ""
    os_version: str = ""


class Hypervisor(Protocol):
    """Starts and stops guests, each known by the uid of its VirtualMachineInstance. No call blocks.

    Every call may be repeated. Guests outlive the agent: `find` knows those that an earlier agent started.
    """

    def find(self, machine: Object) -> Guest | None:
        """Return the guest of `machine`, None if it was never started or is forgotten."""

    def start(self, machine: Object, launcher: Object) -> None:
        """Boot the guest of `machine`, of the Pod `launcher`; it may take another call to begin."""

    def shut_down(self, machine: Object) -> None:
        """Ask the guest to shut down within `spec.terminationGracePeriodSeconds`, then switch it off.

        Called again until it is down: the second half needs that.
        """

    def forget(self, uid: str) -> None:
        """Drop what is left of a guest whose VirtualMachineInstance is final or gone."""

    def known(self) -> set[str]:
        """Return the uids of all guests that are not forgotten."""


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

    def start(self, machine: Object, launcher: Object) -> None:  # noqa: ARG002
        """Take the guest for booted."""
        self._started.add(machine["metadata"]["uid"])

    def shut_down(self, machine: Object) -> None:
        """Take the guest for shut down."""
        self._stopped.add(machine["metadata"]["uid"])

    def forget(self, uid: str) -> None:
        """Drop both notes."""
        self._started.discard(uid)
        self._stopped.discard(uid)

    def known(self) -> set[str]:
        """Return those that are noted."""
        return self._started | self._stopped


class SomeRealGuests:
    """Real guests for the machines that can have one here, reported ones for all others."""

    def __init__(self, real: Hypervisor, has_real: Callable[[Object], bool]) -> None:
        """Decide by `has_real`, each time anew; a guest that is real stays so."""
        self._real = real
        self._reported = ReportedGuests()
        self._has_real = has_real

    def find(self, machine: Object) -> Guest | None:
        """Return the guest; one that was only reported is lost once it can be real."""
        return self._of(machine).find(machine)

    def start(self, machine: Object, launcher: Object) -> None:
        """Boot the guest, or report it."""
        self._of(machine).start(machine, launcher)

    def shut_down(self, machine: Object) -> None:
        """Shut the guest down, or report that."""
        self._of(machine).shut_down(machine)

    def forget(self, uid: str) -> None:
        """Drop it in both."""
        self._real.forget(uid)
        self._reported.forget(uid)

    def known(self) -> set[str]:
        """Return those of both."""
        return self._real.known() | self._reported.known()

    def _of(self, machine: Object) -> Hypervisor:
        is_real = machine["metadata"]["uid"] in self._real.known() or self._has_real(machine)
        return self._real if is_real else self._reported
