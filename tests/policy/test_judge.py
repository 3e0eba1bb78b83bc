"""The framework by itself: what becomes of an unknown, of an exception, of a rule that fails."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct  # type: ignore[import-untyped]

from policy.configuration import Configured
from policy.inputs import UnknownInputError, decode
from policy.judge import Finding, Judge
from policy.rules import Level, Rule, Selection, Severity, resources
from policy.subjects import TENANT, Resource, Stack

_UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
_SECRET = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270"}


def _decoded(inputs: Mapping[str, Any]) -> dict[str, Any]:
    struct = Struct()
    struct.update(inputs)
    return decode(struct)[0]


def _resource(inputs: Mapping[str, Any], **fields: Any) -> Resource:
    name = fields.get("name", "thing")
    return Resource(
        **{"urn": f"urn::{name}", "type": "a:b:C", "name": name, "inputs": _decoded(inputs), **fields}
    )


def _on_color(resource: Resource) -> Iterator[str]:
    if resource.inputs.get("color") == "red":
        yield "it is red"


_RULE = Rule(
    id="test-no-red",
    severity=Severity.HIGH,
    level=Level.MANDATORY,
    on=resources("a:b:C"),
    across=False,
    reason="it hurts",
    remedy="paint it",
    source="nobody",
    settings={},
    check=_on_color,
)


def _judged(rule: Rule, *seen: Resource, preview: bool = True, **values: Any) -> list[Finding]:
    configured = {rule.id: Configured(rule, rule.level, {"allowed": {}, **values})}
    judge = Judge(configured, preview=preview)
    findings = [finding for resource in seen for finding in judge.resource(resource)]
    return [*findings, *judge.stack({resource.urn: () for resource in seen})]


def test_a_violation_has_the_rule_s_level_and_says_what_why_and_how() -> None:
    (finding,) = _judged(_RULE, _resource({"color": "red"}, tenant="acme"))

    assert finding.level is Level.MANDATORY
    assert finding.message == "test-no-red tenant acme, thing: it is red; it hurts; paint it (nobody)"


def test_other_types_and_other_values_are_let_pass() -> None:
    assert _judged(_RULE, _resource({"color": "red"}, type="a:b:D"), _resource({}, name="other")) == []


def test_an_unknown_is_told_at_a_preview_and_refused_at_an_update() -> None:
    asked = _resource({"color": _UNKNOWN})

    (told,) = _judged(_RULE, asked)
    (refused,) = _judged(_RULE, asked, preview=False)

    assert (told.level, refused.level) == (Level.ADVISORY, Level.MANDATORY)
    assert "cannot be judged at preview: color unknown" in told.message
    assert "cannot be judged: color unknown" in refused.message


def test_an_unknown_in_one_part_hides_nothing_in_another() -> None:
    def check(part: Mapping[str, Any]) -> Iterator[str]:
        if part.get("color") == "red":
            yield "it is red"

    on = Selection("a:b:C".__eq__, lambda resource: resource.inputs["parts"])
    parts = [{"color": _UNKNOWN}, {"color": "red"}]

    findings = _judged(replace(_RULE, on=on, check=check), _resource({"parts": parts}))

    assert [finding.level for finding in findings] == [Level.ADVISORY, Level.MANDATORY]


def test_a_rule_that_fails_refuses_instead_of_letting_pass() -> None:
    def check(_resource: Resource) -> Iterator[str]:
        yield str(1 // 0)

    (finding,) = _judged(replace(_RULE, check=check), _resource({}))

    assert finding.level is Level.MANDATORY
    assert "the rule itself failed (ZeroDivisionError" in finding.message


def test_what_is_allowed_by_name_is_let_pass() -> None:
    named, other = _resource({"color": "red"}), _resource({"color": "red"}, name="other")

    assert [finding.urn for finding in _judged(_RULE, named, other, allowed={"thing": "why"})] == [
        "urn::other"
    ]


def test_a_rule_across_the_stack_is_asked_when_all_is_seen() -> None:
    def check(resource: Resource, stack: Stack) -> Iterator[str]:
        if len(list(stack.by(_color, "a:b:C")[_color(resource)])) > 1:
            yield "another one has its color"

    seen = [
        _resource({"color": color}, name=f"r{number}") for number, color in enumerate(("red", "red", "blue"))
    ]

    findings = _judged(replace(_RULE, across=True, check=check), *seen)

    assert [finding.urn for finding in findings] == ["urn::r0", "urn::r1"]


def _color(resource: Resource) -> str:
    return str(resource.inputs["color"])


def test_a_group_that_an_unknown_could_belong_to_is_not_called_complete() -> None:
    stack = Stack((_resource({"color": _UNKNOWN}), _resource({"color": "red"}, name="other")))

    assert next(stack.by(_color, "a:b:C")["red"]).name == "other"
    for color in ("red", "blue"):
        with pytest.raises(UnknownInputError, match="color"):
            list(stack.by(_color, "a:b:C")[color])


def test_a_tenant_is_known_by_the_component_above() -> None:
    judge = Judge({}, preview=True)
    above = _resource({}, type=TENANT, name="acme")
    below = _resource({}, name="box", parent=above.urn, tenant="acme")
    for resource in (above, below):
        list(judge.resource(resource))

    assert judge.tenant_below(above.urn) == "acme"
    assert judge.tenant_below(below.urn) == "acme"
    assert judge.tenant_below("urn::elsewhere") is None


@pytest.mark.parametrize(
    "read",
    [
        lambda inputs: inputs["a"],
        lambda inputs: inputs.get("a"),
        lambda inputs: list(inputs.values()),
        lambda inputs: dict(inputs.items()),
        lambda inputs: inputs == {"a": 1, "list": ["x", "y"]},
        lambda inputs: inputs["list"][1],
        lambda inputs: list(inputs["list"]),
        lambda inputs: "y" in inputs["list"],
        lambda inputs: inputs["list"] == ["x", "y"],
    ],
)
def test_an_unknown_is_never_taken_for_a_value(read: Any) -> None:
    with pytest.raises(UnknownInputError):
        read(_decoded({"a": _UNKNOWN, "list": ["x", _UNKNOWN]}))


def test_inputs_are_met_in_the_same_order_in_every_run() -> None:
    inputs = _decoded({name: {"b": 1, "a": 2} for name in "hgfedcba"})

    assert list(inputs) == list("abcdefgh")
    assert list(inputs["a"]) == ["a", "b"]


def test_what_is_known_beside_an_unknown_can_be_read() -> None:
    inputs = _decoded({"a": _UNKNOWN, "b": 2, "list": ["x", _UNKNOWN]})

    assert inputs["b"] == 2
    assert "a" in inputs
    assert inputs["list"][0] == "x"
    assert "x" in inputs["list"]


def test_secrets_are_found_where_they_stand() -> None:
    struct = Struct()
    struct.update(
        {"stringData": {"password": {**_SECRET, "value": "hidden"}}, "whole": {**_SECRET, "value": {"a": 1}}}
    )
    inputs, secrets = decode(struct)
    resource = replace(_resource({}), inputs=inputs, secrets=secrets)

    assert inputs["stringData"]["password"] == "hidden"
    assert resource.is_secret("stringData", "password")
    assert resource.is_secret("whole", "a")
    assert not resource.is_secret("stringData")
