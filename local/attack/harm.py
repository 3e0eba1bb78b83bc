"""Harm done with rights that one has: nobody refuses it, so what it is to stop must succeed all the same.

Two kinds: what *holds up others*, while which the victim's ordinary work must go on; and what *cannot be
removed*, which the platform's own removal or revocation must get rid of. The attempt is denied if it is
withstood, or if the server says no. The control is that the harm is real: done with the administrator's
rights, or met without the platform's care, it does stop what it is to stop.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, Literal

from local.attack.attempt import Attempt, Refused, Session, told, unproven
from local.attack.tenants import Tenant


@dataclass(frozen=True, kw_only=True)
class Harm(Generic[Session]):
    """One thing that somebody does to others, or leaves behind."""

    kind: Literal["holds up others", "cannot be removed"]
    name: str
    tried: str
    """In the server's own language."""
    done: Callable[[Session, Tenant, Tenant], AbstractContextManager[Any]]
    """Do it with a session, as a tenant, to a victim, bounded in count and time; undo it when the block ends.

    Gives what it is done to. What is hard to remove is left on something that was made for it.
    """
    withstood: Callable[[Any], object]
    """Do what must succeed meanwhile, in bounded time, with what `done` gave; raises if it does not.

    Of what holds up others it is done once more when the harm is over.
    """
    unguarded: Callable[[Any], object] | None = None
    """The same without the platform's care, which must fail; None where the care is what one may not do."""


@dataclass(frozen=True, kw_only=True)
class Harmed(Generic[Session]):
    """A server that was entered: everybody's session, and the harm that is done there."""

    server: str
    sessions: Mapping[Tenant, Session]
    administrator: Session
    harms: tuple[Harm[Session], ...]

    def attempts(self) -> Iterator[Attempt]:
        """Have everybody do every harm to the next one, so that everybody is also a victim."""
        tenants = list(self.sessions)
        pairs = list(zip(tenants, tenants[1:] + tenants[:1], strict=True))
        for harm in self.harms:
            tried = [self.attempt(harm, attacker, victim) for attacker, victim in pairs]
            failure = self._control(harm, *pairs[0])
            yield from (unproven(each, failure) if failure else each for each in tried)

    def attempt(self, harm: Harm[Session], attacker: Tenant, victim: Tenant) -> Attempt:
        """Do one harm, without the control that shows that it is real."""
        made = Attempt(
            server=self.server,
            kind=harm.kind,
            attacker=attacker.id,
            victim=victim.id,
            name=harm.name,
            tried=harm.tried,
            outcome="denied",
            detail="it was withstood",
        )
        try:
            with harm.done(self.sessions[attacker], attacker, victim) as given:
                stopped = _failure(harm.withstood, given)
            if stopped is None:
                return made
            # What fails by itself shows nothing; what was to be removed is gone by now.
            anyway = _failure(harm.withstood, given) if harm.kind == "holds up others" else None
        except Refused as refusal:
            return made.ended("denied", told(refusal))
        except Exception as error:  # noqa: BLE001 - whatever it is, the harm was not done
            return made.ended("broken", f"{type(error).__name__}: {told(error)}")
        if anyway is not None:
            return made.ended("broken", f"it does not work without the harm either: {told(anyway)}")
        return made.ended("leaked", f"it was not withstood: {type(stopped).__name__}: {told(stopped)}")

    def _control(self, harm: Harm[Session], attacker: Tenant, victim: Tenant) -> str | None:
        """Do it with all rights; what went wrong, if anything."""
        try:
            with harm.done(self.administrator, attacker, victim) as given:
                stopped = _failure(harm.unguarded or harm.withstood, given)
        except Exception as error:  # noqa: BLE001 - a control that cannot be carried out proves nothing
            return f"the administrator cannot do it either: {type(error).__name__}: {told(error)}"
        return None if stopped else "it stops nothing even where nothing stands against it"


def _failure(work: Callable[[Any], object], given: Any) -> Exception | None:
    try:
        work(given)
    except Exception as error:  # noqa: BLE001 - however it fails, it was stopped
        return error
    return None
