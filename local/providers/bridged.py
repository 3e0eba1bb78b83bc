"""Resource types of plugins that bridge a Terraform provider, described by a table of their properties.

Such plugins compare what the server last said with what is asked for now. Three rules follow, kept here: an
empty value is no value, the order in a set means nothing, and what the server chose itself stays when nobody
asks for anything else.
"""

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from local.providers.provider import Call, Diff, Failure, Resource, State
from local.providers.schema import RESERVED, Schema
from local.providers.values import UNKNOWN, Path, Properties, Secret, Unknown, differences, has_unknown

DEFAULTS = "__defaults"
"""Where the inputs list what the plugin added itself: defaults, and a name that it made up."""


@dataclass(frozen=True, kw_only=True)
class Property:
    """How a property behaves; the SDK tells its type and whether it is required."""

    default: Any = None
    """What it is when it is not given."""
    computed: bool = False
    """The server chooses when it is not given."""
    replaces: bool = False
    """A change needs a new object."""
    secret: bool = False
    unordered: bool = False
    """A list in which the order means nothing."""
    choices: tuple[str, ...] = ()
    at_least: int | None = None
    normal: Callable[[Any], Any] = lambda value: value
    """The form in which it is kept and compared."""


def table(**properties: Property) -> Mapping[str, Property]:
    """A type's properties, by their Pulumi names."""
    return properties


class Bridged(Resource):
    """A type whose properties are a table. The subclass makes, finds, changes and drops the object.

    What the SDK takes but the table lacks is refused: nothing is ignored in silence.
    """

    package: ClassVar[Schema]
    properties: ClassVar[Mapping[str, Property]]
    autonamed = True
    """Whether a missing `name` is made up from the resource's name."""

    def __init__(self) -> None:
        """Tell the framework what the table says."""
        self.secret_outputs = frozenset(name for name, is_ in self.properties.items() if is_.secret)

    def make(self, call: Call, inputs: Properties) -> str:
        """Make the object; its id."""
        raise NotImplementedError

    def find(self, id: str, known: Properties) -> Properties | None:
        """What the server says about it, None when it is gone.

        `known` are the last outputs (after a change the inputs, on import nothing): what the server does not
        tell is taken from there.
        """
        raise NotImplementedError

    def change(self, call: Call, id: str, old: Properties, new: Properties) -> None:
        """Change it from the outputs `old` to the inputs `new`."""
        raise NotImplementedError

    def drop(self, id: str, known: Properties) -> None:
        """Take it away; `known` are the last outputs."""
        raise NotImplementedError

    def check(self, call: Call, old: Properties, new: Properties) -> tuple[Properties, list[Failure]]:  # noqa: D102
        inputs, failures = self.package.resource(call.token).check(call.name, new)
        failures += self._unsupported(call, inputs)
        failures += self._out_of_range(call, inputs)
        added = {name: value for name, value in self._defaults().items() if value and name not in inputs}
        if self.autonamed and "name" in self.properties and "name" not in inputs:
            made_up = "name" in old.get(DEFAULTS, ())
            added["name"] = old["name"] if made_up else f"{call.name}-{call.random_seed.hex()[:7]}"
        inputs |= {**added, DEFAULTS: sorted(added)}
        for name in self.secret_outputs & inputs.keys():
            inputs[name] = Secret(inputs[name])
        return inputs, failures

    def _unsupported(self, call: Call, inputs: Properties) -> list[Failure]:
        return [
            Failure(
                "",
                f"the stand-in does not support this property; put the official plugin on PATH. "
                f"Examine values at '{call.name}.{name}'.",
            )
            for name in sorted(inputs.keys() - self.properties.keys() - RESERVED)
            if name in self.package.resource(call.token).inputs
        ]

    def _out_of_range(self, call: Call, inputs: Properties) -> list[Failure]:
        failures = []
        for name, is_ in self.properties.items():
            value = inputs.get(name)
            if value is None or isinstance(value, Unknown):
                continue
            if is_.choices and value not in is_.choices:
                allowed = " ".join(f'"{choice}"' for choice in is_.choices)
                wrong = f"expected {snake(name)} to be one of [{allowed}], got {value}"
            elif is_.at_least is not None and isinstance(value, int) and value < is_.at_least:
                wrong = f"expected {snake(name)} to be at least ({is_.at_least}), got {value}"
            else:
                continue
            failures.append(Failure("", f"{wrong}. Examine values at '{call.name}.{name}'."))
        return failures

    def diff(self, call: Call, id: str, old: State, new: Properties) -> Diff:  # noqa: D102
        del id
        wanted = self._with_defaults(new)
        asked = {name for name in self._inputs(call.token) if name in new or not self._is_computed(name)}
        diff = Diff()
        for name in asked - call.ignored:
            for path, kind in self._differences(name, old.outputs.get(name), wanted.get(name)):
                diff.changes[path] = kind
                if self.properties[name].replaces:
                    diff.replaces.add(path)
        diff.delete_before_replace = bool(diff.replaces) and (
            self.delete_before_replace or self._named_by_hand(new)
        )
        return diff

    def _differences(self, name: str, have: Any, want: Any) -> Iterator[tuple[Path, str]]:
        is_ = self.properties[name]
        if is_.unordered and not has_unknown(want):
            yield from _set_differences(name, have or [], want or [])
            return
        before, after = ({name: self._normal(name, value)} for value in (have, want))
        for path, kind in differences(_without_empty(before), _without_empty(after)):
            # An empty value is one, too, once the server has told it or the default says it.
            told = kind == "add" and _at(have, path[1:]) is not None
            yield path, "update" if told or (kind == "delete" and is_.default is not None) else kind

    def _normal(self, name: str, value: Any) -> Any:
        value = _without_defaults(value)
        return value if value is None or has_unknown(value) else self.properties[name].normal(value)

    def _defaults(self) -> Properties:
        return {name: is_.default for name, is_ in self.properties.items() if is_.default is not None}

    def _with_defaults(self, inputs: Properties) -> Properties:
        return {**self._defaults(), **inputs}

    def _inputs(self, token: str) -> Iterable[str]:
        return self.properties.keys() & self.package.resource(token).inputs.keys()

    def _named_by_hand(self, inputs: Properties) -> bool:
        """A name that somebody chose cannot be had twice, so a replacement waits until it is free."""
        return self.autonamed and "name" in self.properties and "name" not in inputs[DEFAULTS]

    def create(self, call: Call, inputs: Properties) -> tuple[str, Properties]:  # noqa: D102
        wanted = self._with_defaults(inputs)
        if call.preview:
            unknown = {name: UNKNOWN for name, is_ in self.properties.items() if is_.computed}
            return "", {**unknown, **self._remembered(wanted)}
        id = self.make(call, wanted)
        return id, self._outputs(id, wanted)

    def read(self, call: Call, id: str, state: State) -> State | None:  # noqa: D102
        found = self.find(id, state.outputs)
        if found is None:
            return None
        outputs = _without_none({**self._remembered(state.outputs), **found})
        return State(self._inputs_of(call, state.inputs, outputs), outputs)

    def _inputs_of(self, call: Call, asked: Properties, outputs: Properties) -> Properties:
        """The inputs that would give these outputs: those asked for before, or all needed on import."""
        if asked:
            kept: Properties = _kept(asked, outputs)
            return kept
        needed = {
            name: outputs[name]
            for name in self._inputs(call.token)
            if not is_empty(outputs.get(name)) and outputs[name] != self.properties[name].default
        }
        return {**needed, DEFAULTS: []}

    def update(self, call: Call, id: str, old: State, inputs: Properties) -> Properties:  # noqa: D102
        kept = {name: old.outputs[name] for name in call.ignored if name in old.outputs}
        wanted = {**self._with_defaults(inputs), **kept}
        if call.preview:
            return {**self._computed(old.outputs), **self._remembered(wanted)}
        self.change(call, id, old.outputs, wanted)
        return self._outputs(id, {**self._computed(old.outputs), **wanted})

    def delete(self, call: Call, id: str, state: State) -> None:  # noqa: D102
        del call
        self.drop(id, state.outputs)

    def _outputs(self, id: str, known: Properties) -> Properties:
        found = self.find(id, known) or {}
        return _without_none({**self._remembered(known), **found})

    def _remembered(self, known: Properties) -> Properties:
        return {name: self._normal(name, known[name]) for name in self.properties if name in known}

    def _computed(self, values: Properties) -> Properties:
        return {name: value for name, value in values.items() if self._is_computed(name)}

    def _is_computed(self, name: str) -> bool:
        return name in self.properties and self.properties[name].computed


