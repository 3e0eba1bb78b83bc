"""The roster, `tenants.yaml`: who the tenants are; every mistake in it is told at once with its line."""

import difflib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, Strict, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from infra.errors import ConfigurationError
from infra.section import Section, look_up
from infra.settings import PinnedImage, Settings
from infra.tenants.roster_rules import beyond_shape
from infra.tenants.roster_text import Document, Mistake, Position, UnreadableError, read_document
from infra.tenants.slices import BUCKETS, bucket, buckets, not_a_partition
from infra.tenants.tiers import TIERS, Size, Tier, TierName

Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{2,30}$")]
_IDENTIFIER = "3 to 31 lower-case letters (a-z) and digits, a letter first"
SliceName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]
Buckets = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,3})-(0|[1-9][0-9]{0,3})$")]
_ARRAY = Strict(False)
"""For a tuple, which strict validation would not take from a list; what is in it stays strict."""


class Sizes(Section):
    """Sizes other than the tier's own, up to the tier's maximum."""

    cpu: int | None = Field(default=None, ge=1, description="a whole number of CPUs")
    memory_gib: int | None = Field(default=None, ge=1, description="a whole number of GiB of memory")
    workspace_gib: int | None = Field(default=None, ge=1, description="a whole number of GiB")


class Overrides(Section):
    """What only this tenant has different."""

    image: PinnedImage | None = Field(
        default=None,
        description="a container disk with its digest, such as registry.example.ch/agent@sha256:DIGEST or "
        "registry.example.ch/agent:1.4.0@sha256:DIGEST (`crane digest NAME:TAG` prints it)",
    )


class Peer(Section):
    """Somebody who may connect to the tenant's VPN."""

    name: str = Field(
        pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$",
        description="the peer's name: lower-case letters, digits and hyphens, such as office-zurich",
    )
    public_key: str = Field(
        # 32 bytes leave two bits of the 43rd character unused: they are zero.
        pattern=r"^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$",
        description="the peer's WireGuard public key: base64 of 32 bytes, as `wg pubkey` prints it",
    )


class Vpn(Section):
    """A WireGuard endpoint in the tenant's machine, for this tenant only."""

    peers: Annotated[tuple[Peer, ...], _ARRAY] = Field(
        min_length=1, max_length=250, description="a list of 1 to 250 peers, each with name and publicKey"
    )


class Offboarding(Section):
    """How a tenant leaves."""

    backup: Literal["final", "waived"] = Field(
        description="final (one more backup is taken) or waived (the customer wants none)"
    )
    reason: str | None = Field(
        default=None,
        pattern=r"^\S([^\x00-\x1f\x7f]{0,298}\S)?$",
        description="one line of text: who waived the backup, and why",
    )


class Contract(Section):
    """The objectives promised to a tenant beyond its tier, and its budget."""

    availability: float | None = Field(
        default=None,
        ge=90,
        lt=100,
        description="the percentage of its requests that the platform is not to fail, 90 to 99.999",
    )
    wake_seconds: int | None = Field(
        default=None, ge=1, le=300, description="the seconds that a wake is to take at most, on average"
    )
    budget_chf: int | None = Field(
        default=None, ge=1, le=1_000_000, description="the CHF a month above which an alert is raised"
    )


