"""Resource types of plugins that bridge a Terraform provider, described by a table of their properties.

Such plugins compare what the server last said with what is asked for now. Three rules follow, kept here: an
empty value is no value, the order in a set means nothing, and what the server chose itself stays when nobody
asks for anything else.
"""

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from local.providers.provider import Call, Diff, Failure, Resource, State
from local.providers.schema import RESERVED, Schema
from local.providers.values import UNKNOWN, Properties, Secret, Unknown, differences, has_unknown

DEFAULTS = "__defaults"
"""Where the inputs list those properties that nobody wrote."""


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
        written = frozenset(inputs)
        self._fill_in(call, old, inputs)
        failures += self._out_of_range(call, inputs)
        for name in self.secret_outputs & inputs.keys():
            inputs[name] = Secret(inputs[name])
        return {**inputs, DEFAULTS: sorted(inputs.keys() - written)}, failures

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

    def _fill_in(self, call: Call, old: Properties, inputs: Properties) -> None:
        inputs.pop(DEFAULTS, None)
        for name, is_ in self.properties.items():
            if is_.default is not None:
                inputs.setdefault(name, is_.default)
        if self.autonamed and "name" in self.properties and "name" not in inputs:
            made_up = "name" in old.get(DEFAULTS, ())
            inputs["name"] = old["name"] if made_up else f"{call.name}-{call.random_seed.hex()[:7]}"

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
        asked = [
            name for name in self._inputs(call.token) if name in new or not self.properties[name].computed
        ]
        have = self._comparable(old.outputs, asked)
        want = self._comparable(new, asked)
        diff = Diff(changes=dict(differences(have, want)))
        diff.replaces = {path for path in diff.changes if self.properties[str(path[0])].replaces}
        diff.delete_before_replace = bool(diff.replaces) and (
            self.delete_before_replace or self._same_name(old.outputs, new)
        )
        return diff

    def _inputs(self, token: str) -> Iterable[str]:
        return self.properties.keys() & self.package.resource(token).inputs.keys()

    def _comparable(self, values: Properties, names: Iterable[str]) -> Properties:
        return {
            name: in_order(value) if self.properties[name].unordered else value
            for name, kept in self._remembered({name: values.get(name) for name in names}).items()
            if not is_empty(value := _without_empty(kept))
        }

    @staticmethod
    def _same_name(old: Properties, new: Properties) -> bool:
        """A name that somebody chose cannot be had twice, so a replacement must wait until it is free."""
        return "name" in new and "name" not in new.get(DEFAULTS, ()) and old.get("name") == new["name"]

    def create(self, call: Call, inputs: Properties) -> tuple[str, Properties]:  # noqa: D102
        if call.preview:
            return "", self._foretold({}, inputs)
        id = self.make(call, inputs)
        return id, self._outputs(id, inputs)

    def read(self, call: Call, id: str, state: State) -> State | None:  # noqa: D102
        found = self.find(id, state.outputs)
        if found is None:
            return None
        outputs = _without_none({**self._remembered(state.outputs), **found})
        return State(self._inputs_of(call, state.inputs, outputs), outputs)

    def _inputs_of(self, call: Call, asked: Properties, outputs: Properties) -> Properties:
        """The inputs that would give these outputs: those asked for before, or all on import."""
        if asked:
            return {
                name: value if name == DEFAULTS else _kept(value, outputs[name])
                for name, value in asked.items()
                if name == DEFAULTS or name in outputs
            }
        inputs = {name: outputs[name] for name in self._inputs(call.token) if not is_empty(outputs.get(name))}
        for name, is_ in self.properties.items():
            if is_.default is not None:
                inputs.setdefault(name, outputs.get(name, is_.default))
        return {**inputs, DEFAULTS: []}

    def update(self, call: Call, id: str, old: State, inputs: Properties) -> Properties:  # noqa: D102
        if call.preview:
            return self._foretold(old.outputs, inputs)
        self.change(call, id, old.outputs, inputs)
        return self._outputs(id, {**self._computed(old.outputs), **inputs})

    def delete(self, call: Call, id: str, state: State) -> None:  # noqa: D102
        del call
        self.drop(id, state.outputs)

    def _outputs(self, id: str, known: Properties) -> Properties:
        found = self.find(id, known) or {}
        return _without_none({**self._remembered(known), **found})

    def _remembered(self, known: Properties) -> Properties:
        return {
            name: value if value is None or has_unknown(value) else is_.normal(value)
            for name, is_ in self.properties.items()
            if name in known
            for value in [known[name]]
        }

    def _computed(self, values: Properties) -> Properties:
        return {name: value for name, value in values.items() if self._is_computed(name)}

    def _is_computed(self, name: str) -> bool:
        return name in self.properties and self.properties[name].computed

    def _foretold(self, old: Properties, inputs: Properties) -> Properties:
        unknown = {name: UNKNOWN for name, is_ in self.properties.items() if is_.computed}
        return {**unknown, **self._computed(old), **self._remembered(inputs)}


def snake(name: str) -> str:
    """`objectType` as the Terraform provider calls it in its messages: `object_type`."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def set_order(values: Iterable[str]) -> list[str]:
    """The order in which a set's members stand in ids and outputs."""
    return sorted(set(values), key=lambda value: str(zlib.crc32(value.encode())))


def in_order(values: Any) -> Any:
    """A set's members in one order, so that two sets can be compared; one with unknowns stays as it is."""
    if not isinstance(values, list) or has_unknown(values):
        return values
    return sorted({str(value): value for value in values}.values(), key=str)


def is_empty(value: Any) -> bool:
    """Whether it says nothing: the zero of its type."""
    return not isinstance(value, Unknown) and not value


def _without_empty(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {
        name: part
        for name, item in value.items()
        if name != DEFAULTS and not is_empty(part := _without_empty(item))
    }


def _kept(asked: Any, found: Any) -> Any:
    """What was found, in the shape of what was asked for: parts that nobody asked for are left out."""
    if isinstance(asked, dict) and isinstance(found, dict):
        return {name: _kept(value, found[name]) for name, value in asked.items() if name in found}
    if isinstance(asked, list) and isinstance(found, list) and in_order(asked) == in_order(found):
        return asked
    return found


def _without_none(values: Properties) -> Properties:
    return {name: value for name, value in values.items() if value is not None}
