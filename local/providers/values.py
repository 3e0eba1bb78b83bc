"""Property values: protobuf structs as plain Python values, with unknowns and secrets as markers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import struct_pb2  # type: ignore[import-untyped]

Properties = dict[str, Any]
"""Plain Python values (None, bool, int, float, str, list, dict) in which `UNKNOWN` and `Secret` may stand."""

_SIGNATURE = "4dabf18193072939515e22adb298388d"
_SECRET = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 - the wire's marker of a secret
_OUTPUT = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
_UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
_UNKNOWNS = frozenset(
    {
        _UNKNOWN,  # a string, or of any type
        "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",  # boolean
        "3eeb2bf0-c639-47a8-9e75-3b44932eb421",  # number
        "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",  # list
        "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",  # object
        "030794c1-ac77-496b-92df-f27374a8bd58",  # asset
        "e48ece36-62e2-4504-bad9-02848725956a",  # archive
    }
)


class Unknown:
    """The type of `UNKNOWN`."""

    def __repr__(self) -> str:  # noqa: D105
        return "UNKNOWN"

    def __deepcopy__(self, _memo: dict[int, Any]) -> "Unknown":  # noqa: D105 - there is only one
        return self


UNKNOWN: Final = Unknown()
"""A value that only the update will know."""


@dataclass(frozen=True)
class Secret:
    """A value that the engine encrypts in its state and hides in its display."""

    value: Any

    def __repr__(self) -> str:  # noqa: D105 - it shall not show in a log
        return "Secret(…)"


def decode(struct: struct_pb2.Struct) -> Properties:
    """A struct as Python values; a null property is left out, as it means "not given"."""
    return {
        name: _decode(value)
        for name, value in struct.fields.items()
        if value.WhichOneof("kind") not in (None, "null_value")
    }


def _decode(value: struct_pb2.Value) -> Any:
    match value.WhichOneof("kind"):
        case "string_value":
            text = value.string_value
            return UNKNOWN if text in _UNKNOWNS else text
        case "struct_value":
            return _decode_object(value.struct_value)
        case "list_value":
            return [_decode(item) for item in value.list_value.values]
        case "bool_value":
            return value.bool_value
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() else number
        case _:
            return None


def _decode_object(struct: struct_pb2.Struct) -> Any:
    if _SIGNATURE not in struct.fields:
        return decode(struct)
    match struct.fields[_SIGNATURE].string_value:
        case signature if signature == _SECRET:
            return Secret(_decode(struct.fields["value"]))
        case signature if signature == _OUTPUT:
            value = _decode(struct.fields["value"]) if "value" in struct.fields else UNKNOWN
            secret = "secret" in struct.fields and struct.fields["secret"].bool_value
            return Secret(value) if secret else value
        case _:
            return decode(struct)


def encode(properties: Mapping[str, Any]) -> struct_pb2.Struct:
    """Python values as a struct."""
    struct = struct_pb2.Struct()
    for name, value in properties.items():
        _encode(value, struct.fields[name])
    return struct


def _encode(value: Any, into: struct_pb2.Value) -> None:
    match value:
        case None:
            into.null_value = struct_pb2.NULL_VALUE
        case bool():
            into.bool_value = value
        case int() | float():
            into.number_value = value
        case str():
            into.string_value = value
        case Unknown():
            into.string_value = _UNKNOWN
        case Secret():
            fields = into.struct_value.fields
            fields[_SIGNATURE].string_value = _SECRET
            _encode(value.value, fields["value"])
        case Mapping():
            into.struct_value.SetInParent()
            for name, item in value.items():
                _encode(item, into.struct_value.fields[name])
        case list() | tuple():
            into.list_value.SetInParent()
            for item in value:
                _encode(item, into.list_value.values.add())
        case _:
            raise TypeError(f"A {type(value).__name__} is no property value.")


def plain(value: Any) -> Any:
    """The value without its secret markers."""
    match value:
        case Secret():
            return plain(value.value)
        case dict():
            return {name: plain(item) for name, item in value.items()}
        case list():
            return [plain(item) for item in value]
        case _:
            return value


def mark_secrets(value: Any, like: Any) -> Any:
    """`value` with everything secret that is secret in `like`, at the same place."""
    if isinstance(value, Secret):
        return value
    match like:
        case Secret():
            return Secret(plain(value))
        case dict() if isinstance(value, dict):
            return {
                name: mark_secrets(item, like[name]) if name in like else item for name, item in value.items()
            }
        case list() if has_secret(like):
            # Elements may have moved: which is which cannot be told, so all are.
            return Secret(plain(value))
        case _:
            return value


def has_secret(value: Any) -> bool:
    """Whether a secret is anywhere in it."""
    return _contains(value, Secret)


def has_unknown(value: Any) -> bool:
    """Whether an unknown is anywhere in it."""
    return _contains(value, Unknown)


def _contains(value: Any, kind: type) -> bool:
    match value:
        case _ if isinstance(value, kind):
            return True
        case Secret():
            return _contains(value.value, kind)
        case dict():
            return any(_contains(item, kind) for item in value.values())
        case list():
            return any(_contains(item, kind) for item in value)
        case _:
            return False


Path = tuple[str | int, ...]
"""Where a value is: names of properties and positions in lists."""


def path_text(path: Path) -> str:
    """`a.b[0]["c.d"]`, as the engine reads it."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step and all(character not in step for character in '."[]'):
            text += f".{step}" if text else step
        else:
            quoted = step.replace("\\", "\\\\").replace('"', '\\"')
            text += f'["{quoted}"]'
    return text


def differences(old: Any, new: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Where the two differ, with "add", "delete" or "update"; an unknown differs from everything."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            if name not in new:
                yield (*path, name), "delete"
            elif name not in old:
                yield (*path, name), "add"
            else:
                yield from differences(old[name], new[name], (*path, name))
    elif isinstance(old, list) and isinstance(new, list):
        for position in range(max(len(old), len(new))):
            if position >= len(new):
                yield (*path, position), "delete"
            elif position >= len(old):
                yield (*path, position), "add"
            else:
                yield from differences(old[position], new[position], (*path, position))
    elif isinstance(new, Unknown) or old != new or isinstance(old, bool) != isinstance(new, bool):
        yield path, "update"