class TenantEntry(Section):
    """One tenant as it stands in the roster."""

    id: Identifier = Field(description=_IDENTIFIER)
    name: str = Field(
        pattern=r"^\S([^\x00-\x1f\x7f]{0,78}\S)?$", description="the customer's name, 1 to 80 characters"
    )
    tier: TierName = Field(description=f"one of {', '.join(get_args(TierName))}")
    owner: str = Field(
        pattern=r"^[A-Za-z0-9._%+-]+@([A-Za-z0-9-]+\.)+[A-Za-z]{2,}$",
        max_length=254,
        description="the e-mail address of whoever answers for the tenant",
    )
    state: Literal["active", "suspended", "moving", "offboarding"] = Field(
        default="active", description="active, suspended, moving or offboarding"
    )
    sizes: Sizes = Field(default=Sizes(), description="a mapping of cpu, memoryGib, workspaceGib")
    idle_seconds: int | None = Field(
        default=None,
        # Who is idle is looked at once a minute, and a machine that is idle for a day is asleep or forgotten.
        ge=60,
        le=86400,
        description="a whole number of seconds, 60 to 86400",
    )
    overrides: Overrides = Field(default=Overrides(), description="a mapping; known in it: image")
    contract: Contract = Field(
        default=Contract(), description="a mapping of availability, wakeSeconds, budgetChf"
    )
    keep: Annotated[tuple[Literal["workspace"], ...], _ARRAY] = Field(
        default=(),
        description="a list: workspace keeps the volume of an earlier tier, with its size in sizes",
    )
    discard: Annotated[tuple[Literal["workspace", "database"], ...], _ARRAY] = Field(
        default=(), description="a list of what a change may destroy: workspace, database"
    )
    vpn: Vpn | None = Field(default=None, description="a mapping; known in it: peers")
    own_database: bool = Field(
        default=False, description="true or false: a PostgreSQL database of the tenant's own"
    )
    claims: Annotated[
        tuple[Annotated[str, Field(pattern=r"^\S([^\x00-\x1f\x7f]{0,198}\S)?$")], ...], _ARRAY
    ] = Field(default=(), description="a list of lines of text: what this customer is told of the tier")
    offboarding: Offboarding | None = Field(
        default=None, description="a mapping; known in it: backup, reason"
    )

    @cached_property
    def size(self) -> Size:
        """What the tenant gets: its tier's size, except where the entry says otherwise."""
        sold, wanted = self.parts.default, self.sizes
        return Size(
            cpu=wanted.cpu or sold.cpu,
            memory_gib=wanted.memory_gib or sold.memory_gib,
            workspace_gib=wanted.workspace_gib or sold.workspace_gib,
        )

    @property
    def parts(self) -> Tier:
        """What its tier is made of."""
        return TIERS[self.tier]

    @property
    def idle_limit(self) -> int | None:
        """How long nobody uses its machine until it is put to sleep, in seconds; None: it has none."""
        return self.idle_seconds or self.parts.idle_seconds

    @property
    def has_workspace(self) -> bool:
        """Whether it has a volume: its machine's, or that of an earlier one."""
        return self.parts.machine or "workspace" in self.keep

    @property
    def has_namespace(self) -> bool:
        """Whether it has a namespace, be it only for its volume."""
        return self.parts.namespace or self.has_workspace

    @property
    def dashed(self) -> str:
        """Its name in Kubernetes, Vault and IAM."""
        return f"tenant-{self.id}"

    @property
    def underscored(self) -> str:
        """Its name in PostgreSQL and object storage."""
        return f"tenant_{self.id}"


class Roster(Section):
    """The whole file."""

    tenants: Annotated[tuple[TenantEntry, ...], _ARRAY] = Field(description="a list of one entry per tenant")
    retired: Annotated[tuple[Identifier, ...], _ARRAY] = Field(
        default=(), description="a list of the ids of tenants that are gone, which nobody gets again"
    )
    slices: dict[SliceName, Annotated[tuple[Buckets, ...], _ARRAY]] = Field(
        default={},
        description=f"a mapping that gives each bucket, 0 to {BUCKETS - 1}, to one slice, as ranges such as "
        "[0-2047]",
    )

    def owned_by(self, settings: Settings) -> tuple[TenantEntry, ...]:
        """The tenants of a stack: all, those of its slice, or none.

        Raises:
            ConfigurationError: it is not clear which.
        """
        if not settings.owns("tenants"):
            return ()
        if settings.shard is not None:
            return self.in_slice(settings.shard)
        if self.slices and settings.layers == ("tenants",):
            raise ConfigurationError(
                "agent-platform:shard: is missing, though the roster has slices, so this stack would declare "
                "every other stack's tenants once more; nothing was changed. Write one of its `slices`: "
                f"{', '.join(self.slices)}."
            )
        return self.tenants

    def in_slice(self, name: str) -> tuple[TenantEntry, ...]:
        """The tenants of a slice.

        Raises:
            ConfigurationError: there is no such slice.
        """
        if name not in self.slices:
            known = ", ".join(self.slices) or "none"
            raise ConfigurationError(
                f"agent-platform:shard: the roster has no slice {name!r}, so this stack would own nobody; "
                f"nothing was changed. Write one of its `slices`: {known}."
            )
        own = buckets(self.slices[name])
        return tuple(entry for entry in self.tenants if bucket(entry.id) in own)


