"""Every rule refuses what breaks it and lets pass what keeps it, in a preview by the real engine."""

import pytest

from policy.families import all_rules
from tests.policy.examples import FAILING, PASSING, Example
from tests.policy.run import Run


def _name(example: Example) -> str:
    return f"{example.name}-{example.declare.__name__}"


@pytest.mark.parametrize("example", FAILING, ids=_name)
def test_what_breaks_a_rule_is_refused(failing: Run, example: Example) -> None:
    rule = all_rules()[example.rule]
    refused = [told for told in failing.of(example) if told.level == rule.level.value]
    assert refused, f"{example.rule} let {sorted(failing.scenes[example.name].names)} pass"
    for told in refused:
        assert told.message.startswith(f"{rule.id} ")
        for part in (told.name, rule.reason, rule.remedy, rule.source):
            assert part in told.message


@pytest.mark.parametrize("example", PASSING, ids=_name)
def test_what_keeps_a_rule_passes(passing: Run, example: Example) -> None:
    rule = all_rules()[example.rule]
    names = passing.scenes[example.name].names
    assert names <= passing.types.keys()
    assert any(rule.on.includes(passing.types[name]) for name in names), "the rule looks at none of them"
    assert [told.message for told in passing.of(example)] == []


@pytest.mark.parametrize("examples", [FAILING, PASSING], ids=["failing", "passing"])
def test_every_rule_has_an_example(examples: list[Example]) -> None:
    assert {example.rule for example in examples} == all_rules().keys()


def test_there_are_enough_rules() -> None:
    assert len(all_rules()) >= 36
