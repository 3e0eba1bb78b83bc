"""The pace at which one tenant begins runs in a process of the shared runtime."""

import time

A_MINUTE = 12
"""Each takes the process a tenth of a second."""
IN_A_ROW = 10
_EVERY = 60.0 / A_MINUTE
_LONGEST = 60.0
"""Seconds that anybody is told to wait."""


class Pace:
    """Some in a row, then one every few seconds; each that is refused is told a later turn."""

    def __init__(self) -> None:
        """Begin with all that may come in a row."""
        self._left = float(IN_A_ROW)
        self._at = time.monotonic()
        self._turn = 0.0

    def begin(self) -> float:
        """Count a run that is to begin: 0. If it may not, return in how many seconds it is its turn."""
        now = self._refill()
        if self._left >= 1:
            self._left -= 1
            return 0.0
        self._turn = min(max(self._turn, now) + _EVERY, now + _LONGEST)
        return self._turn - now

    def is_rested(self) -> bool:
        """Return True if it is as in the beginning, so that it need not be kept."""
        return self._turn < self._refill() and self._left >= IN_A_ROW

    def _refill(self) -> float:
        now = time.monotonic()
        self._left = min(IN_A_ROW, self._left + (now - self._at) / _EVERY)
        self._at = now
        return now
