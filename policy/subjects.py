"""What rules look at: a resource as the program registered it, and all of a stack together."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from policy.inputs import Path, UnknownInputError

TENANT = "agent-platform:tenants:Tenant"
"""The component that everything of a tenant stands below; its name is the tenant's id."""


@dataclass(frozen=True, kw_only=True)
class Resource:
    """A resource that the program registered, before anything is done to it."""

    urn: str
    type: str
    name: str
    inputs: Mapping[str, Any]
    """As the engine has them, camelCase; an unknown among them raises when it is read (`policy.inputs`)."""
    secrets: frozenset[Path] = frozenset()
    """Where in the inputs the secrets are."""
    parent: str = ""
    """The parent's URN."""
    tenant: str | None = None
    """The id of the tenant it belongs to, if to one."""
    protect: bool = False
    """Whether the engine refuses to delete it."""
    secret_outputs: frozenset[str] = frozenset()
    """The outputs that are kept as secrets whatever they come from; each has the name of its input."""

    def is_secret(self, *path: str | int) -> bool:
        """Whether the value at `path`, or one around it, is a secret to the engine."""
        return any(path[:length] in self.secrets for length in range(1, len(path) + 1))

    @property
    def metadata(self) -> Mapping[str, Any]:
        """A Kubernetes object's."""
        return self.inputs.get("metadata") or {}

    @property
    def kind(self) -> str:
        """A Kubernetes object's kind, a custom one's too."""
        return str(self.inputs.get("kind") or self.type.rpartition(":")[2])

    @property
    def namespace(self) -> str:
        """The namespace that a Kubernetes object is in."""
        return str(self.metadata.get("namespace") or "default")

    @property
    def object_name(self) -> str:
        """A Kubernetes object's name; its resource's, where Pulumi makes one up."""
        return str(self.metadata.get("name") or self.name)


Key = Callable[[Resource], str]


@dataclass(frozen=True)
class Stack:
    """Every resource that the program has registered."""

    resources: tuple[Resource, ...]
    dependencies: Mapping[str, Collection[str]] = field(default_factory=dict)
    """By URN, the URNs of what each is made from or has to wait for: unknown values do not hide these."""
    by_urn: Mapping[str, Resource] = field(init=False, repr=False)
    _by_type: dict[str, list[Resource]] = field(default_factory=dict, init=False, repr=False)
    _grouped: dict[tuple[Any, ...], "Groups"] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Sort by type: rules ask for few of many."""
        # Frozen for rules, not yet for this.
        object.__setattr__(self, "by_urn", {resource.urn: resource for resource in self.resources})
        for resource in self.resources:
            self._by_type.setdefault(resource.type, []).append(resource)

    def of(self, *types: str) -> Iterator[Resource]:
        """The resources of any of `types`."""
        for name in types:
            yield from self._by_type.get(name, ())

    def by(self, key: Key, *types: str) -> "Groups":
        """The resources of any of `types`, by what `key` (a function of a module) says of each; kept."""
        wanted = (key, *types)
        if wanted not in self._grouped:
            self._grouped[wanted] = Groups(key, self.of(*types))
        return self._grouped[wanted]


class Groups:
    """Resources by a key of theirs."""

    def __init__(self, key: Key, resources: Iterator[Resource]) -> None:
        """Group; a resource whose key is unknown could belong to any group."""
        self._groups: dict[str, list[Resource]] = {}
        self._unknown: UnknownInputError | None = None
        for resource in resources:
            try:
                self._groups.setdefault(key(resource), []).append(resource)
            except UnknownInputError as unknown:
                self._unknown = unknown

    def __getitem__(self, key: str) -> Iterator[Resource]:
        """The group, which may be empty: to be looked through until what is looked for is found.

        Raises:
            UnknownInputError: at the end of the group, if something of an unknown group could be of this one.
        """
        yield from self._groups.get(key, ())
        if self._unknown:
            raise self._unknown


def words(resource: Resource) -> str:
    """How a finding names it: the tenant first, for whoever reads a pull request."""
    return f"tenant {resource.tenant}, {resource.name}" if resource.tenant else resource.name
