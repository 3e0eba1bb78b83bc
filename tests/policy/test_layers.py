"""A stack that owns tenants only is judged by what it owns; the platform's stack is judged by the rest."""

from collections.abc import Callable

import pulumi
import pytest

from tests.policy.examples import Example
from tests.policy.examples.customers import Customer
from tests.policy.recorded import recorded
from tests.policy.scene import Scene

_ELSEWHERE = "agent-platform:platform:PlatformReference"


def _volume(customer: Customer) -> None:
    customer.has_volume()


def _schema(customer: Customer) -> None:
    schema = {"name": f"tenant_{customer.id}", "database": "agents"}
    customer.declare("postgresql:index/schema:Schema", schema, suffix="schema", protect=True)


@pytest.mark.parametrize(
    ("rule", "part"), [("data-volume-backed-up", _volume), ("data-schema-backed-up", _schema)]
)
def test_backups_are_the_platforms_own_stacks_to_show(rule: str, part: Callable[[Customer], None]) -> None:
    def alone(scene: Scene) -> None:
        part(Customer(scene, "enterprise", workspaceGib=20))

    def on_another_stack(scene: Scene) -> None:
        pulumi.ComponentResource(_ELSEWHERE, "platform")
        alone(scene)

    assert recorded(Example(rule, "alone", alone)).judged() != []
    assert recorded(Example(rule, "beside", on_another_stack)).judged() == []
