"""What a stand-in is made of: a `Provider` with one `Resource` per type; `server` speaks for it.

A stand-in sees plain Python values in which only `UNKNOWN` may stand: the server takes the secret markers off
the inputs and puts them back, at the same places, on what the stand-in returns.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from local.providers.values import Path, Properties, differences


class ProviderError(Exception):
    """What was refused and why, in one message; the engine shows it beside the resource."""


class InitializationError(ProviderError):
    """The object exists but did not become ready: the state keeps it, and the next update goes on."""

    def __init__(self, reasons: list[str], *, id: str, inputs: Properties, outputs: Properties) -> None:
        """`reasons` are shown one by one."""
        super().__init__("; ".join(reasons))
        self.reasons = reasons
        self.id = id
        self.inputs = inputs
        self.outputs = outputs


@dataclass(frozen=True)
class Failure:
    """An input that is wrong: the property (empty when the reason names it) and why."""

    property: str
    reason: str


@dataclass(frozen=True)
class State:
    """A resource as the engine remembers it: what was asked for and what came of it."""

    inputs: Properties
    outputs: Properties


@dataclass(frozen=True)
class Call:
    """The circumstances of one request."""

    urn: str
    name: str
    token: str
    preview: bool = False
    timeout: float = 0
    """Seconds that the program allows for it (`customTimeouts`); 0 where it does not say."""
    random_seed: bytes = b""
    ignored: frozenset[str] = frozenset()
    """Properties, by their first name, whose changes are not this program's (`ignore_changes`)."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    """Set when the user interrupts: whoever waits ends then."""
    warn: Callable[[str], None] = lambda _message: None
    """Shows a warning beside the resource."""


@dataclass
class Diff:
    """What an update would change ("add", "delete" or "update"), and what of it needs a new object."""

    changes: dict[Path, str] = field(default_factory=dict)
    replaces: set[Path] = field(default_factory=set)
    delete_before_replace: bool = False


class Resource:
    """A resource type. `diff` rarely needs more than the fields; the rest is for the subclass to say."""

    replace_on: frozenset[str] = frozenset()
    """Properties whose change needs a new object: `name`, or `outer.inner` (without positions in lists)."""

    delete_before_replace = False
    """Whether the old object must be gone first, as two cannot have the same name."""

    secret_outputs: frozenset[str] = frozenset()
    """Outputs that are always secret; inputs that came as secrets are in any case."""

    def check(self, call: Call, old: Properties, new: Properties) -> tuple[Properties, list[Failure]]:
        """The inputs with defaults filled in, and what is wrong with them; `old` are the last, if any."""
        raise NotImplementedError

    def diff(self, call: Call, id: str, old: State, new: Properties) -> Diff:
        """What an update to the inputs `new` would change: the base compares them with the last inputs."""
        del call, id
        diff = Diff(delete_before_replace=self.delete_before_replace)
        for path, kind in differences(old.inputs, new):
            if path[0] == "__defaults":
                continue
            diff.changes[path] = kind
            if self._needs_replace(path):
                diff.replaces.add(path)
        return diff

    def _needs_replace(self, path: Path) -> bool:
        names = [step for step in path if isinstance(step, str)]
        return any(".".join(names[:length]) in self.replace_on for length in range(1, len(names) + 1))

    def create(self, call: Call, inputs: Properties) -> tuple[str, Properties]:
        """Make it (in a preview: foretell it, with an empty id); the id and the outputs."""
        raise NotImplementedError

    def read(self, call: Call, id: str, state: State) -> State | None:
        """What it is now, None when it is gone. An import starts from the id alone: `state` is then empty."""
        raise NotImplementedError

    def update(self, call: Call, id: str, old: State, inputs: Properties) -> Properties:
        """Change it (in a preview: foretell it); the outputs."""
        raise NotImplementedError

    def delete(self, call: Call, id: str, state: State) -> None:
        """Take it away; one that is already gone is no error."""
        raise NotImplementedError


class Provider:
    """A stand-in for one official plugin."""

    name: str
    version: str

    def check_config(self, call: Call, config: Properties) -> tuple[Properties, list[Failure]]:
        """The configuration with defaults filled in, and what is wrong with it; parts may be unknown."""
        raise NotImplementedError

    def diff_config(self, old: Properties, new: Properties) -> Diff:
        """What changed in the configuration; a stand-in says when it means another server (a replacement)."""
        return Diff(changes=dict(differences(old, new)))

    def configure(self, config: Properties) -> None:
        """Take the configuration, all known. Called once, before the first resource; opens no connection."""
        raise NotImplementedError

    def resource(self, token: str) -> Resource:
        """The type `token`. Raises `ProviderError` for one that the stand-in does not have."""
        raise NotImplementedError

    def invoke(self, call: Call, token: str, arguments: Properties) -> Properties:
        """A function of the provider; the base has none."""
        del call, arguments
        raise ProviderError(f"Unknown function '{token}': this stand-in for {self.name} does not have it.")


def by_token(provider: str, types: Mapping[str, Resource], token: str) -> Resource:
    """The type of a stand-in that lists them, or a `ProviderError` that says what is missing."""
    if token not in types:
        raise ProviderError(
            f"Unknown resource type '{token}': the stand-in for {provider} does not have it, so it cannot be "
            f"managed here. Put the official pulumi-resource-{provider} on PATH."
        )
    return types[token]
