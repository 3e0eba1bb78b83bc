"""Judges resources by the rules, each at the level and with the settings that the stack gives it.

Nothing passes unnoticed: a field that a rule needs and that nobody can know yet is a finding of its own, and
so is a rule that fails on an input it did not expect.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from policy.configuration import Configured
from policy.inputs import UnknownInputError, UnsearchedError
from policy.rules import Level, Rule
from policy.subjects import TENANT, Resource, Stack, words


@dataclass(frozen=True)
class Finding:
    """What is to be told of a resource."""

    rule: Rule
    urn: str
    level: Level
    message: str


class Judge:
    """The rules at work on one stack; it remembers what it is shown, for the rules about all of it."""

    def __init__(self, configured: Mapping[str, Configured], *, preview: bool) -> None:
        """`configured` has every rule; at a `preview`, values may be unknown."""
        self._active = [each for each in configured.values() if each.level is not Level.DISABLED]
        self._preview = preview
        self._seen: dict[str, Resource] = {}
        self._by_type: dict[str, list[Configured]] = {}
        self._unsearched: dict[str, list[str]] = {}
        """By rule, where it could not look: nearly everywhere in a plan from nothing, so it is told once."""

    def resource(self, resource: Resource) -> Iterator[Finding]:
        """Judge one resource, and remember it."""
        self._seen[resource.urn] = resource
        for configured in self._about(resource.type):
            if not configured.rule.across:
                yield from self._judged(configured, resource, None)

    def stack(self, dependencies: Mapping[str, Collection[str]]) -> Iterator[Finding]:
        """Judge all resources together, by what the program registered for each.

        `dependencies` has the URN of every resource that is part of the stack, and those it depends on.
        """
        resources = tuple(seen for urn, seen in self._seen.items() if urn in dependencies)
        stack = Stack(resources, dependencies)
        for resource in stack.resources:
            for configured in self._about(resource.type):
                if configured.rule.across:
                    yield from self._judged(configured, resource, stack)
        for configured in self._active:
            if where := self._unsearched.get(configured.rule.id):
                yield _not_searched(configured.rule, where)

    def tenant_below(self, parent: str) -> str | None:
        """The id of the tenant that a child of `parent` belongs to."""
        above = self._seen.get(parent)
        if above is None:
            return None
        return above.name if above.type == TENANT else above.tenant

    def _about(self, type_: str) -> list[Configured]:
        """The rules for a type, found once: most resources are of few types, and most rules about others."""
        if type_ not in self._by_type:
            self._by_type[type_] = [each for each in self._active if each.rule.on.includes(type_)]
        return self._by_type[type_]

    def _judged(self, configured: Configured, resource: Resource, stack: Stack | None) -> Iterator[Finding]:
        rule = configured.rule
        if resource.name in configured.values["allowed"]:
            return
        context = ([stack] if stack else []) + ([configured.values] if rule.settings else [])
        try:
            for part in rule.on.parts(resource):
                yield from self._part(configured, resource, part, context)
        except UnknownInputError as unknown:
            yield from self._unjudged(configured, resource, unknown)
        except Exception as error:  # noqa: BLE001 — an unexpected input must not pass unjudged
            yield self._failed(configured, resource, error)

    def _part(
        self, configured: Configured, resource: Resource, part: object, context: Sequence[object]
    ) -> Iterator[Finding]:
        """Each part for itself, so that an unknown in one hides nothing in another."""
        try:
            for what in configured.rule.check(part, *context):
                message = configured.rule.says(words(resource), what)
                yield Finding(configured.rule, resource.urn, configured.level, message)
        except UnknownInputError as unknown:
            yield from self._unjudged(configured, resource, unknown)

    def _unjudged(
        self, configured: Configured, resource: Resource, unknown: UnknownInputError
    ) -> Iterator[Finding]:
        rule, where = configured.rule, words(resource)
        if not self._preview:
            message = f"{rule.id} {where}: cannot be judged: {unknown} unknown; {rule.reason}; {rule.remedy}"
            yield Finding(rule, resource.urn, configured.level, message)
        elif isinstance(unknown, UnsearchedError):
            self._unsearched.setdefault(rule.id, []).append(f"{resource.name} ({unknown})")
        else:
            message = (
                f"{rule.id} {where}: cannot be judged at preview: {unknown} unknown; it is judged "
                f"{_when(rule)}; give the field a value that the program knows to see it here"
            )
            yield Finding(rule, resource.urn, Level.ADVISORY, message)

    def _failed(self, configured: Configured, resource: Resource, error: Exception) -> Finding:
        rule = configured.rule
        message = (
            f"{rule.id} {words(resource)}: the rule itself failed ({type(error).__name__}: {error}), so the "
            f"resource is not judged; mend the rule in policy/{rule.family}.py, or the input it tripped over"
        )
        return Finding(rule, resource.urn, configured.level, message)


def _when(rule: Rule) -> str:
    return "at the end of the update" if rule.across else "before the resource is changed"


def _not_searched(rule: Rule, where: Sequence[str]) -> Finding:
    more = f" and {len(where) - _SHOWN} more" if len(where) > _SHOWN else ""
    message = (
        f"{rule.id}: cannot be judged at preview in what is unknown: {', '.join(where[:_SHOWN])}{more}; "
        f"it is judged {_when(rule)}"
    )
    return Finding(rule, "", Level.ADVISORY, message)


_SHOWN = 3