def configuration(
    package: Schema,
    call: Call,
    config: Properties,
    supported: Iterable[str],
    defaults: Mapping[str, str | None],
) -> tuple[Properties, list[Failure]]:
    """A provider's configuration, checked and with defaults; such plugins keep every value of it as text."""
    checked, failures = package.provider.check(call.name, config)
    unsupported = (checked.keys() & package.provider.inputs.keys()) - set(supported)
    failures += [
        Failure(name, "the stand-in does not support it; put the official plugin on PATH")
        for name in sorted(unsupported)
    ]
    known = {name: value for name, value in defaults.items() if value is not None}
    return {name: _as_text(value) for name, value in {**known, **checked}.items()}, failures


def _as_text(value: Any) -> Any:
    return value if isinstance(value, str) or has_unknown(value) else json.dumps(value)


def snake(name: str) -> str:
    """`objectType` as the Terraform provider calls it in its messages: `object_type`."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def set_order(values: Iterable[str]) -> list[str]:
    """The order in which a set's members stand in ids and outputs."""
    return sorted(set(values), key=lambda value: str(zlib.crc32(value.encode())))


def is_empty(value: Any) -> bool:
    """Whether it says nothing: the zero of its type."""
    return not isinstance(value, Unknown) and not value


def _without_defaults(value: Any) -> Any:
    """An object without the list of what was added to it."""
    if not isinstance(value, dict):
        return value
    return {name: _without_defaults(item) for name, item in value.items() if name != DEFAULTS}


def _without_empty(values: Properties) -> Properties:
    parts = {
        name: _without_empty(value) if isinstance(value, dict) else value for name, value in values.items()
    }
    return {name: part for name, part in parts.items() if not is_empty(part)}


def _set_differences(name: str, have: list[Any], want: list[Any]) -> Iterator[tuple[Path, str]]:
    for position, member in enumerate(have):
        if member not in want:
            yield (name, position), "delete"
    for position, member in enumerate(want):
        if member not in have:
            yield (name, position), "add"


def _at(value: Any, path: Path) -> Any:
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _kept(asked: Any, found: Any) -> Any:
    """What was found, in the shape of what was asked for: parts that nobody asked for are left out."""
    if isinstance(asked, dict) and isinstance(found, dict):
        return {
            name: value if name == DEFAULTS else _kept(value, found[name])
            for name, value in asked.items()
            if name == DEFAULTS or name in found
        }
    if (
        isinstance(asked, list)
        and isinstance(found, list)
        and sorted(asked, key=str) == sorted(found, key=str)
    ):
        return asked
    return found


def _without_none(values: Properties) -> Properties:
    return {name: value for name, value in values.items() if value is not None}
