"""What one stack hands to another: a dataclass, as one stack output for each of its fields.

So a field that is secret stays secret, and one that is not stays readable in a preview. Resources are not
handed over: what another stack made is there already, and each stack has providers of its own.
"""

import dataclasses
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import pulumi

from infra.errors import ConfigurationError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Kind = TypeVar("Kind", bound=DataclassInstance)

Told = Mapping[str, Any]
"""The fields of a dataclass as another stack told them; nested ones are made already."""


def published(name: str, offer: "DataclassInstance") -> dict[str, pulumi.Input[Any]]:
    """The outputs of this stack with which another can make `offer` again."""
    outputs: dict[str, pulumi.Input[Any]] = {}
    for field in _handed_over(type(offer)):
        value, key = getattr(offer, field), f"{name}.{field}"
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            outputs |= published(key, value)
        else:
            outputs[key] = value
    return outputs


class Reference:
    """Another stack's outputs."""

    def __init__(self, stack: str) -> None:
        """`stack` is written as `organization/project/stack`."""
        self._stack = stack
        self._outputs = pulumi.StackReference(stack)

    async def read(self, name: str, kind: type["Kind"]) -> dict[str, Any]:
        """The fields of `kind` that the other stack published under `name`; what is a dataclass is one.

        A field whose type takes no `Output` is a plain value, known in a preview too.

        Raises:
            ConfigurationError: the other stack has not published it.
        """
        told: dict[str, Any] = {}
        for field, hint in _handed_over(kind).items():
            key = f"{name}.{field}"
            inner = next((part for part in _parts(hint) if dataclasses.is_dataclass(part)), None)
            if isinstance(inner, type):
                told[field] = await self.read(key, inner)
                if not _has_resources(inner):
                    told[field] = inner(**told[field])
                continue
            details = await self._outputs.get_output_details(key)
            secret = details.secret_value is not None
            value = details.secret_value if secret else details.value
            if value is None and type(None) not in _parts(hint):
                raise ConfigurationError(
                    f"agent-platform:baseStack: the stack {self._stack} has no output {key}, so this stack "
                    "would have nothing to stand on; nothing was changed. Name the stack that owns the layer "
                    "below this one's and not this one's, and run its `pulumi up` first."
                )
            if isinstance(value, list):
                value = tuple(value)
            if isinstance(value, float) and int in _parts(hint):
                value = int(value)  # on the way between stacks, every number is a float
            if secret:
                value = pulumi.Output.secret(value)
            elif value is not None and _takes_output(hint):
                value = pulumi.Output.from_input(value)
            told[field] = value
        return told


def _handed_over(kind: "type[DataclassInstance]") -> dict[str, Any]:
    """The fields that are no resources, each with its type."""
    return {field.name: field.type for field in dataclasses.fields(kind) if not _is_resource(field.type)}


def _has_resources(kind: "type[DataclassInstance]") -> bool:
    return len(_handed_over(kind)) < len(dataclasses.fields(kind))


def _is_resource(hint: Any) -> bool:
    return any(isinstance(part, type) and issubclass(part, pulumi.Resource) for part in _parts(hint))


def _takes_output(hint: Any) -> bool:
    # `pulumi.Input` refers to it by name.
    return any(
        typing.get_origin(part) is pulumi.Output
        or (isinstance(part, typing.ForwardRef) and part.__forward_arg__.startswith("Output["))
        for part in _parts(hint)
    )


def _parts(hint: Any) -> list[Any]:
    """The type itself and, of a union or a list, what is in it."""
    return [hint, *(part for part in typing.get_args(hint))]
