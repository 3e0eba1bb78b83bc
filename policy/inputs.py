"""A resource's inputs as plain Python, in which what nobody can know yet cannot be mistaken for a value.

At a preview, what another resource has yet to make is unknown. Read in whatever way, it raises an
`UnknownInputError`; the framework then says which field it was, instead of judging.
"""

from collections.abc import Iterator
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value  # type: ignore[import-untyped]

Path = tuple[str | int, ...]
"""Where a value stands, from the top of the inputs."""

# The engine's wire format: sdk/go/common/resource/plugin/rpc.go and sdk/go/common/resource/sig.
_UNKNOWN = frozenset(
    (
        "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",  # a boolean
        "3eeb2bf0-c639-47a8-9e75-3b44932eb421",  # a number
        "04da6b54-80e4-46f7-96ec-b56ff0331ba9",  # a text
        "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",  # a list
        "030794c1-ac77-496b-92df-f27374a8bd58",  # an asset
        "e48ece36-62e2-4504-bad9-02848725956a",  # an archive
        "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",  # an object
    )
)
_SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 — marks a secret, is none


class UnknownInputError(Exception):
    """A rule needs a field whose value is not known yet."""

    def __init__(self, path: Path) -> None:
        """`path` is the field's."""
        super().__init__(path_text(path))


class UnsearchedError(UnknownInputError):
    """A rule that searches everything could not look into what is not known yet; the rest it has judged."""


class _Unknown:
    """Stands where an unknown value will be; it lets nobody take it for one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __eq__(self, _other: object) -> bool:
        raise UnknownInputError(self.path)

    __hash__ = None  # type: ignore[assignment]


class _Object(dict[str, Any]):
    """A mapping that holds an unknown."""

    def __getitem__(self, key: str) -> Any:
        return _known(super().__getitem__(key))

    def get(self, key: str, default: Any = None) -> Any:
        return _known(super().get(key, default))

    def values(self) -> Iterator[Any]:  # type: ignore[override] # to be looped over, no more
        return (_known(value) for value in super().values())

    def items(self) -> Iterator[tuple[str, Any]]:  # type: ignore[override]
        return ((key, _known(value)) for key, value in super().items())


class _Array(list[Any]):
    """A list that holds an unknown."""

    def __getitem__(self, index: Any) -> Any:
        return _known(super().__getitem__(index))

    def __iter__(self) -> Iterator[Any]:
        return (_known(value) for value in super().__iter__())


def _known(value: Any) -> Any:
    if isinstance(value, _Unknown):
        raise UnknownInputError(value.path)
    return value


def texts(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Every text in `value` with where it stands; what is unknown is left out."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in dict.items(value):
            yield from texts(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(list.__iter__(value)):
            yield from texts(item, (*path, index))


def searched(value: Any) -> None:
    """Say that `value` has been searched for something that could be anywhere in it.

    Raises:
        UnsearchedError: something in it is unknown.
    """
    for path in unknowns(value):
        raise UnsearchedError(path)


def unknowns(value: Any) -> Iterator[Path]:
    """Where in `value` something is unknown."""
    if isinstance(value, _Unknown):
        yield value.path
    elif isinstance(value, dict):
        for item in dict.values(value):
            yield from unknowns(item)
    elif isinstance(value, list):
        for item in list.__iter__(value):
            yield from unknowns(item)


def decode(properties: Struct) -> tuple[dict[str, Any], frozenset[Path]]:
    """The inputs of a request, and where in them the secrets are; secrets are in the clear here."""
    secrets: set[Path] = set()
    decoded: dict[str, Any] = _mapping(properties, (), secrets)
    return decoded, frozenset(secrets)


def path_text(path: Path) -> str:
    """`spec.containers[0].image`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def _mapping(struct: Struct, path: Path, secrets: set[Path]) -> dict[str, Any]:
    # Sorted, since the wire has no order: what a comparison meets first must not change from run to run.
    decoded = {name: _value(struct.fields[name], (*path, name), secrets) for name in sorted(struct.fields)}
    return _Object(decoded) if any(isinstance(value, _Unknown) for value in decoded.values()) else decoded


def _value(value: Value, path: Path, secrets: set[Path]) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return _Unknown(path) if value.string_value in _UNKNOWN else value.string_value
    if kind == "struct_value":
        fields = value.struct_value.fields
        if _SIGNATURE in fields and fields[_SIGNATURE].string_value == _SECRET:
            secrets.add(path)
            return _value(fields["value"], path, secrets)
        return _mapping(value.struct_value, path, secrets)
    if kind == "list_value":
        listed = [_value(item, (*path, index), secrets) for index, item in enumerate(value.list_value.values)]
        return _Array(listed) if any(isinstance(item, _Unknown) for item in listed) else listed
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() else number
    return value.bool_value if kind == "bool_value" else None
