"""The roster, `tenants.yaml`: read strictly, every mistake told at once with its line.

The file is plain YAML of a few kinds: no anchors, aliases or tags, so that what a reviewer reads is what it
says, and no file can expand into more than it is. Reading takes time linear in its length.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from infra.errors import ConfigurationError
from infra.settings import ContainerImage
from infra.tenants.tiers import TIERS, Size, TierName

MAXIMUM_BYTES = 16 * 1024 * 1024
"""Far more than 10,000 tenants take."""
_MAXIMUM_DEPTH = 8

_PLATFORM = """
admin api app auth backup billing blog cdn console control dashboard dev docs domain exoscale ftp gateway
grafana help imap internal kubernetes kubevirt localhost login logs longhorn mail metrics monitoring ns1 ns2
platform pop portal postgres postgresql prometheus public redis registry root shop smtp sso staging status
support system tenant tenants test valkey vault vpn webmail www
"""
"""Names under the domain that are the platform's, or that customers would take for it."""

_WORDS = "all any default false nan none null off select true user yes"
"""Words that YAML, SQL or a shell script take for something else than a name."""

RESERVED = frozenset(f"{_PLATFORM} {_WORDS}".split())
"""Ids that no tenant can have."""

_CONFLICT = re.compile(r"^(<{7}|\|{7}|>{7})( |$)|^={7}$", re.MULTILINE)
_TAB = re.compile(r"^ *\t", re.MULTILINE)


class _Section(BaseModel):
    """A mapping in the roster: camelCase keys, exact types, nothing unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, alias_generator=to_camel)


class Sizes(_Section):
    """Sizes other than the tier's own, up to the tier's maximum."""

    cpu: int | None = Field(default=None, ge=1, description="a whole number of virtual CPUs")
    memory_gib: int | None = Field(default=None, ge=1, description="a whole number of GiB of memory")
    workspace_gib: int | None = Field(default=None, ge=1, description="a whole number of GiB")


class Overrides(_Section):
    """What only this tenant has different."""

    image: ContainerImage | None = Field(
        default=None,
        description="a container disk with its version or digest, such as registry.example.ch/agent:1.4.0",
    )


class TenantEntry(_Section):
    """One tenant as it stands in the roster."""

    id: str = Field(
        pattern=r"^[a-z][a-z0-9]{2,30}$",
        description="3 to 31 lower-case letters (a-z) and digits, a letter first",
    )
    name: str = Field(
        pattern=r"^\S([^\x00-\x1f\x7f]{0,78}\S)?$", description="the customer's name, 1 to 80 characters"
    )
    tier: TierName = Field(description=f"one of {', '.join(get_args(TierName))}")
    owner: str = Field(
        pattern=r"^[A-Za-z0-9._%+-]+@([A-Za-z0-9-]+\.)+[A-Za-z]{2,}$",
        max_length=254,
        description="the e-mail address of whoever answers for the tenant",
    )
    # Recorded and exported; nothing acts on it yet: a `suspended` tenant keeps all it has, machine included.
    state: Literal["active", "suspended", "offboarding"] = Field(
        default="active", description="active, suspended or offboarding"
    )
    sizes: Sizes = Field(default=Sizes(), description="a mapping of cpu, memoryGib, workspaceGib")
    overrides: Overrides = Field(default=Overrides(), description="a mapping; known in it: image")

    @cached_property
    def size(self) -> Size:
        """What the tenant gets: its tier's size, except where the entry says otherwise."""
        sold, wanted = TIERS[self.tier].default, self.sizes
        return Size(
            cpu=wanted.cpu or sold.cpu,
            memory_gib=wanted.memory_gib or sold.memory_gib,
            workspace_gib=wanted.workspace_gib or sold.workspace_gib,
        )

    @property
    def dashed(self) -> str:
        """Its name in Kubernetes, Vault and IAM."""
        return f"tenant-{self.id}"

    @property
    def underscored(self) -> str:
        """Its name in PostgreSQL and object storage."""
        return f"tenant_{self.id}"


_CONSEQUENCES = {
    "id": "it becomes a schema, a namespace, a path and a prefix, and would be valid in not all of them",
    "name": "nobody could tell whose tenant this is",
    "tier": "nobody could say what the tenant is to get",
    "owner": "nobody could be asked about the tenant",
    "state": "nobody could say whether the tenant is to be served",
    "sizes": "the machine could not be sized",
    "overrides": "the override would have no effect, or one that changes by itself",
}

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SCALARS = yaml.constructor.SafeConstructor()
_Position = tuple[int | str, ...]


class _Mistake(NamedTuple):
    line: int
    tenant: str
    message: str


class _MistakesError(Exception):
    """The text cannot be read any further."""

    def __init__(self, *mistakes: _Mistake) -> None:
        super().__init__()
        self.mistakes = mistakes


