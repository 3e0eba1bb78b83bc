"""What the resource types of this stand-in have in common."""

import ipaddress
from collections.abc import Callable, Collection, Iterator, Mapping
from random import Random
from typing import Any, ClassVar

from local.providers.exoscale.api import Api, Json, PendingError, Zones
from local.providers.provider import Call, Diff, Failure, InitializationError, ProviderError, Resource, State
from local.providers.schema import Schema, TypeSchema
from local.providers.values import UNKNOWN, Properties, Unknown, has_unknown

SCHEMA = Schema("pulumiverse_exoscale")
"""The official schema, as the SDK has it."""

_NAME_LIMIT = 255

Check = Callable[[str, Any], str | None]
"""What is wrong with a known value, or None; the first argument is its name in the message."""


class Kind(Resource):
    """One type: the subclass says how it is made, found, changed and removed, and how it looks."""

    of_type: ClassVar[str]
    defaults: ClassVar[Mapping[str, Any]] = {}
    checks: ClassVar[Mapping[str, Check]] = {}
    computed: ClassVar[frozenset[str]] = frozenset()
    """Outputs that only the API knows, unless they are given."""
    conflicts: ClassVar[Collection[tuple[str, str]]] = ()
    """Inputs that exclude each other."""
    sets: ClassVar[frozenset[str]] = frozenset()
    """Lists whose order means nothing."""
    any_case: ClassVar[frozenset[str]] = frozenset()
    """Strings in which upper and lower case mean the same."""
    unique_name: ClassVar[bool] = True
    """Whether a second one of the same name is refused, so that the old one must go first."""
    zoned: ClassVar[bool] = False
    """Whether it is managed in the zone that its input `zone` names."""

    def __init__(self, zones: Callable[[], Zones]) -> None:
        """`zones` is asked at the first use: the provider is configured by then."""
        self._zones = zones

    @property
    def schema(self) -> TypeSchema:
        """The official schema of the type."""
        return SCHEMA.resource(self.of_type)

    def make(self, api: Api, inputs: Properties) -> str:
        """Create it; its id."""
        raise NotImplementedError

    def complete(self, api: Api, id: str, inputs: Properties) -> None:
        """What is still to do after it exists."""

    def find(self, api: Api, id: str, known: Properties) -> Json | None:
        """The API's answer about it, None when it is gone; `known` are its last outputs."""
        raise NotImplementedError

    def show(self, api: Api, found: Json, known: Properties) -> Properties:
        """The outputs."""
        raise NotImplementedError

    def change(self, api: Api, id: str, old: Properties, new: Properties) -> None:
        """Update it; the base is for types where every change needs a new object."""
        raise NotImplementedError

    def remove(self, api: Api, id: str, known: Properties) -> None:
        """Delete it."""
        raise NotImplementedError

    def check(self, call: Call, old: Properties, new: Properties) -> tuple[Properties, list[Failure]]:  # noqa: D102
        checked, failures = self.schema.check(call.name, self._with_defaults(call, old, new))
        failures += [
            Failure("", f"{reason}. Examine values at '{call.name}.{at}'.")
            for at, reason in self.wrong(checked)
        ]
        return checked, failures

    def wrong(self, checked: Properties) -> Iterator[tuple[str, str]]:
        """What is wrong beyond the schema: where, and why."""
        for name, check in sorted(self.checks.items()):
            for at, value in _known(checked.get(name), name):
                if reason := check(self._argument(name), value):
                    yield at, reason
        for pair in self.conflicts:
            for one, other in (pair, pair[::-1]):
                if one in checked and other in checked:
                    arguments = f'"{self._argument(one)}": conflicts with {self._argument(other)}'
                    yield one, f"Conflicting configuration arguments. {arguments}"

    def _argument(self, name: str) -> str:
        return self.schema.inputs[name].python_name

    def _with_defaults(self, call: Call, old: Properties, new: Properties) -> Properties:
        filled = dict(new)
        chosen = [name for name in self.defaults if name not in new]
        filled |= {name: self.defaults[name] for name in chosen}
        if "name" in self.schema.inputs and "name" not in new:
            chosen.append("name")
            # Chosen once: a name of ours stays for the life of the resource.
            kept = old.get("name") if "name" in old.get("__defaults", []) else None
            filled["name"] = kept or _named(call)
        return filled | {"__defaults": sorted(chosen)}

    def diff(self, call: Call, id: str, old: State, new: Properties) -> Diff:  # noqa: D102
        before = State(self._comparable(old.inputs), old.outputs)
        diff = super().diff(call, id, before, self._comparable(new))
        # A name of ours has random digits: no other is like it.
        given_name = "name" in self.schema.inputs and "name" not in new.get("__defaults", [])
        diff.delete_before_replace = bool(diff.replaces) and self.unique_name and given_name
        return diff

    def _comparable(self, inputs: Properties) -> Properties:
        compared = dict(inputs)
        for name in self.sets & compared.keys():
            if isinstance(compared[name], list) and not has_unknown(compared[name]):
                compared[name] = sorted(compared[name], key=repr)
        for name in self.any_case & compared.keys():
            if isinstance(compared[name], str):
                compared[name] = compared[name].lower()
        return compared

    def create(self, call: Call, inputs: Properties) -> tuple[str, Properties]:  # noqa: D102
        if call.preview:
            return "", self.foretold(inputs)
        api = self._api(call, inputs)
        try:
            id = self.make(api, inputs)
        except PendingError as error:
            raise self._unfinished(error, error.id, inputs) from None
        try:
            self.complete(api, id, inputs)
            return id, self._read_back(api, id, inputs)
        except ProviderError as error:
            raise self._unfinished(error, id, inputs) from None

    def _unfinished(self, error: ProviderError, id: str, inputs: Properties) -> InitializationError:
        """The state keeps what exists already, so that the next update goes on from there."""
        return InitializationError(
            [str(error)], id=id, inputs=inputs, outputs=self.given(inputs) | {"id": id}
        )

    def foretold(self, inputs: Properties) -> Properties:
        """The outputs as far as a preview knows them."""
        return {**dict.fromkeys(self.computed | {"id"}, UNKNOWN), **self._ordered(self.given(inputs))}

    def given(self, inputs: Properties) -> Properties:
        """The inputs without what the engine adds."""
        return {name: value for name, value in inputs.items() if name in self.schema.inputs}

    def read(self, call: Call, id: str, state: State) -> State | None:  # noqa: D102
        known = state.outputs or self.imported(id)
        api = self._api(call, known)
        found = self.find(api, self.own_id(id), known)
        if found is None:
            return None
        outputs = self._ordered(self.show(api, found, known)) | {"id": self.own_id(id)}
        if state.inputs:
            inputs = {key: outputs.get(key, value) for key, value in state.inputs.items()}
        else:
            inputs = {key: value for key, value in outputs.items() if key in self.schema.inputs}
        return State(inputs, outputs)

    def update(self, call: Call, id: str, old: State, inputs: Properties) -> Properties:  # noqa: D102
        if call.preview:
            return {key: value for key, value in old.outputs.items() if key not in old.inputs} | self.given(
                inputs
            )
        api, id = self._api(call, inputs), self.own_id(id)
        self.change(api, id, old.inputs, inputs)
        return self._read_back(api, id, inputs)

    def delete(self, call: Call, id: str, state: State) -> None:  # noqa: D102
        self.remove(self._api(call, state.outputs), self.own_id(id), state.outputs)

    def imported(self, id: str) -> Properties:
        """What the id of an import says beside the id itself: the zone, as in `ID@ZONE`."""
        if not self.zoned:
            return {}
        if "@" not in id:
            raise ProviderError(f"invalid ID {id!r}, expected format <ID>@<ZONE>")
        return {"zone": id.rpartition("@")[2]}

    def own_id(self, id: str) -> str:
        """The id without what `imported` reads."""
        return id.partition("@")[0]

    def _read_back(self, api: Api, id: str, inputs: Properties) -> Properties:
        found = self.find(api, id, inputs)
        if found is None:
            raise ProviderError(f"{self.of_type} {id} is gone right after it was written")
        outputs = self._ordered(self.show(api, found, inputs)) | {"id": id}
        # What is empty and was not asked for is left out, as by the official plugin.
        silent = self.schema.inputs.keys() - inputs.keys() - self.computed
        return {name: value for name, value in outputs.items() if value not in ([], {}) or name not in silent}

    def _ordered(self, outputs: Properties) -> Properties:
        sets = {name for name in self.sets & outputs.keys() if not has_unknown(outputs[name])}
        return {name: sorted(value) if name in sets else value for name, value in outputs.items()}

    def _api(self, call: Call, properties: Properties) -> Api:
        zone = properties["zone"] if self.zoned else None
        return self._zones().api(zone, call.cancelled, call.timeout)


