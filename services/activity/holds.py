"""The holds of one gateway process: no request in flight without one, and no round trip per request."""

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass, field

from services.activity.connection import UNREACHABLE
from services.activity.store import HOLD_SECONDS, Activity, Kind, Standing, Unreadable

log = logging.getLogger(__name__)

_RENEW_SECONDS = 10
_RETRY_SECONDS = 1
# A hold that is good for longer is renewed before it lapses if a request enters now.
_ENOUGH_SECONDS = HOLD_SECONDS / 2

_Key = tuple[str, Kind]


@dataclass
class _Hold:
    standing: Standing
    until: float
    """By this process' clock, and never later than by Redis': it was taken before the request was sent."""


@dataclass
class Holds:
    """Counts what is in flight in memory; a background task renews the holds that are in use."""

    activity: Activity
    instance: str
    """The name of this process among all gateways, such as the Pod's."""
    _open: Counter[_Key] = field(default_factory=Counter)
    _holds: dict[_Key, _Hold] = field(default_factory=dict)
    _entering: dict[_Key, "asyncio.Task[Standing]"] = field(default_factory=dict)
    _unreadable: dict[str, str] = field(default_factory=dict)
    """The warnings about tenants that cannot be held."""

    async def enter(self, tenant: str, kind: Kind = "request") -> Standing:
        """Hold the machine for one more request or stream, before anything else is done for it.

        Unless this raises (one of `connection.UNREACHABLE`), `leave` must follow.
        """
        key = (tenant, kind)
        self._open[key] += 1
        try:
            hold = self._holds.get(key)
            if hold and not hold.standing.claim and hold.until - time.monotonic() > _ENOUGH_SECONDS:
                return hold.standing
            if key not in self._entering:
                task = self._entering[key] = asyncio.create_task(self._enter(key))
                task.add_done_callback(_fetch)
            return await asyncio.shield(self._entering[key])
        except BaseException:
            self.leave(tenant, kind)
            raise

    def leave(self, tenant: str, kind: Kind = "request") -> None:
        """End a request or stream; the hold stays until it lapses, for the next one."""
        key = (tenant, kind)
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]

    async def run(self) -> None:
        """Renew the holds in use and tell that this gateway reports, until cancelled."""
        well = True
        while True:
            try:
                await self._renew()
                if not well:
                    log.info("Redis: works again")
                well = True
            except UNREACHABLE as error:
                if well:
                    log.warning("Redis: %s; holds are not renewed, retrying until it works", error)
                well = False
            await asyncio.sleep(_RENEW_SECONDS if well else _RETRY_SECONDS)

    async def _enter(self, key: _Key) -> Standing:
        try:
            (standing,) = await self._take([key])
            if isinstance(standing, Unreadable):
                raise standing
            return standing
        finally:
            del self._entering[key]

    async def _renew(self) -> None:
        now = time.monotonic()
        self._holds = {
            key: hold for key, hold in self._holds.items() if key in self._open or hold.until > now
        }
        await self._take(list(self._open))
        # After the holds: who sees that this gateway reports, sees what it reports.
        await self.activity.alive()

    async def _take(self, keys: list[_Key]) -> list[Standing | Unreadable]:
        """Hold all that can be held: what is wrong with one tenant's keys is no other's loss."""
        until = time.monotonic() + HOLD_SECONDS
        standings = await self.activity.enter([(tenant, f"{self.instance}/{kind}") for tenant, kind in keys])
        for key, standing in zip(keys, standings, strict=True):
            if isinstance(standing, Unreadable):
                self._holds.pop(key, None)
            else:
                self._holds[key] = _Hold(standing, until)
            self._tell(key[0], standing)
        return standings

    def _tell(self, tenant: str, standing: Standing | Unreadable) -> None:
        """Log once that a tenant cannot be held, and once that it can be again."""
        told = self._unreadable.pop(tenant, None)
        if isinstance(standing, Unreadable):
            self._unreadable[tenant] = str(standing)
            if told != str(standing):
                log.error(
                    "%s is not held, and left running, as Redis has what is not ours: %s",
                    tenant,
                    standing,
                    extra={"tenant": tenant},
                )
        elif told is not None:
            log.info("%s is held again", tenant, extra={"tenant": tenant})


def _fetch(task: "asyncio.Task[Standing]") -> None:
    """Take note of a failure though all who waited for it may have given up."""
    if not task.cancelled():
        task.exception()
