"""What a rule is.

    @rule(
        id="pods-no-privileged",
        severity=Severity.CRITICAL,
        on=containers,
        reason="a privileged container is root on its node, and so over every tenant there",
        remedy="leave `privileged` out",
        source="https://kubernetes.io/docs/concepts/security/pod-security-standards/",
    )
    def no_privileged(container: Container) -> Iterator[str]:
        if container.security.get("privileged"):
            yield f"container {container.name} is privileged"

`on` says what the function is given: each resource of some types (`resources("kubernetes:core/v1:Service")`),
or each part of one, such as every container of every pod. A `stack_rule` is given the `Stack` as well and is
asked when everything is registered. With `settings`, their values come last.

Whatever may break a rule is named in the stack's policy configuration, with the reason why: each rule has the
setting `allowed`, by the names of resources, which the framework heeds.

A rule reads what it is given and nothing else: no file, no network, no clock. What is not known yet it need
not think of: the part whose unknown field it reads is reported as not judged.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, TypeVar

from policy.subjects import Resource


class Level(Enum):
    """What a violation does, unless the stack's policy configuration says otherwise."""

    MANDATORY = "mandatory"
    """Nothing is changed."""
    ADVISORY = "advisory"
    """It is told."""
    DISABLED = "disabled"
    """The rule is not asked: a level for the configuration only."""


class Severity(Enum):
    """How bad a violation is: what decides who has to agree to an exception."""

    CRITICAL = ("critical", "somebody reaches what is another tenant's, or the platform itself")
    HIGH = ("high", "data is lost or leaves the country, or a boundary is thinner than it was sold")
    MEDIUM = ("medium", "a second line of defence is missing, or what everybody goes by is wrong")

    def __init__(self, word: str, meaning: str) -> None:
        """`meaning` is a sentence without its full stop."""
        self.word = word
        self.meaning = meaning


@dataclass(frozen=True)
class Selection:
    """What a rule is given: what `parts` finds in a resource whose type is among those that it `includes`."""

    includes: Callable[[str], bool]
    parts: Callable[[Resource], Iterable[Any]]


Settings = Mapping[str, Mapping[str, Any]]
"""What can be configured: by name, a JSON schema with a `default`."""

ALLOWED: Settings = {
    "allowed": {
        "type": "object",
        "additionalProperties": {"type": "string", "minLength": 1},
        "default": {},
        "description": "the resources that may break the rule, each with the reason why",
    }
}
"""The setting of every rule."""

_Check = TypeVar("_Check", bound=Callable[..., Iterator[str]])


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One thing that must not ship."""

    id: str
    """FAMILY-WHAT: configuration, findings and docs go by it."""
    severity: Severity
    level: Level
    on: Selection
    across: bool
    """Whether it needs the whole stack."""
    reason: str
    """What a violation causes."""
    remedy: str
    """How to mend it."""
    source: str
    """Who says so: an address, or a section of the guide."""
    settings: Settings
    """The rule's own, besides `ALLOWED`."""
    check: Callable[..., Iterator[str]]
    """Yields what is wrong, once for each thing that is."""

    @property
    def family(self) -> str:
        """The file it stands in."""
        return self.id.partition("-")[0]

    def says(self, where: str, what: str) -> str:
        """A finding's message."""
        return f"{self.id} {where}: {what}; {self.reason}; {self.remedy} ({self.source})"


RULES: dict[str, Rule] = {}
"""Every rule of the families that are imported, by id."""


def resources(*types: str) -> Selection:
    """Each resource of one of `types`."""
    return Selection(frozenset(types).__contains__, lambda resource: (resource,))


def rule(
    *,
    id: str,
    severity: Severity,
    on: Selection,
    reason: str,
    remedy: str,
    source: str,
    level: Level = Level.MANDATORY,
    settings: Settings | None = None,
    across: bool = False,
) -> Callable[[_Check], _Check]:
    """Make a rule of a function that is given a resource, or a part of one."""

    def register(check: _Check) -> _Check:
        if id in RULES:
            raise ValueError(f"Two rules have the id {id}.")
        RULES[id] = Rule(
            id=id,
            severity=severity,
            level=level,
            on=on,
            across=across,
            reason=reason,
            remedy=remedy,
            source=source,
            settings=settings or {},
            check=check,
        )
        return check

    return register


stack_rule = partial(rule, across=True)
"""The same, of a function that is given the `Stack`, too: `check(part, stack)`."""


def listed(name: str, *, default: Sequence[str], of: str) -> Settings:
    """The setting `name`: a list of texts."""
    schema = {"type": "array", "items": {"type": "string"}, "default": list(default), "description": of}
    return {name: schema}
