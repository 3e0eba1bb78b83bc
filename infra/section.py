"""How a mapping that people write is modelled, and how a mistake in it finds its field again."""

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Section(BaseModel):
    """A mapping: camelCase keys, exact types, nothing unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, alias_generator=to_camel)


def look_up(root: type[BaseModel], path: tuple[int | str, ...]) -> tuple[type[BaseModel], str]:
    """The section below `root` that holds the last step of `path`, and that field's description."""
    owner, description = root, "a mapping"
    for index, step in enumerate(path):
        field = next((f for f in owner.model_fields.values() if f.alias == step), None)
        if field is None:
            continue
        description = field.description or description
        inner = _section_in(field.annotation)
        if inner is not None and index < len(path) - 1:
            owner = inner
    return owner, description


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside `Model`, `Model | None` or `tuple[Model, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_in(part))), None)