_CONSEQUENCES = {
    "id": "it becomes a schema, a namespace, a path and a prefix, and would be valid in not all of them",
    "name": "nobody could tell whose tenant this is",
    "tier": "nobody could say what the tenant is to get",
    "owner": "nobody could be asked about the tenant",
    "state": "nobody could say whether the tenant is to be served",
    "sizes": "the tenant could not be given its size",
    "idleSeconds": "nobody could say when the machine is to sleep",
    "contract": "nobody could say what was promised, so no alert would be raised",
    "overrides": "the override would have no effect, or one that changes by itself",
    "keep": "nobody could say what is to stay",
    "discard": "nobody could say what may be lost",
    "vpn": "no peer could connect",
    "ownDatabase": "nobody could say where the tenant's tables are to be",
    "claims": "nobody could judge whether the tier bears it out",
    "offboarding": "nobody could say what becomes of the data",
    "retired": "an id that was used once could be used again",
    "slices": "nobody could say which stack owns which tenant",
}


def load_roster(path: Path) -> Roster:
    """Read the roster.

    Raises:
        ConfigurationError: naming every mistake in it.
    """
    entries: list[TenantEntry] = []
    retired: dict[str, int] = {}
    slices: dict[str, tuple[str, ...]] = {}
    try:
        mistakes = list(_read(read_document(path), entries, retired, slices))
    except UnreadableError as error:
        mistakes = list(error.mistakes)
    if mistakes:
        count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        told = "\n".join(
            f"  - {path.name}:{line}: {f'{tenant}: ' if tenant else ''}{message}"
            for line, tenant, message in sorted(mistakes)
        )
        raise ConfigurationError(f"The roster has {count}; nothing was changed.\n{told}")
    return Roster.model_construct(tenants=tuple(entries), retired=tuple(retired), slices=slices)


def _read(
    document: Document,
    entries: list[TenantEntry],
    retired: dict[str, int],
    slices: dict[str, tuple[str, ...]],
) -> Iterator[Mistake]:
    """Fill `entries`, `slices`, and `retired` with the line of each id, and yield what is wrong."""
    if document.value is None:
        message = "is empty, so every tenant would be removed; write `tenants: []` if that is meant"
        raise UnreadableError(Mistake(1, "", message))
    root = document.value if isinstance(document.value, dict) else {}
    tenants = root.get("tenants")
    if not isinstance(tenants, list):
        message = (
            "holds no list `tenants`, so no tenant could be read from it; write `tenants:` and below it "
            "one entry for each, starting with `- id:`"
        )
        raise UnreadableError(Mistake(document.line(("tenants",)), "", message))
    known = [str(field.alias) for field in Roster.model_fields.values()]
    for key in root.keys() - set(known):
        message = f"`{key}` is no key here and would do nothing; known here: {', '.join(known)}"
        yield Mistake(document.line((key,)), "", message)
    unclear = [
        (position, document.line(position), f"`{_key(position[2:])}`: {message}" if position[2:] else message)
        for position, message in document.unclear.items()
    ]
    for position, line, message in [*document.doubles, *unclear]:
        inside = len(position) > 1 and position[0] == "tenants"
        yield Mistake(line, _name(tenants[int(position[1])]) if inside else "", message)
    yield from _retired(document, root.get("retired", []), retired)
    yield from _tenants(document, tenants, entries, retired)
    yield from _slices(document, root.get("slices", {}), [entry.id for entry in entries], slices)


def _retired(document: Document, ids: Any, retired: dict[str, int]) -> Iterator[Mistake]:
    """Fill `retired`; yield what is wrong with the list."""
    try:
        Roster(tenants=(), retired=ids)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            if detail["loc"] not in document.unclear:
                yield Mistake(document.line(detail["loc"]), "", _explain(Roster, detail))
    for index, identifier in enumerate(ids if isinstance(ids, list) else []):
        line = document.line(("retired", index))
        if not isinstance(identifier, str):
            continue
        if identifier in retired:
            message = (
                f"retired in line {retired[identifier]} already: ids are never used twice, so one of the two "
                "is another tenant's; keep one"
            )
            yield Mistake(line, identifier, message)
        retired.setdefault(identifier, line)


