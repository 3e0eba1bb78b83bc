"""What a resource type takes and gives: the official schema, read from the classes of the installed SDK.

The wording of the failures is that of the official plugins, so that a user meets the same message from both.
"""

import collections.abc
import enum
import functools
import importlib
import inspect
import operator
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi.runtime import rpc

from local.providers.provider import Failure, ProviderError
from local.providers.values import UNKNOWN, Path, Properties, Secret, Unknown, path_text

RESERVED = frozenset({"version", "pluginDownloadURL", "__internal", "__defaults"})
"""Inputs that the engine itself adds."""


@dataclass(frozen=True)
class Field:
    """A property: the Pulumi name and what it may be."""

    name: str
    python_name: str
    type: Any
    required: bool


@dataclass(frozen=True)
class TypeSchema:
    """The properties of one resource type, or of the provider's configuration."""

    token: str
    inputs: dict[str, Field]
    outputs: frozenset[str]

    def check(self, name: str, inputs: Properties) -> tuple[Properties, list[Failure]]:
        """The inputs, scalars converted to what the type wants, and everything that is wrong with them.

        `name` is the resource's, for the messages.
        """
        failures: list[Failure] = []
        checked = {key: value for key, value in inputs.items() if key in RESERVED}
        given = {key: value for key, value in inputs.items() if key not in RESERVED}
        checked |= _object(self.inputs, given, _Reporter(name, failures), ())
        return checked, failures

    def preview(self, inputs: Properties) -> Properties:
        """What a preview knows of a new resource: its inputs; every other output is unknown."""
        return {**dict.fromkeys(self.outputs, UNKNOWN), **_without_reserved(inputs)}


def _without_reserved(inputs: Properties) -> Properties:
    return {key: value for key, value in inputs.items() if key not in RESERVED}


class Schema:
    """The types of one SDK package; each is read at its first use, as the packages are large."""

    def __init__(self, package: str) -> None:
        """`package` is the SDK's import name, such as `pulumi_postgresql`."""
        self._package = package

    def resource(self, token: str) -> TypeSchema:
        """The type `token`. Raises `ProviderError` for an unknown one."""
        return _resource(self._package, token)

    def knows(self, token: str) -> bool:
        """Whether the package has the resource type `token`; loads no module of it."""
        return _class_of(self._package, token) is not None

    @functools.cached_property
    def provider(self) -> TypeSchema:
        """The provider's configuration."""
        module = importlib.import_module(f"{self._package}.provider")
        return TypeSchema("provider", _fields(module.ProviderArgs), frozenset())


def _class_of(package: str, token: str) -> tuple[str, str] | None:
    """The module and name of a token's class, from the table that the SDK registers when it is imported."""
    importlib.import_module(package)
    for module in rpc._RESOURCE_MODULES.get(token.rpartition(":")[0], ()):
        information: dict[str, Any] = module.mod_info  # type: ignore[attr-defined]
        if name := information["classes"].get(token):
            return information["fqn"], name
    return None


_LOADING = threading.RLock()
"""The SDK's modules import each other at first use, which no two threads may do at once."""


@functools.cache
def _resource(package: str, token: str) -> TypeSchema:
    with _LOADING:
        return _load(package, token)


def _load(package: str, token: str) -> TypeSchema:
    found = _class_of(package, token)
    if found is None:
        raise ProviderError(f"unrecognized resource type (Check): {token}")
    module_name, class_name = found
    resource = getattr(importlib.import_module(module_name), class_name)
    module = sys.modules[resource.__module__]
    arguments = getattr(module, f"{class_name}Args", None) or getattr(module, f"{class_name}InitArgs")
    outputs = {_pulumi_name(value) for _, value in inspect.getmembers(resource, _is_getter)}
    return TypeSchema(token, _fields(arguments), frozenset(name for name in outputs if name) - {"id", "urn"})


def _is_getter(value: object) -> bool:
    return isinstance(value, property)


def _pulumi_name(value: property) -> str | None:
    return getattr(value.fget, "_pulumi_name", None)


_FORWARD = {"Output": pulumi.Output, "T": type(None)}
"""Names that the SDK's own `Input` refers to before they exist."""


@functools.cache
def _fields(arguments: type) -> dict[str, Field]:
    hints = typing.get_type_hints(inspect.getattr_static(arguments, "__init__"), localns=_FORWARD)
    parameters = inspect.signature(arguments).parameters.values()
    names = {python: _pulumi_name(value) for python, value in inspect.getmembers(arguments, _is_getter)}
    fields = [
        Field(
            name=names.get(parameter.name) or parameter.name,
            python_name=parameter.name,
            type=_unwrapped(hints[parameter.name]),
            required=parameter.default is inspect.Parameter.empty,
        )
        for parameter in parameters
    ]
    return {field.name: field for field in fields}


