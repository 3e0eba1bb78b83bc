"""The arrival of a workspace on a machine's volume, as those see it who use the volume."""

import sys
import threading
from typing import TYPE_CHECKING

from services.agent_runtime.files import FolderFiles
from services.agent_runtime.identity import NotReadyError
from services.agent_runtime.vault import Vault

if TYPE_CHECKING:
    from services.agent_runtime.handover import Progress

_PATIENCE = 20.0
"""Seconds for which a request waits for files that are on their way."""
_LATE_AFTER = 5.0
"""Seconds; whoever waited for the machine to wake is answered first."""


class Arrival:
    """The taking in of what lies in the prefix, once in each process."""

    def __init__(self, volume: FolderFiles, machine: str, vault: Vault) -> None:
        """Take it in on `volume` for this `machine`, when it is first used."""
        self._volume = volume
        self._machine = machine
        self._vault = vault
        self._lock = threading.Lock()
        self._here = False
        self._work: threading.Thread | None = None
        self._failure: Exception | None = None
        self._progress: Progress | None = None

    def require(self) -> None:
        """Wait until the workspace is here. Raises NotReadyError while it is not."""
        if self._here:
            return
        with self._lock:
            if self._work is None or not self._work.is_alive():
                self._begin()
            work = self._work
        if work and not self._here:
            work.join(_PATIENCE)
        if self._failure:
            raise NotReadyError(
                f"The workspace is not complete on this machine yet, so it is not used: {self._failure}"
            )
        if not self._here:
            far = self._progress
            told = f" ({far.files} of {far.all} files are here)" if far and far.all else ""
            raise NotReadyError(
                f"The workspace is on its way to this machine{told}, so it is not used yet; try again in a "
                "few seconds."
            )

    def close(self) -> None:
        """Look for nothing late any more."""
        if isinstance(self._work, threading.Timer):
            self._work.cancel()

    def _begin(self) -> None:
        # What was written to the prefix after the workspace was taken in is late, and nobody waits for it.
        self._here = self._volume.noted() == ("here", self._machine)
        self._failure = None
        self._work = threading.Timer(_LATE_AFTER if self._here else 0.0, self._take_in)
        self._work.daemon = True
        self._work.start()

    def _take_in(self) -> None:
        # Loaded only where it is needed: it takes a machine that wakes half a second.
        from services.agent_runtime.handover import Progress, take_in

        self._progress = Progress()
        try:
            take_in(self._volume, self._vault, self._machine, self._progress)
            self._here = True
        except Exception as error:  # noqa: BLE001 - whoever asks is told
            if self._here:
                sys.stderr.write(f"Whether files lie in object storage is not known: {error}\n")
            else:
                self._failure = error