def load_roster(path: Path) -> tuple[TenantEntry, ...]:
    """Read the roster.

    Raises:
        ConfigurationError: naming every mistake in it.
    """
    entries: list[TenantEntry] = []
    try:
        mistakes = list(_read(_text(path), entries))
    except _MistakesError as error:
        mistakes = list(error.mistakes)
    if mistakes:
        count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        told = "\n".join(
            f"  - {path.name}:{line}: {f'{tenant}: ' if tenant else ''}{message}"
            for line, tenant, message in sorted(mistakes)
        )
        raise ConfigurationError(f"The roster has {count}; nothing was changed.\n{told}")
    return tuple(entries)


def _text(path: Path) -> str:
    """The file's text, once nothing in it makes reading it pointless."""
    try:
        with path.open("rb") as file:
            content = file.read(MAXIMUM_BYTES + 1)
    except OSError as error:
        raise _fatal(
            1,
            f"cannot be read ({error.strerror}), so no tenant is known; "
            "check the setting agent-platform:roster",
        ) from None
    if len(content) > MAXIMUM_BYTES:
        raise _fatal(1, f"is larger than {MAXIMUM_BYTES >> 20} MiB, which no roster is; restore it from git")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _fatal(line, "is not UTF-8 text, so names would be garbled; save the file as UTF-8") from None
    conflicts = [
        _Mistake(
            _line_of(text, match), "", "a merge conflict was left in; keep one side and delete the markers"
        )
        for match in _CONFLICT.finditer(text)
    ]
    tabs = [
        _Mistake(_line_of(text, match), "", "a tab indents this line, which YAML does not allow; use spaces")
        for match in _TAB.finditer(text)
    ]
    if conflicts or tabs:
        raise _MistakesError(*conflicts, *tabs)
    return text


def _fatal(line: int, message: str) -> _MistakesError:
    return _MistakesError(_Mistake(line, "", message))


def _line_of(text: str, match: re.Match[str]) -> int:
    return text.count("\n", 0, match.start()) + 1


def _read(text: str, entries: list[TenantEntry]) -> Iterator[_Mistake]:
    """Append what is right to `entries` and yield what is wrong."""
    root = _node(text)
    if root is None:
        raise _fatal(1, "is empty, so every tenant would be removed; write `tenants: []` if that is meant")
    lines: dict[_Position, int] = {}
    doubles: list[tuple[_Position, int, str]] = []
    document = _plain(root, (), lines, doubles)
    tenants = document.get("tenants") if isinstance(document, dict) else None
    if not isinstance(tenants, list):
        raise _fatal(
            lines.get(("tenants",), 1),
            "holds no list `tenants`, so no tenant could be read from it; write `tenants:` and below it "
            "one entry for each, starting with `- id:`",
        )
    for key in document.keys() - {"tenants"}:
        yield _Mistake(lines[key,], "", f"`{key}` is no key here and would do nothing; known here: tenants")
    for position, line, message in doubles:
        inside = len(position) > 1 and isinstance(position[1], int)
        yield _Mistake(line, _name(tenants[int(position[1])]) if inside else "", message)
    first: dict[str, int] = {}
    for index, data in enumerate(tenants):
        known = len(entries)
        for position, message in _mistakes_in(data, entries):
            yield _Mistake(_closest(lines, ("tenants", index, *position)), _name(data), message)
        line = _closest(lines, ("tenants", index, "id"))
        identifier = data.get("id") if isinstance(data, dict) else None
        if not isinstance(identifier, str):
            continue
        if identifier in first:
            del entries[known:]
            yield _Mistake(
                line,
                identifier,
                f"the id stands in line {first[identifier]} already, so two customers would share one "
                "schema and machine; give each an id of its own",
            )
        first.setdefault(identifier, line)


def _node(text: str) -> yaml.Node | None:
    """The document's tree, once it is known to hold nothing that expands or runs."""
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            line = event.start_mark.line + 1 if event.start_mark else 1
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise _fatal(
                    line,
                    "anchors and aliases (& and *) are refused: what they expand to cannot be reviewed, and "
                    "may be without end; write the value out, or put one that starts with * or & in quotes",
                )
            if tag := getattr(event, "tag", None):
                raise _fatal(line, f"the tag {tag} is refused: the roster holds plain text; remove it")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAXIMUM_DEPTH:
                raise _fatal(line, "is nested deeper than any roster, so nothing could be read; unnest it")
        node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _fatal(
            1 if mark is None else mark.line + 1,
            f"is not valid YAML ({error.problem or error.context}), so nothing could be read; mend this line "
            "or the one above it",
        ) from None
    except yaml.YAMLError as error:
        raise _fatal(
            1, f"is not valid YAML ({error}), so nothing could be read; restore it from git"
        ) from None
    return node