def _named(call: Call) -> str:
    """The resource's name with seven random digits, the same for the preview and the update."""
    digits = Random(call.random_seed or None).choices("0123456789abcdef", k=7)  # noqa: S311 - a name, no secret
    return f"{call.name[: _NAME_LIMIT - 8]}-{''.join(digits)}"


def _known(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        for position, item in enumerate(value):
            yield from _known(item, f"{at}[{position}]")
    elif value is not None and not isinstance(value, Unknown):
        yield at, value


def one_of(*allowed: str, any_case: bool = False) -> Check:
    """The value must be one of these."""
    known = {word.lower() for word in allowed} if any_case else set(allowed)
    shown = " ".join(f'"{word}"' for word in allowed)

    def check(name: str, value: Any) -> str | None:
        found = value.lower() if any_case else value
        return None if found in known else f"expected {name} to be one of [{shown}], got {value}"

    return check


def between(least: int, most: int) -> Check:
    """The value must be in this range."""

    def check(name: str, value: Any) -> str | None:
        inside = least <= value <= most
        return None if inside else f"expected {name} to be in the range ({least} - {most}), got {value}"

    return check


def network(name: str, value: Any) -> str | None:
    """The value must be a network in CIDR notation."""
    try:
        ipaddress.ip_network(value)
    except ValueError as error:
        return f"expected {name} to contain a valid network Value: {error}"
    return None


def address(name: str, value: Any) -> str | None:
    """The value must be an IP address."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return f"expected {name} to contain a valid IP, got: {value}"
    return None


def present(**fields: Any) -> dict[str, Any]:
    """The fields that have a value: an empty one is sent as none at all, as the official plugin does."""
    return {name: value for name, value in fields.items() if value not in (None, "", [], {})}
