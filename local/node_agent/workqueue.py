"""What is to be looked at, and when."""

import heapq
import threading
import time

Work = tuple[str, str, str]
"""Kind, namespace and name."""


class WorkQueue:
    """Keys that fall due, each at most once; safe to fill from any thread."""

    def __init__(self) -> None:
        """Start empty."""
        self._due: dict[Work, float] = {}
        self._heap: list[tuple[float, Work]] = []
        self._condition = threading.Condition()
        self.closed = False

    def add(self, work: Work, delay: float = 0) -> None:
        """Let `work` fall due in `delay` seconds, or earlier if it was to already."""
        due = time.monotonic() + delay
        with self._condition:
            if self._due.get(work, float("inf")) <= due:
                return
            self._due[work] = due
            heapq.heappush(self._heap, (due, work))
            self._condition.notify()

    def take(self) -> Work | None:
        """Wait for the next work that is due; None once the queue is closed."""
        with self._condition:
            while not self.closed:
                while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
                    heapq.heappop(self._heap)  # an earlier time has replaced it
                wait = self._heap[0][0] - time.monotonic() if self._heap else None
                if wait is not None and wait <= 0:
                    _, work = heapq.heappop(self._heap)
                    del self._due[work]
                    return work
                self._condition.wait(wait)
            return None

    def close(self) -> None:
        """Let every `take` return None."""
        with self._condition:
            self.closed = True
            self._condition.notify_all()