def _plain(
    node: yaml.Node,
    position: _Position,
    lines: dict[_Position, int],
    doubles: list[tuple[_Position, int, str]],
) -> Any:
    """The node as a plain value; its line, and those of all below it, go into `lines`."""
    lines[position] = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*position, index), lines, doubles) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
            below = (*position, key)
            if key in mapping:
                line = key_node.start_mark.line + 1
                message = (
                    f"`{key}` stands in line {lines[below]} already, so one of the two would be ignored "
                    "without a word; keep one"
                )
                doubles.append((below, line, message))
                continue
            mapping[key] = _plain(value_node, below, lines, doubles)
            lines[below] = key_node.start_mark.line + 1
        return mapping
    if node.tag == "tag:yaml.org,2002:str":
        return node.value
    try:
        return _SCALARS.construct_object(node)
    except (ValueError, yaml.YAMLError):
        # A date that no calendar has, or `=`: text, then, for validation to judge.
        return node.value
    finally:
        # It remembers each node, for aliases that there are none of.
        _SCALARS.constructed_objects.clear()


def _closest(lines: Mapping[_Position, int], position: _Position) -> int:
    """The line of `position`, or of what it is missing from."""
    while position not in lines:
        position = position[:-1]
    return lines[position]


def _name(data: Any) -> str:
    """The id as it is written, to name the entry by."""
    written = data.get("id") if isinstance(data, dict) else None
    return " ".join(str(written)[:64].split()) if isinstance(written, str | int | float) else ""


def _mistakes_in(data: Any, entries: list[TenantEntry]) -> Iterator[tuple[_Position, str]]:
    """What is wrong in one entry, and where; an entry that is right is appended to `entries`."""
    mistakes = list(_beyond_shape(data)) if isinstance(data, dict) else []
    try:
        entry = TenantEntry.model_validate(data)
    except ValidationError as error:
        mistakes += [(detail["loc"], _explain(detail)) for detail in error.errors(include_url=False)]
    else:
        if not mistakes:
            entries.append(entry)
    yield from mistakes


def _beyond_shape(data: Mapping[str, Any]) -> Iterator[tuple[_Position, str]]:
    """Rules on values, checked as they were written so that no other mistake hides them."""
    if isinstance(data.get("id"), str) and data["id"] in RESERVED:
        yield (
            ("id",),
            f'"{data["id"]}" is reserved: the platform or a tool takes it for its own; choose another id',
        )
    image = data["overrides"].get("image") if isinstance(data.get("overrides"), dict) else None
    if isinstance(image, str) and image.endswith(":latest"):
        yield (
            ("overrides", "image"),
            f'image "{image}" changes by itself, under a sleeping machine too; name a version or a digest',
        )
    tier, sizes = data.get("tier"), data.get("sizes")
    maximum = next((known.maximum for name, known in TIERS.items() if name == tier), None)
    if maximum is None or not isinstance(sizes, dict):
        return
    for name, field in Sizes.model_fields.items():
        key, limit = str(field.alias), getattr(maximum, name)
        if isinstance(sizes.get(key), int) and sizes[key] > limit:
            yield (
                ("sizes", key),
                f"{key} {sizes[key]} is above the {limit} of tier {tier}, so more would be delivered than "
                "is paid for; lower it or change the tier",
            )


def _explain(detail: ErrorDetails) -> str:
    """One mistake: what is wrong, what it would cause, what to write."""
    position = detail["loc"]
    if not position:
        return "the entry is no mapping, so no tenant could be read from it; write it as `id: …`, `name: …`"
    key = ".".join(str(step) for step in position)
    owner, description = _look_up(position)
    if detail["type"] == "extra_forbidden":
        known = [field.alias or name for name, field in owner.model_fields.items()]
        close = difflib.get_close_matches(to_camel(str(position[-1])), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
        return f"`{key}` is no key of the roster and would do nothing; {hint}"
    consequence = _CONSEQUENCES[str(position[0])]
    if detail["type"] == "missing":
        return f"`{key}` is missing: {consequence}; write {description}"
    written = detail["input"]
    found = "" if written is None else f" {json.dumps(written, ensure_ascii=False, default=str)}"
    if isinstance(written, list | dict):
        found = " a list" if isinstance(written, list) else " a mapping"
    unquoted = isinstance(written, bool | int | float) and detail["type"] == "string_type"
    quotes = ", in quotes: YAML takes it for something else than text" if unquoted else ""
    return f"`{key}`:{found[:100] or ' nothing'} does not fit: {consequence}; write {description}{quotes}"


def _look_up(position: _Position) -> tuple[type[BaseModel], str]:
    """The section that holds the last step of `position`, and that field's description."""
    owner: type[BaseModel] = TenantEntry
    description = ""
    for step in position:
        field = next((field for field in owner.model_fields.values() if field.alias == step), None)
        if field is None:
            break
        description = field.description or ""
        inner = field.annotation
        if step != position[-1] and isinstance(inner, type) and issubclass(inner, _Section):
            owner = inner
    return owner, description
