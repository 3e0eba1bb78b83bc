"""What a plan says, as data: the steps of a preview, the policies' findings, the tenants it is for."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

Operation = Literal["create", "update", "replace", "delete", "same"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the preview would do to one resource. Secrets are masked by the engine."""

    urn: str
    type: str
    name: str
    operation: Operation
    parent: str
    inputs: dict[str, Any]
    """After the step; before it, where the resource goes."""
    changed: tuple[str, ...] = ()
    """Paths of the properties that differ."""
    replacing: tuple[str, ...] = ()
    """Those of them that cannot be changed in place."""
    was: dict[str, Any] = field(default_factory=dict)
    """The inputs before the step."""
    protected: bool = False
    kept: bool = False
    """Deleting it only forgets it."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A policy that a resource violates."""

    policy: str
    level: str
    """mandatory or advisory."""
    message: str
    urn: str


@dataclass(frozen=True, kw_only=True)
class TenantFacts:
    """What the roster and the tier table say of a tenant."""

    id: str
    name: str
    tier: str
    owner: str
    state: str
    cpu: int
    memory_gib: int
    workspace_gib: int
    shared_runtime: bool
    namespace: bool
    machine: bool
    encrypted_workspace: bool
    node_pool: bool
    own_database: bool
    vpn: bool
    claims: tuple[str, ...]
    overclaims: tuple[str, ...]
    """Claims that its tier does not allow."""
    discard: tuple[str, ...]
    """What a change may destroy, by name."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One tree's preview."""

    error: str = ""
    """Why the preview failed; what it had found until then counts for nothing."""
    steps: tuple[Step, ...] = ()
    findings: tuple[Finding, ...] = ()
    tenants: tuple[TenantFacts, ...] = ()

    def write(self, path: Path) -> None:
        """Keep it as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """What `write` kept."""
        data = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            error=data["error"],
            steps=tuple(Step(**_tuples(item)) for item in data["steps"]),
            findings=tuple(Finding(**item) for item in data["findings"]),
            tenants=tuple(TenantFacts(**_tuples(item)) for item in data["tenants"]),
        )

    def failed(self, error: str) -> "Plan":
        """The same, with why it counts for nothing."""
        return replace(self, error=error, steps=(), findings=())


def _tuples(item: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in item.items()}
