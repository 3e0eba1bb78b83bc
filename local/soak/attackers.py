"""Those who do harm: each tries at random what the attack suite knows, one thing after the other."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from random import Random
from threading import Event, Lock, Thread, get_native_id
from typing import Any, TypeVar

import psycopg
from rich.console import Console

from local import engine
from local.attack import postgres
from local.attack.attempt import Attack, Attempt, Target
from local.attack.campaign import HARMED, TARGETS, not_entered
from local.attack.harm import Harm, Harmed
from local.attack.tenants import Tenant
from local.soak import cast
from local.soak.figures import Window

_SHIFT = 240.0
"""After as many seconds everybody logs in anew: what the suite plants for a lease ends after five minutes, a
starter's token after fifteen."""
_PAUSE = 3.0
"""Between two attempts of an attacker, on average: the machine has others' work and updates to do."""
_LEAST = 19
"""The lowest priority."""
_HARMFUL = 0.5
"""The share of attempts that need no right; of the other kind there are many more."""
_INTRUDERS = ("shared-runtime",)
"""The servers on which the attacker is no tenant."""

Entered = TypeVar("Entered")


@dataclass(frozen=True)
class Weapons:
    """Every server that was entered, to be attacked and to do harm there."""

    targets: Sequence[Target[Any]]
    harmed: Sequence[Harmed[Any]]


@dataclass(frozen=True)
class Try:
    """An attack that was drawn, and on whom."""

    target: Target[Any]
    attack: Attack[Any]
    victim: Tenant


@dataclass(frozen=True)
class DoHarm:
    """A harm that was drawn, and to whom."""

    harmed: Harmed[Any]
    harm: Harm[Any]
    victim: Tenant


def drawn(random: Random, own: Tenant, weapons: Weapons, guests: Sequence[Tenant]) -> Try | DoHarm | None:
    """Draw what `own` tries next; None if it makes no sense between any two. `guests` are only harmed."""
    if random.random() < _HARMFUL:
        harmed = random.choice(weapons.harmed)
        others = [tenant for tenant in harmed.sessions if tenant != own]
        return DoHarm(harmed, random.choice(harmed.harms), random.choice([*others, *guests]))
    target = random.choice(weapons.targets)
    attack = random.choice(target.attacks)
    victims = [own] if attack.on_platform else [victim for victim in target.victims if victim != own]
    victims = [victim for victim in victims if not attack.spares(own, victim)]
    return Try(target, attack, random.choice(victims)) if victims else None


class Attackers:
    """The attackers, who do harm while `at_work` lasts."""

    def __init__(self, seed: int, console: Console) -> None:
        """Nobody logs in yet."""
        self.attempts: list[Attempt] = []
        self.guests: Sequence[Tenant] = ()
        """Further victims, while they are there."""
        self.entering: list[Window] = []
        """The times in which they logged in and the suite planted for them; no harm was done then."""
        self._seed, self._turn, self._console = seed, 0, console
        self._locks: dict[str, Lock] = {}
        self._planting = Lock()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Have them do harm for as long as the block lasts; it begins when they have logged in."""
        self._entered, self._over = Event(), Event()
        working = Thread(target=self._work)
        working.start()
        self._entered.wait()
        try:
            yield
        finally:
            self._over.set()
            working.join()

    def _work(self) -> None:
        # A tenant's client has a processor of its own; here it would take that of the servers.
        os.setpriority(os.PRIO_PROCESS, get_native_id(), _LEAST)
        while not self._over.is_set():
            self._turn += 1
            known = engine.tenants(engine.LOCAL_STACK)
            tenants = [Tenant(summary) for summary in known if summary["id"] in cast.ATTACKERS]
            try:
                self._shift(tenants)
            except Exception as error:  # noqa: BLE001 - whatever it is, it keeps harm from being done
                self.attempts.append(not_entered("all servers", error))
                self._over.wait(_PAUSE)
            finally:
                self._entered.set()
                for tenant in tenants:
                    tenant.leave()

    def _shift(self, tenants: Sequence[Tenant]) -> None:
        began = time.time()
        with ExitStack() as stack:
            targets = [
                stack.enter_context(_entered(entered, tenants))
                for name, entered in TARGETS.items()
                if name not in _INTRUDERS
            ]
            harmed = [stack.enter_context(_entered(entered, tenants)) for entered in HARMED.values()]
            weapons = Weapons(targets, harmed)
            self.entering.append((began, time.time()))
            self._console.print(f"shift {self._turn}: {len(tenants)} attackers have logged in")
            self._entered.set()
            until = time.monotonic() + _SHIFT

            def attack(own: Tenant) -> None:
                random = Random(f"{self._seed}/{self._turn}/{own.id}")  # noqa: S311 - nothing secret
                while time.monotonic() < until and not self._over.wait(random.uniform(0, 2 * _PAUSE)):
                    attempt = self._attempt(random, own, weapons)
                    if attempt is not None:
                        self.attempts.append(attempt)

            with ThreadPoolExecutor(len(tenants)) as pool:
                list(pool.map(attack, tenants))

    def _attempt(self, random: Random, own: Tenant, weapons: Weapons) -> Attempt | None:
        """Try one thing; None if the draw makes no sense, or who was harmed has left meanwhile."""
        guests = self.guests
        draw = drawn(random, own, weapons, guests)
        if draw is None:
            return None
        if isinstance(draw, DoHarm):
            with self.alone(own, draw.victim):
                attempt = draw.harmed.attempt(draw.harm, own, draw.victim)
            overtaken = draw.victim in guests and draw.victim not in self.guests
            return None if overtaken and attempt.outcome != "denied" else attempt
        if draw.target.server == postgres.SERVER:
            with self.alone(own, draw.victim):
                return self._try_on_postgres(draw, own)
        with self.alone(own):
            return draw.target.attempt(draw.attack, own, draw.victim)

    def _try_on_postgres(self, draw: Try, own: Tenant) -> Attempt:
        """Plant for it what it is after, by other logins: the harm retires those that were there."""
        pair = list(dict.fromkeys((own, draw.victim)))
        for tenant in pair:
            vars(tenant).pop("login", None)
        with self._planting, _entered(postgres.entered, pair) as target:
            attack = next(each for each in target.attacks if each.name == draw.attack.name)
            return target.attempt(attack, own, draw.victim)

    @contextmanager
    def alone(self, *tenants: Tenant) -> Iterator[None]:
        """Have nobody else use these tenants' logins: a further one retires the oldest."""
        with ExitStack() as stack:
            for name in sorted({tenant.id for tenant in tenants}):
                stack.enter_context(self._locks.setdefault(name, Lock()))
            yield


@contextmanager
def _entered(
    entered: Callable[[Sequence[Tenant]], AbstractContextManager[Entered]], tenants: Sequence[Tenant]
) -> Iterator[Entered]:
    """Enter a server; what was planted stays there where a login has been retired that would remove it."""
    stack = ExitStack()
    try:
        yield stack.enter_context(entered(tenants))
    finally:
        with suppress(psycopg.Error):
            stack.close()
