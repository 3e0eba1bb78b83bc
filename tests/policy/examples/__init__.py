"""For each rule, what breaks it and what keeps it: functions that declare resources on a `Scene`.

    @failing("pods-no-privileged")
    def privileged(scene: Scene) -> None:
        scene.kubernetes("core/v1:Pod", {"spec": …})

The decorators stack: a function may be an example of several rules, its resources declared once for each.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.policy.scene import Scene

Declare = Callable[[Scene], None]


@dataclass(frozen=True)
class Example:
    """Resources, and the rule that they break or keep."""

    rule: str
    name: str
    """Leads the names of its resources."""
    declare: Declare
    settings: dict[str, Any] = field(default_factory=dict)
    """The rule's settings that the example needs."""


FAILING: list[Example] = []
PASSING: list[Example] = []


def failing(rule: str, **settings: Any) -> Callable[[Declare], Declare]:
    """The resources break `rule`, at least one of them."""
    return _added(FAILING, rule, settings)


def passing(rule: str, **settings: Any) -> Callable[[Declare], Declare]:
    """The resources keep `rule`, all of them, and it looks at one of them at least."""
    return _added(PASSING, rule, settings)


def _added(examples: list[Example], rule: str, settings: dict[str, Any]) -> Callable[[Declare], Declare]:
    def add(declare: Declare) -> Declare:
        number = 1 + sum(example.rule == rule for example in examples)
        examples.append(Example(rule, f"{rule}-{number}", declare, settings))
        return declare

    return add


# Each adds its own.
from tests.policy.examples import (  # noqa: E402, F401
    access,
    data,
    honesty,
    images,
    network,
    pods,
    residency,
    tenancy,
)
