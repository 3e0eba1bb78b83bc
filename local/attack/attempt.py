"""What an attack is, how it is carried out, and what counts as proof."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

from local.attack.tenants import Tenant

Session = TypeVar("Session")
"""What a server gives whoever enters it."""

Outcome = Literal["denied", "leaked", "broken"]
Kind = Literal["reaches others", "holds up others", "cannot be removed"]
PLATFORM = "platform"
"""The victim of what concerns nobody's data in particular."""


class Refused(Exception):  # noqa: N818 - not an error: what is hoped for
    """The server said no, or showed nothing; the message is its own words."""


@dataclass(frozen=True, kw_only=True)
class Attack(Generic[Session]):
    """One operation."""

    name: str
    tried: str
    """In the server's own language."""
    run: Callable[[Session, Tenant, Tenant], object]
    """Try it with a session, for a tenant, on a victim; raises `Refused` unless it was granted."""
    on_platform: bool = False
    """It reaches for the platform's own and not for another tenant's; the victim is the tenant itself."""
    by_owner: bool = True
    """Whom it must succeed for: the victim, or the administrator if not even the victim may."""
    spares: Callable[[Tenant, Tenant], bool] = lambda _attacker, _victim: False
    """Whether it makes no sense between these two."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """An attack, carried out by somebody on somebody."""

    server: str
    attacker: str
    victim: str
    name: str
    tried: str
    outcome: Outcome
    detail: str
    """The refusal, or what went wrong."""
    kind: Kind = "reaches others"

    def ended(self, outcome: Outcome, detail: str) -> "Attempt":
        """Return it as it came out."""
        return replace(self, outcome=outcome, detail=detail)


@dataclass(frozen=True, kw_only=True)
class Target(Generic[Session]):
    """A server that was entered: everybody's session, and what is tried there."""

    server: str
    sessions: Mapping[Tenant, Session]
    """Who attacks."""
    victims: Sequence[Tenant]
    administrator: Session
    attacks: Sequence[Attack[Session]]

    def attempts(self) -> Iterator[Attempt]:
        """Carry out every attack by everybody on everybody else."""
        for attack in self.attacks:
            for victim in self.sessions if attack.on_platform else self.victims:
                others = [tenant for tenant in self.sessions if tenant != victim]
                tried = [
                    self.attempt(attack, attacker, victim)
                    for attacker in ([victim] if attack.on_platform else others)
                    if not attack.spares(attacker, victim)
                ]
                if tried:
                    # After the attempts: it may well use up what they were after.
                    failure = self._control(attack, victim)
                    yield from (unproven(each, failure) if failure else each for each in tried)

    def attempt(self, attack: Attack[Session], attacker: Tenant, victim: Tenant) -> Attempt:
        """Carry one attack out, without the control that makes a refusal a proof."""
        outcome, detail = _carry_out(attack, self.sessions[attacker], attacker, victim)
        return Attempt(
            server=self.server,
            attacker=attacker.id,
            victim=PLATFORM if attack.on_platform else victim.id,
            name=attack.name,
            tried=attack.tried,
            outcome=outcome,
            detail=detail,
        )

    def _control(self, attack: Attack[Session], victim: Tenant) -> str | None:
        """Do it with the right to; what went wrong, if anything."""
        by_owner = attack.by_owner and not attack.on_platform and victim in self.sessions
        session = self.sessions[victim] if by_owner else self.administrator
        outcome, detail = _carry_out(attack, session, victim, victim)
        who = victim.id if by_owner else "the administrator"
        return None if outcome == "leaked" else f"it does not work for {who} either: {detail}"


def _carry_out(
    attack: Attack[Session], session: Session, attacker: Tenant, victim: Tenant
) -> tuple[Outcome, str]:
    try:
        attack.run(session, attacker, victim)
    except Refused as refusal:
        return "denied", told(refusal)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is no refusal
        return "broken", f"{type(error).__name__}: {told(error)}"
    return "leaked", "it was granted"


def told(error: Exception) -> str:
    """Return its message in one line."""
    return " ".join(str(error).split())


def unproven(attempt: Attempt, failure: str) -> Attempt:
    """A refusal says nothing where the control failed."""
    return attempt.ended("broken", failure) if attempt.outcome == "denied" else attempt
