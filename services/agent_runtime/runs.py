"""Runs at work: each goes on without whoever asked for it, and is read from the tenant's tables."""

import asyncio
import contextlib
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import psycopg

from services.agent_runtime.agent import Prepared, Worker
from services.agent_runtime.agent import told as words_for
from services.agent_runtime.gateway import Gateway
from services.agent_runtime.identity import NotReadyError
from services.agent_runtime.problems import BusyError
from services.agent_runtime.tables.runs import Ended, Event, Order, Run, RunLog

_SEEN = 10.0
"""Seconds until a run that says nothing says that it is at work; after two minutes, it counts as cut off."""
_PACE = 0.1
"""Seconds between two writes of what happens in a run."""
_UNSEEN = 45.0
"""Seconds without its tables after which a run ends."""
_ELSEWHERE = 1.0
"""Seconds between two looks at a run that is at work elsewhere."""
_QUIET = 15.0
"""Seconds without an event after which whoever follows is told so."""
_PREPARING = 60.0
"""Seconds for an agent's MCP servers to be connected."""
_LEFT_AFTER = 15.0
"""Seconds after which an agent that was told to end, and does not, is left to itself."""
_LEFT_AT_STOP = 2.0
"""The same when the runtime itself stops."""
_ENDING = 0.5
"""Seconds between two looks at whether it has."""
_LAST_WORD = (0.0, 2.0, 5.0, 10.0)
"""Seconds before each attempt to note a run's end."""

_MAY_NO_LONGER = Ended("failed", error="The run was ended: it may work no longer.")
_STOPPED = Ended("failed", error="The run was cut off: the machine or pod that it was in was stopped.")
_UNPREPARED = Ended("failed", error=f"An MCP server was not connected in {_PREPARING:.0f} s.")
_CANCELLED = Ended("cancelled")