def _slices(
    document: Document, written: Any, tenants: list[str], slices: dict[str, tuple[str, ...]]
) -> Iterator[Mistake]:
    """Fill `slices`; yield what is wrong with them, or between them."""
    try:
        slices |= Roster(tenants=(), slices=written).slices
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            if detail["loc"] not in document.unclear:
                yield Mistake(document.line(detail["loc"]), "", _explain(Roster, detail))
        return
    for position, message in not_a_partition(slices, tenants):
        yield Mistake(document.line(("slices", *position)), "", message)


def _tenants(
    document: Document, tenants: list[Any], entries: list[TenantEntry], retired: dict[str, int]
) -> Iterator[Mistake]:
    """Fill `entries`; yield what is wrong in an entry, and what no two entries may have in common."""
    ids: dict[str, int] = {}
    keys: dict[str, int] = {}
    for index, data in enumerate(tenants):
        before, here = len(entries), ("tenants", index)
        for position, message in _mistakes_in(data, entries):
            # An unclear value is told as such, and not for what it happens to be read as.
            if (*here, *position) not in document.unclear:
                yield Mistake(document.line((*here, *position)), _name(data), message)
        for number, peer in enumerate(entries[-1].vpn.peers if entries[before:] and entries[-1].vpn else ()):
            line = document.line((*here, "vpn", "peers", number, "publicKey"))
            if peer.public_key in keys:
                message = (
                    f"the publicKey of {peer.name} stands in line {keys[peer.public_key]} already, so "
                    "whoever holds it would be let in as two; have a key made for each peer"
                )
                yield Mistake(line, _name(data), message)
            keys.setdefault(peer.public_key, line)
        identifier = data.get("id") if isinstance(data, dict) else None
        if not isinstance(identifier, str):
            continue
        line = document.line((*here, "id"))
        if identifier in ids:
            message = (
                f"the id stands in line {ids[identifier]} already, so two customers would share one schema "
                "and machine; give each an id of its own"
            )
            yield Mistake(line, identifier, message)
        if identifier in retired:
            message = (
                f"the id is retired (line {retired[identifier]}), so the new tenant would be taken for the "
                "one that is gone, backups included; choose another id"
            )
            yield Mistake(line, identifier, message)
        ids.setdefault(identifier, line)


def _name(data: Any) -> str:
    """The id as it is written, to name the entry by."""
    written = data.get("id") if isinstance(data, dict) else None
    return " ".join(str(written)[:64].split()) if isinstance(written, str | int | float) else ""


def _mistakes_in(data: Any, entries: list[TenantEntry]) -> Iterator[tuple[Position, str]]:
    """What is wrong in one entry, and where; an entry that is right is appended to `entries`."""
    mistakes = list(beyond_shape(data)) if isinstance(data, dict) else []
    try:
        entry = TenantEntry.model_validate(data)
    except ValidationError as error:
        mistakes += [
            (detail["loc"], _explain(TenantEntry, detail))
            for detail in error.errors(include_url=False)
            # A list that is called too short only because what is in it, told by itself, is wrong.
            if not (detail["type"] == "too_short" and detail["input"])
        ]
    else:
        mistakes += _unsaid(data)
        if not mistakes:
            entries.append(entry)
    yield from mistakes


def _unsaid(data: Mapping[str, Any], position: Position = ()) -> Iterator[tuple[Position, str]]:
    """The keys without a value, which the model takes for keys that are not there."""
    for key, value in data.items():
        here = (*position, key)
        if value is None:
            description = look_up(TenantEntry, here)[1]
            yield (
                here,
                f"`{_key(here)}` has no value and would do nothing; write {description}, or remove the key",
            )
        elif isinstance(value, dict):
            yield from _unsaid(value, here)


def _key(position: Position) -> str:
    """A position as people write it, such as `vpn.peers[0].name`."""
    steps = [step for step in position if step != "[key]"]
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")


def _explain(root: type[Section], detail: ErrorDetails) -> str:
    """One mistake: what is wrong, what it would cause, what to write."""
    position = detail["loc"]
    if not position:
        return "the entry is no mapping, so no tenant could be read from it; write it as `id: …`, `name: …`"
    key = _key(position)
    owner, description = look_up(root, position)
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
    return (
        f"`{key}`:{_shortened(found) or ' nothing'} does not fit: {consequence}; write {description}{quotes}"
    )


def _shortened(text: str) -> str:
    """Cut what no line can hold in its middle: a mistake is often at the end."""
    return text if len(text) <= 400 else f"{text[:200]} … {text[-200:]}"
