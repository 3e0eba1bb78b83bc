"""What Envoy has in flight: each request with its hold, from the authoriser's word to the end of the answer.

The authoriser enters a request, Envoy's log says every few seconds that it goes on, and once that it has
ended. A request of which Envoy says nothing for a while is let go, so one that was lost with its Envoy keeps
no machine awake. One that began before this process did is entered when Envoy speaks of it.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from dataclasses import dataclass
from typing import get_args

from prometheus_client import Gauge

from services.activity.connection import UNREACHABLE
from services.activity.holds import Holds
from services.activity.store import Claim, Kind
from services.gateway import metrics
from services.gateway.routes import Routes

log = logging.getLogger(__name__)

SILENT_SECONDS = 60
"""Envoy speaks of each request every five seconds."""
_LOOK_SECONDS = 5
_ENDED = 10_000
"""Requests whose end is remembered in case they are still to be entered."""
_IN_FLIGHT: dict[Kind, Gauge] = {kind: metrics.IN_FLIGHT.labels(kind) for kind in get_args(Kind)}


@dataclass(slots=True)
class Asked:
    """A request in flight: whose it is, and who asks."""

    tenant: str
    subject: str
    kind: Kind
    held: bool = False
    heard: float = math.inf
    """When Envoy spoke of it last, by this process' clock; infinite while the authoriser judges it."""


class InFlight:
    """The requests that Envoy has, by its ids."""

    def __init__(self, holds: Holds, routes: Routes) -> None:
        """Hold machines by `holds`."""
        self._holds = holds
        self._routes = routes
        self._asked: dict[str, Asked] = {}
        self._of: Counter[str] = Counter()
        self._ended: dict[str, bool] = {}
        self._to_be_held = asyncio.Event()
        self._none = asyncio.Event()
        self._none.set()

    def count(self, tenant: str) -> int:
        """Return how many requests of the tenant's are in flight."""
        return self._of[tenant]

    def get(self, request: str) -> Asked | None:
        """Return the request in flight with that id."""
        return self._asked.get(request)

    async def enter(self, request: str, asked: Asked) -> Claim | None:
        """Hold the machine, if there is one; return what the suspender is about. `leave` must follow."""
        self._add(request, asked)
        try:
            return await self._hold(request, asked)
        except UNREACHABLE as error:
            about = {"tenant": asked.tenant, "request": request}
            log.warning("%s is not held: %s", asked.tenant, error, extra=about)
            return None

    def hear(self, request: str, asked: Asked) -> None:
        """Note that Envoy has the request; its machine is held soon if it is not known here."""
        if request not in self._asked:
            self._add(request, asked)
            self._to_be_held.set()
        self.begin(request)

    def begin(self, request: str) -> None:
        """Expect Envoy to speak of the request from now on, unless it has ended already."""
        if self._ended.pop(request, False):
            self.leave(request)
        elif asked := self._asked.get(request):
            asked.heard = time.monotonic()

    def end(self, request: str) -> Asked | None:
        """End a request, by Envoy's word; return it if it was in flight.

        That word may be heard before the authoriser gets to the request itself, whose client has gone.
        """
        asked = self.leave(request)
        if asked is None:
            self._ended[request] = True
            if len(self._ended) > _ENDED:
                del self._ended[next(iter(self._ended))]
        return asked

    def leave(self, request: str) -> Asked | None:
        """End a request; return it if it was in flight."""
        asked = self._asked.pop(request, None)
        if asked is None:
            return None
        self._of[asked.tenant] -= 1
        if not self._of[asked.tenant]:
            del self._of[asked.tenant]
        if not self._asked:
            self._none.set()
        _IN_FLIGHT[asked.kind].dec()
        if asked.held:
            self._holds.leave(asked.tenant, asked.kind)
        return asked

    async def run(self) -> None:
        """Hold what is not held yet, and let go of what Envoy speaks of no more, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._to_be_held.wait()
            self._to_be_held.clear()
            self.let_go(time.monotonic() - SILENT_SECONDS)
            await self._hold_all()

    def let_go(self, before: float) -> None:
        """End the requests that were last heard of before that."""
        lost = [request for request, asked in self._asked.items() if asked.heard < before]
        for request in lost:
            self.leave(request)
        if lost:
            log.warning("%d requests are let go: Envoy has said nothing of them for long", len(lost))

    async def _hold_all(self) -> None:
        """Hold what was entered while Redis was away, or before its route was known."""
        for request, asked in list(self._asked.items()):
            if asked.held or math.isinf(asked.heard):
                continue
            try:
                await self._hold(request, asked)
            except UNREACHABLE as error:
                about = {"tenant": asked.tenant, "request": request}
                log.warning("%s is not held: %s", asked.tenant, error, extra=about)
                return

    async def _hold(self, request: str, asked: Asked) -> Claim | None:
        """Hold a request's machine, if its tenant has one. Raises one of `UNREACHABLE`."""
        route = self._routes.find(asked.tenant)
        if route is None or route.served_by != "machine":
            return None
        standing = await self._holds.enter(asked.tenant, asked.kind)
        if self._asked.get(request) is asked and not asked.held:
            asked.held = True
        else:  # it has ended meanwhile
            self._holds.leave(asked.tenant, asked.kind)
        return standing.claim

    def _add(self, request: str, asked: Asked) -> None:
        self._asked[request] = asked
        self._of[asked.tenant] += 1
        self._none.clear()
        _IN_FLIGHT[asked.kind].inc()

    async def drained(self, seconds: float) -> bool:
        """Wait for that long at most until nothing is in flight; return whether that is so."""
        try:
            async with asyncio.timeout(seconds):
                await self._none.wait()
        except TimeoutError:
            return False
        return True
