"""No rule goes quiet because something is not known yet: it judges, or it says where it could not."""

import pytest

from policy.inputs import path_text
from policy.rules import Level
from tests.policy.examples import FAILING, PASSING, Example
from tests.policy.recorded import recorded

BY_WHAT_IT_IS_MADE_FROM = "tenancy-own-names"
"""This rule judges an unknown by the resources that it comes from, which a field made unknown here lacks."""


@pytest.mark.parametrize("example", FAILING, ids=lambda example: f"{example.name}-{example.declare.__name__}")
def test_no_unknown_hides_what_breaks_a_rule(example: Example) -> None:
    """Whatever single field is made unknown in an example that breaks a rule, somebody is told."""
    seen = recorded(example)
    assert any(finding.level is Level.MANDATORY for finding in seen.judged()), "the engine judged otherwise"
    silent = [
        f"{urn.rpartition('::')[2]}: {path_text(path)}"
        for urn, path in seen.paths()
        if not seen.with_unknown(urn, path).judged()
    ]
    assert silent == [] or example.rule == BY_WHAT_IT_IS_MADE_FROM


@pytest.mark.parametrize("example", PASSING, ids=lambda example: f"{example.name}-{example.declare.__name__}")
def test_no_unknown_is_taken_for_a_violation(example: Example) -> None:
    """A plan from nothing is full of unknowns, and must not be refused for them."""
    seen = recorded(example)
    assert not any(finding.level is Level.MANDATORY for finding in seen.judged())
    refused = [
        f"{urn.rpartition('::')[2]}: {path_text(path)}: {finding.message}"
        for urn, path in seen.paths()
        for finding in seen.with_unknown(urn, path).judged()
        if finding.level is Level.MANDATORY
    ]
    assert refused == []
