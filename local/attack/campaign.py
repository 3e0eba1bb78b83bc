"""All attacks, or those on some servers: carried out side by side, counted, and told."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from local.attack import (
    exoscale,
    gateway,
    kubernetes,
    network,
    object_storage,
    postgres,
    redis,
    shared_runtime,
    vault,
)
from local.attack.attempt import PLATFORM, Attempt, Target
from local.attack.awake import awake
from local.attack.harm import Harmed
from local.attack.harms import object_storage as object_storage_harms
from local.attack.harms import postgres as postgres_harms
from local.attack.harms import vault as vault_harms
from local.attack.tenants import Tenant

_Attacks = Callable[[Sequence[Tenant]], Iterator[Attempt]]

TARGETS: Mapping[str, Callable[[Sequence[Tenant]], AbstractContextManager[Target[Any]]]] = {
    "postgres": postgres.entered,
    "vault": vault.entered,
    "object-storage": object_storage.entered,
    "exoscale": exoscale.entered,
    "kubernetes": kubernetes.entered,
    "redis": redis.entered,
    "gateway": gateway.entered,
    "shared-runtime": shared_runtime.entered,
}
"""The servers to attack, each with the function that enters it."""

HARMED: Mapping[str, Callable[[Sequence[Tenant]], AbstractContextManager[Harmed[Any]]]] = {
    "postgres": postgres_harms.entered,
    "object-storage": object_storage_harms.entered,
    "vault": vault_harms.entered,
}
"""The servers to do harm on, each with the function that enters it."""


def _on(
    entered: Callable[[Sequence[Tenant]], AbstractContextManager[Target[Any] | Harmed[Any]]],
) -> _Attacks:
    """Enter a server, attack, and leave it as it was."""

    def attempts(tenants: Sequence[Tenant]) -> Iterator[Attempt]:
        with entered(tenants) as target:
            yield from target.attempts()

    return attempts


SERVERS: Mapping[str, _Attacks] = {
    **{name: _on(entered) for name, entered in TARGETS.items()},
    "network": network.attempts,
}
"""The attacks on each server, by the name under which it is asked for."""

HARMS: Mapping[str, _Attacks] = {f"{name}-harm": _on(entered) for name, entered in HARMED.items()}
"""The harm on each server. It comes after all attacks, one harm at a time, because others feel it."""

NAMES = (*SERVERS, *HARMS)
"""All that can be asked for."""

_IN_TURN = ("postgres", "shared-runtime", "vault")
"""Those that have Vault make tenants' logins: one more retires an earlier one (docs/decisions/0065)."""

_ON_MACHINES = {"kubernetes"}
"""Where what is tried takes machines that run."""

_TOLD = 5
"""As many pairs are named of each finding; the rest is counted."""


@dataclass(frozen=True)
class Report:
    """What came of it."""

    attempts: Sequence[Attempt]

    @property
    def holds(self) -> bool:
        """Whether everything was tried, and everything was denied."""
        return bool(self.attempts) and all(attempt.outcome == "denied" for attempt in self.attempts)

    @property
    def last_line(self) -> str:
        """The figures, for scripts."""
        count = Counter(attempt.outcome for attempt in self.attempts)
        return f"attempts={len(self.attempts)} denied={count['denied']} leaked={count['leaked']}"

    def table(self) -> Table:
        """The figures by server and kind."""
        table = Table("server", "kind", "attacks", "attempts", "denied", "leaked", "broken", title="Attacks")
        for server, kind in dict.fromkeys((attempt.server, attempt.kind) for attempt in self.attempts):
            there = [attempt for attempt in self.attempts if (attempt.server, attempt.kind) == (server, kind)]
            count = Counter(attempt.outcome for attempt in there)
            figures = (len({attempt.name for attempt in there}), len(there))
            outcomes = (count["denied"], count["leaked"], count["broken"])
            table.add_row(server, kind, *map(str, (*figures, *outcomes)))
        return table

    def findings(self) -> list[str]:
        """Every attack that was not denied to everybody, in a line each; leaks come first."""
        found: dict[tuple[str, str, str], list[Attempt]] = {}
        for attempt in self.attempts:
            if attempt.outcome != "denied":
                found.setdefault((attempt.outcome, attempt.server, attempt.name), []).append(attempt)
        ordered = sorted(found.items(), key=lambda item: item[0][0] != "leaked")
        return [_finding(outcome, attempts) for (outcome, _, _), attempts in ordered]


def _finding(outcome: str, attempts: Sequence[Attempt]) -> str:
    # A pair has an attempt for each of its pods.
    first, pairs = attempts[0], list(dict.fromkeys(f"{each.attacker} on {each.victim}" for each in attempts))
    who = ", ".join(pairs[:_TOLD]) + (f" and {len(pairs) - _TOLD} more" if len(pairs) > _TOLD else "")
    return f"{outcome}: {first.server}: {first.name} ({who}): {first.tried}: {first.detail}"


def run(tenants: Sequence[Tenant], servers: Iterable[str], console: Console) -> Report:
    """Attack these servers at once, then harm one after the other; `console` is told which are done."""
    names = list(servers)
    try:
        for tenant in tenants:
            by = "/".join(tenant.account) if tenant.namespace else "the gateway's word"
            console.print(f"{tenant.id}: in Vault by {by}, {tenant.vault.url}")
        machines = awake(tenants, console) if _ON_MACHINES.intersection(names) else nullcontext()
        with machines, ThreadPoolExecutor() as pool:
            lanes = pool.map(
                lambda lane: [_attack(one, SERVERS[one], tenants, console) for one in lane],
                _lanes([name for name in names if name in SERVERS]),
            )
            results = [attempts for lane in lanes for attempts in lane]
        results += [_attack(name, HARMS[name], tenants, console) for name in names if name in HARMS]
        return Report([attempt for attempts in results for attempt in attempts])
    finally:
        for tenant in tenants:
            tenant.leave()


def _lanes(servers: Sequence[str]) -> list[list[str]]:
    """What is carried out side by side, and in each what comes one after the other."""
    in_turn = [server for server in _IN_TURN if server in servers]
    return [in_turn, *([server] for server in servers if server not in _IN_TURN)]


def _attack(server: str, carry_out: _Attacks, tenants: Sequence[Tenant], console: Console) -> list[Attempt]:
    attempts: list[Attempt] = []
    try:
        attempts.extend(carry_out(tenants))
    except Exception as error:  # noqa: BLE001 - whatever it is, it keeps attacks from being carried out
        attempts.append(not_entered(server, error))
    console.print(f"{server}: {len(attempts)} attempts")
    return attempts


def not_entered(server: str, error: Exception) -> Attempt:
    """Return a broken attempt: planting or removing failed, so the attacks tried are not all there are."""
    return Attempt(
        server=server,
        attacker=PLATFORM,
        victim=PLATFORM,
        name="prepare and clean up",
        tried="with the tenants' own credentials",
        outcome="broken",
        detail=" ".join(f"{type(error).__name__}: {error}".split()),
    )
