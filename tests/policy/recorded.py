"""What an example registers, as the pack sees it, without an engine: for judging it again and again."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pulumi
from google.protobuf.struct_pb2 import Struct, Value  # type: ignore[import-untyped]
from pulumi.runtime import mocks
from pulumi.runtime.proto import resource_pb2
from pulumi.runtime.stack import run_pulumi_func

from policy.configuration import Configured
from policy.families import all_rules
from policy.inputs import Path, decode
from policy.judge import Finding, Judge
from policy.subjects import Resource
from tests.policy.examples import Example
from tests.policy.scene import Scene, Stage

UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
"""The engine's mark of a text that is not known yet."""


_SIGNATURE = "4dabf18193072939515e22adb298388d"
"""Marks a mapping that wraps a secret."""


@dataclass(frozen=True)
class Recorded:
    """The resources of an example, in the order in which it registers them."""

    rule: str
    settings: Mapping[str, Any]
    resources: tuple[Resource, ...]
    structs: Mapping[str, Struct]
    """The inputs of each as they go over the wire, by URN."""
    dependencies: Mapping[str, list[str]]

    def judged(self) -> list[Finding]:
        """What the example's rule finds at a preview."""
        rule = all_rules()[self.rule]
        values = {"allowed": {}, **{name: schema["default"] for name, schema in rule.settings.items()}}
        judge = Judge({rule.id: Configured(rule, rule.level, {**values, **self.settings})}, preview=True)
        found = [finding for resource in self.resources for finding in judge.resource(resource)]
        return [*found, *judge.stack(self.dependencies)]

    def paths(self) -> Iterator[tuple[str, Path]]:
        """Every field of every resource, and every entry of a list, on every level."""
        for urn, struct in self.structs.items():
            for path in _paths(Value(struct_value=struct), ()):
                yield urn, path

    def with_unknown(self, urn: str, path: Path) -> "Recorded":
        """The same with one field unknown."""
        whole = at = Value(struct_value=self.structs[urn])
        for step in path:
            at = at.struct_value.fields[step] if isinstance(step, str) else at.list_value.values[step]
        at.string_value = UNKNOWN
        return replace(self, resources=tuple(_with(each, urn, whole.struct_value) for each in self.resources))


def recorded(example: Example) -> Recorded:
    """Run an example against Pulumi's mocks."""
    monitor = _Monitor(_Answers())
    asyncio.set_event_loop(loop := asyncio.new_event_loop())
    mocks.set_mocks(_Answers(), project="agent-platform", stack="test", preview=True, monitor=monitor)

    async def program() -> None:
        example.declare(Scene(example.name, "tenant0", Stage()))

    loop.run_until_complete(run_pulumi_func(program))
    resources = tuple(monitor.resources_by_urn.values())
    return Recorded(example.rule, example.settings, resources, monitor.structs, monitor.dependencies)


class _Answers(pulumi.runtime.Mocks):
    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        return f"{args.name}-id", dict(args.inputs)

    def call(self, args: pulumi.runtime.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        raise AssertionError(f"an example calls {args.token}")


@dataclass
class _Monitor(mocks.MockMonitor):
    answers: _Answers
    resources_by_urn: dict[str, Resource] = field(default_factory=dict)
    structs: dict[str, Struct] = field(default_factory=dict)
    dependencies: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(self.answers)
        self._judge = Judge({}, preview=True)

    def RegisterResource(self, request: Any) -> resource_pb2.RegisterResourceResponse:  # noqa: N802
        answer: resource_pb2.RegisterResourceResponse = super().RegisterResource(  # type: ignore[no-untyped-call]
            request
        )
        if request.type == "pulumi:pulumi:Stack":
            return answer
        for internal in [name for name in request.object.fields if name.startswith("__")]:
            del request.object.fields[internal]
        inputs, secrets = decode(request.object)
        resource = Resource(
            urn=answer.urn,
            type=request.type,
            name=request.name,
            inputs=inputs,
            secrets=secrets,
            parent=request.parent,
            tenant=self._judge.tenant_below(request.parent),
            protect=request.protect,
            secret_outputs=frozenset(request.additionalSecretOutputs),
        )
        list(self._judge.resource(resource))
        self.resources_by_urn[answer.urn] = resource
        self.structs[answer.urn] = request.object
        self.dependencies[answer.urn] = list(request.dependencies)
        return answer


def _with(resource: Resource, urn: str, struct: Struct) -> Resource:
    if resource.urn != urn:
        return resource
    inputs, secrets = decode(struct)
    return replace(resource, inputs=inputs, secrets=secrets)


def _paths(value: Value, path: Path) -> Iterator[Path]:
    kind = value.WhichOneof("kind")
    below: list[tuple[str | int, Value]] = []
    if kind == "struct_value" and _SIGNATURE not in value.struct_value.fields:
        below = list(value.struct_value.fields.items())
    elif kind == "list_value":
        below = list(enumerate(value.list_value.values))
    for step, inner in below:
        yield (*path, step)
        yield from _paths(inner, (*path, step))
