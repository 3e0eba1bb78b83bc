"""The parts of which the tables' shapes are made, as the API's document describes them, too."""

from collections.abc import Callable
from typing import Annotated, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Item = TypeVar("Item")

_ANY = r"^[^\x00]*$"
_SOME = r"^[^\x00]*[^\x00\s][^\x00]*$"


def _text(text: str) -> str:
    """JSON can name halves of characters, which no text in UTF-8 has."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it has half of a character in it") from None
    return text


Name = Annotated[
    str, Field(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$", description="As a host name's part.")
]
Key = Annotated[str, Field(max_length=200, pattern=_SOME), AfterValidator(_text)]
Short = Annotated[str, Field(max_length=200, pattern=_ANY), AfterValidator(_text)]
Long = Annotated[str, Field(max_length=2**16, pattern=_ANY), AfterValidator(_text)]
Value = Annotated[str, Field(max_length=2**16, pattern=_SOME), AfterValidator(_text)]
Prompt = Annotated[str, Field(max_length=2**20, pattern=_SOME), AfterValidator(_text)]
Number = Annotated[int, Field(ge=1, le=2**63 - 1)]


class Shape(BaseModel):
    """Something that is said and stored in JSON, with names in camel case and no others than these."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class Page(Shape, Generic[Item]):
    """Some of what there is."""

    items: list[Item]
    next: str | None = Field(description="What to give as `after` for those that follow; null at the end.")


def page(items: list[Item], limit: int, mark: Callable[[Item], object]) -> Page[Item]:
    """Make a page of `items`, of which one more than `limit` was asked for; the last's `mark` is the next."""
    more = str(mark(items[limit - 1])) if len(items) > limit else None
    return Page(items=items[:limit], next=more)


def storable(text: str) -> str:
    """Return `text` with a sign in the place of what PostgreSQL takes in no text."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()