class _Live:
    """A run that is at work here."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        """Set when the agent is to end."""
        self.lost = threading.Event()
        """Set when the lease is."""
        self.prepared = threading.Event()
        """Set when the agent has begun."""
        self.over = threading.Event()
        """Set when its end is noted."""
        self.verdict: Ended | None = None
        """The end that the run gets, if it is not the agent's own; None: the agent's."""
        self._cancel: Callable[[], object] = lambda: None
        self._changed = threading.Condition()
        self._version = 0

    def cancelled_by(self, cancel: Callable[[], object]) -> None:
        """Have `cancel` end the agent, whatever it waits for."""
        self._cancel = cancel
        if self.stop.is_set():
            cancel()

    def end(self, verdict: Ended) -> None:
        """End the agent; the first verdict holds."""
        if self.verdict is None:
            self.verdict = verdict
        self.stop.set()
        with contextlib.suppress(RuntimeError):  # it has ended
            self._cancel()

    def version(self) -> int:
        """Count the times that something new was noted."""
        return self._version

    def change(self) -> None:
        """Wake whoever waits for what is new."""
        with self._changed:
            self._version += 1
            self._changed.notify_all()

    def wait_beyond(self, version: int, seconds: float) -> None:
        """Wait for something new."""
        with self._changed:
            self._changed.wait_for(lambda: self._version > version, seconds)


class _Notes:
    """The events of one run at work, and their way into the tables."""

    def __init__(self, log: RunLog, number: int, live: _Live) -> None:
        self._log, self._number, self._live = log, number, live
        self._events: list[Event] = []
        self._count = 0
        self._reached = time.monotonic()

    def add(self, event: str, data: Any) -> None:
        """Add an event; text goes on with the text before it."""
        if self._events and self._events[-1].event == event == "text":
            self._events[-1] = self._events[-1]._replace(data=self._events[-1].data + data)
        else:
            self._count += 1
            self._events.append(Event(self._count, event, data))

    def write(self) -> None:
        """Note what there is, and that the run is at work; end it if it may not go on, or cannot be noted."""
        try:
            goes_on = self._log.tell(self._number, self._events)
        except NotReadyError as error:
            if time.monotonic() - self._reached > _UNSEEN:
                self._live.end(Ended("failed", error=str(error)))
            return
        except (OSError, psycopg.Error) as error:
            self._live.end(Ended("failed", error=_cannot_be_noted(error)))
            return
        self._reached = time.monotonic()
        self._events.clear()
        if not goes_on:
            self._live.end(_CANCELLED)
        self._live.change()

    def write_end(self, ended: Ended) -> None:
        """Note the end. What cannot be noted now counts as cut off in two minutes."""
        if ended.status == "failed":
            self.add("error", ended.error)
        else:
            self.add("done" if ended.status == "succeeded" else "cancelled", {})
        failure: Exception | None = None
        for pause in _LAST_WORD:
            time.sleep(pause)
            try:
                self._log.end(self._number, ended, self._events)
                return
            except (NotReadyError, OSError) as error:
                failure = error
            except psycopg.Error as error:
                failure = error
                # Without what is refused, the end itself may be taken.
                self._events.clear()
                ended = ended._replace(status="failed", error=_cannot_be_noted(error))
        sys.stderr.write(f"The end of run {self._number} is not noted: {failure}\n")


def _cannot_be_noted(error: Exception) -> str:
    return f"What happens in it cannot be noted: {error}"


class Runs:
    """The runs of one tenant."""

    def __init__(
        self,
        worker: Worker,
        gateway: Gateway,
        in_use: Callable[[], contextlib.AbstractContextManager[Any]],
        most: int,
    ) -> None:
        """Have `worker` do them, so many at once; `in_use` keeps what it works with while it is entered."""
        self._worker = worker
        self._gateway = gateway
        self._in_use = in_use
        self._most = most
        self._places = threading.BoundedSemaphore(most)
        self._live: dict[int, _Live] = {}

    @property
    def log(self) -> RunLog:
        """All of them, in the tenant's tables."""
        return RunLog(self._worker.context.database)

    def begin(self, order: Order) -> int:
        """Begin a run; its number.

        Raises BusyError, StoppingError, and what `RunLog.begin` does.
        """
        if not self._places.acquire(blocking=False):
            raise BusyError(
                f"{self._worker.known.tenant} has {self._most} runs at work already, so this one does not "
                "begin; ask again when one has ended."
            )
        live = _Live()
        told: _Told = queue.SimpleQueue()
        # What the agent holds it holds for as long as its thread is there, though nobody waits for that.
        with contextlib.ExitStack() as agents, contextlib.ExitStack() as stack:
            agents.callback(self._places.release)
            agents.enter_context(self._in_use())
            stack.enter_context(self._in_use())
            stack.enter_context(self._gateway.lease(live.lost))
            number, agent = self.log.begin(order)
            self._live[number] = live
            stack.callback(self._live.pop, number)
            _start(self._note, live, told, _Notes(self.log, number, live), stack.pop_all())
            try:
                _start(self._work, order, agent, live, told, agents.pop_all())
            except NotReadyError as error:
                told.put(Ended("failed", error=str(error)))
                raise
        return number

    def follow(self, number: int, after: int = 0) -> Iterator[Event | None]:
        """Go through what happens in a run after an event, until it ends; None while nothing does.

        Raises NotFoundError.
        """
        told = time.monotonic()
        while True:
            live = self._live.get(number)
            version = live.version() if live else 0
            events, more = self.log.events(number, after)
            for event in events:
                after = event.number
                yield event
                told = time.monotonic()
            if not more:
                return
            if live:
                live.wait_beyond(version, _QUIET)
            else:
                time.sleep(_ELSEWHERE)
            if time.monotonic() - told >= _QUIET:
                yield None
                told = time.monotonic()

    def cancel(self, number: int) -> Run:
        """Have a run end, wherever it is at work; return it as it is now. Raises NotFoundError."""
        run = self.log.cancel(number)
        if live := self._live.get(number):
            live.end(_CANCELLED)
        return run

    def close(self, seconds: float) -> None:
        """End all that are at work here, and wait so long for their ends to be noted."""
        until = time.monotonic() + seconds
        living = list(self._live.values())
        for live in living:
            live.end(_STOPPED)
        for live in living:
            live.over.wait(max(0.0, until - time.monotonic()))

    def _note(self, live: _Live, told: "_Told", notes: _Notes, kept: contextlib.ExitStack) -> None:
        """Note what the agent tells."""
        with kept:
            ended = _noted(told, live, notes)
            if live.verdict:
                ended = ended._replace(status=live.verdict.status, error=live.verdict.error)
            notes.write_end(ended)
        live.over.set()
        live.change()

    def _work(self, order: Order, agent: str, live: _Live, told: "_Told", kept: contextlib.ExitStack) -> None:
        """Have the agent work."""

        def tell(event: str, data: Any) -> None:
            told.put((event, data))

        def fail(why: str) -> None:
            live.end(Ended("failed", error=why))

        async def work(prepared: Prepared) -> Ended:
            task = cast("asyncio.Task[Ended]", asyncio.current_task())
            live.cancelled_by(partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel))
            return await prepared.work(order.prompt, live.stop, tell)

        with kept, contextlib.ExitStack() as cleanup:
            try:
                prepared = self._worker.prepare(order, agent, tell, fail, cleanup)
                live.prepared.set()
                told.put(asyncio.run(work(prepared)))
            except BaseException as error:  # noqa: BLE001 - however it ends, that is noted
                told.put(Ended("failed", error=words_for(error)))


def _start(do: Callable[..., None], *arguments: Any) -> None:
    """Start a thread; what it was to close is closed if there can be none."""
    try:
        threading.Thread(target=do, args=arguments, daemon=True).start()
    except RuntimeError as error:
        arguments[-1].close()
        raise NotReadyError("The runtime has no thread left for a run; try again later.") from error


_Told = queue.SimpleQueue[tuple[str, Any] | Ended]


def _noted(told: _Told, live: _Live, notes: _Notes) -> Ended:
    """Note what the agent tells, until it has ended."""
    prepared_until, left_at = time.monotonic() + _PREPARING, 0.0
    while True:
        if live.lost.is_set():
            live.end(_MAY_NO_LONGER)
        if not live.prepared.is_set() and time.monotonic() > prepared_until:
            live.end(_UNPREPARED)
        ending = live.stop.is_set()
        if ending and not left_at:
            left_at = time.monotonic() + (_LEFT_AT_STOP if live.verdict is _STOPPED else _LEFT_AFTER)
        if ending and time.monotonic() >= left_at:
            return Ended("failed")
        with contextlib.suppress(queue.Empty):
            said = told.get(timeout=_ENDING if ending else _SEEN)
            while not isinstance(said, Ended):
                notes.add(*said)
                said = told.get_nowait()
            return said
        notes.write()
        live.stop.wait(_PACE)