def _unwrapped(hint: Any) -> Any:
    """`Input[Optional[T]]` is a union of T with what may become a T: only T is left."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint
    alternatives = [_unwrapped(part) for part in typing.get_args(hint) if not _is_wrapper(part)]
    return functools.reduce(operator.or_, alternatives)


def _is_wrapper(hint: Any) -> bool:
    if hint is type(None) or typing.is_typeddict(hint):
        return True
    origin = typing.get_origin(hint)
    return origin is pulumi.Output or origin is collections.abc.Awaitable


@dataclass(frozen=True)
class _Reporter:
    resource: str
    failures: list[Failure]

    def unknown(self, path: Path) -> None:
        self._add("", f"Invalid or unknown key. Examine values at '{self._at(path)}'.")

    def missing(self, path: Path, field: Field) -> None:
        self._add(
            "",
            f'Missing required argument. The argument "{field.python_name}" is required, but no definition '
            f"was found.. Examine values at '{self._at(path)}'.",
        )

    def mismatch(self, path: Path, expected: str, value: Any) -> None:
        self._add(
            "",
            f"expected {expected} type, got {_described(value)} type. Examine values at '{self._at(path)}'.",
        )

    def _at(self, path: Path) -> str:
        return path_text((self.resource, *path))

    def _add(self, name: str, reason: str) -> None:
        self.failures.append(Failure(name, reason))


def _described(value: Any) -> str:
    match value:
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
        case dict():
            return "object"
        case _:
            return "null"


def _object(fields: dict[str, Field], given: Properties, report: _Reporter, path: Path) -> Properties:
    checked: Properties = {}
    for name, value in given.items():
        field = fields.get(name)
        if field is None:
            report.unknown((*path, name))
        else:
            checked[name] = _value(field.type, value, report, (*path, name))
    for field in fields.values():
        if field.required and given.get(field.name) is None:
            report.missing((*path, field.name), field)
    return checked


def _value(wanted: Any, value: Any, report: _Reporter, path: Path) -> Any:
    if isinstance(value, Unknown) or value is None or wanted is Any:
        return value
    if isinstance(value, Secret):
        return Secret(_value(wanted, value.value, report, path))
    return _checker(wanted)(value, report, path)


_Checker = Callable[[Any, _Reporter, Path], Any]


@functools.cache
def _checker(wanted: Any) -> _Checker:
    origin = typing.get_origin(wanted)
    if origin in (typing.Union, types.UnionType):
        return _either([_checker(part) for part in typing.get_args(wanted)])
    if origin is typing.Literal:
        return _scalar("string", lambda value: value if isinstance(value, str) else None)
    if origin is collections.abc.Sequence:
        return _sequence(_unwrapped(typing.get_args(wanted)[0]))
    if origin is collections.abc.Mapping:
        return _mapping(_unwrapped(typing.get_args(wanted)[1]))
    if wanted is Any or wanted in (pulumi.Asset, pulumi.Archive):
        return lambda value, _report, _path: value
    if wanted is bool:
        return _scalar("bool", _boolean)
    if wanted in (int, float):
        return _scalar("number", _number)
    if wanted is str or (isinstance(wanted, type) and issubclass(wanted, enum.Enum)):
        return _scalar("string", _string)
    return _nested(wanted)


def _scalar(expected: str, convert: Callable[[Any], Any]) -> _Checker:
    def check(value: Any, report: _Reporter, path: Path) -> Any:
        converted = convert(value)
        if converted is None:
            report.mismatch(path, expected, value)
            return value
        return converted

    return check


def _boolean(value: Any) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value)
    return value if isinstance(value, bool) else None


def _number(value: Any) -> int | float | None:
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return None
        return int(number) if number.is_integer() else number
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _string(value: Any) -> str | None:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case str():
            return value
        case _:
            return None


def _sequence(item: Any) -> _Checker:
    def check(value: Any, report: _Reporter, path: Path) -> Any:
        if not isinstance(value, list):
            report.mismatch(path, "array", value)
            return value
        return [_value(item, part, report, (*path, position)) for position, part in enumerate(value)]

    return check


def _mapping(item: Any) -> _Checker:
    def check(value: Any, report: _Reporter, path: Path) -> Any:
        if not isinstance(value, dict):
            report.mismatch(path, "object", value)
            return value
        return {name: _value(item, part, report, (*path, name)) for name, part in value.items()}

    return check


def _nested(arguments: type) -> _Checker:
    def check(value: Any, report: _Reporter, path: Path) -> Any:
        if not isinstance(value, dict):
            report.mismatch(path, "object", value)
            return value
        return _object(_fields(arguments), value, report, path)

    return check


def _either(checkers: list[_Checker]) -> _Checker:
    def check(value: Any, report: _Reporter, path: Path) -> Any:
        attempts = list(_attempts(checkers, value, report, path))
        for checked, failures in attempts:
            if not failures:
                return checked
        report.failures.extend(attempts[0][1])
        return value

    return check


def _attempts(
    checkers: list[_Checker], value: Any, report: _Reporter, path: Path
) -> Iterator[tuple[Any, list[Failure]]]:
    for checker in checkers:
        failures: list[Failure] = []
        yield checker(value, _Reporter(report.resource, failures), path), failures
