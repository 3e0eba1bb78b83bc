"""How long the preview of one slice takes, against that of the whole roster in one stack.

Both are plans from nothing. What a slice knows of its platform comes through the StackReference, as ever; the
stack behind it exports made-up values of the right types.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

import pulumi

from infra.platform.services import Services
from infra.tenants.roster import load_roster
from infra.tenants.slices import BUCKETS
from local import engine

SLICES = 16
_MADE_UP: dict[str, Any] = {
    "zone": "ch-gva-2",
    "endpoint": "https://sos-ch-gva-2.exo.io",
    "ssl_mode": "require",
    "address": "https://vault.bench.example:8200",
    "operator_address": "https://vault.bench.example:8200",
}
"""The values that have to be of a certain form."""


def sliced(roster: Path) -> Path:
    """The same roster with as many slices, all equally large."""
    size = BUCKETS // SLICES
    ranges = [f"  s{index:02}: [{index * size}-{(index + 1) * size - 1}]" for index in range(SLICES)]
    path = roster.with_stem(f"{roster.stem}-sliced")
    path.write_text("\n".join([roster.read_text(encoding="utf-8"), "slices:", *ranges, ""]), encoding="utf-8")
    return path


def preview_slice(roster: Path) -> tuple[int, float]:
    """The number of tenants in the first slice, and the seconds that its preview takes."""
    base = engine.stack("prod", program=_export_platform)
    base.up()
    config = {
        "agent-platform:layers": ["tenants"],
        "agent-platform:baseStack": f"organization/{engine.PROJECT}/{base.name}",
        "agent-platform:shard": "s00",
        "agent-platform:roster": str(roster),
    }
    stack = engine.beside(base, "prod-s00", config)
    start = time.perf_counter()
    stack.preview()
    return len(load_roster(roster).in_slice("s00")), time.perf_counter() - start


def _export_platform() -> None:
    for name, value in _made_up("services", Services).items():
        pulumi.export(name, value)


def _made_up(name: str, kind: Any) -> dict[str, Any]:
    """As `infra.outputs.published` would, without resources."""
    outputs: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        key, hint = f"{name}.{field.name}", str(field.type)
        if dataclasses.is_dataclass(field.type):
            outputs |= _made_up(key, field.type)
        elif field.type is bool:
            outputs[key] = True
        elif field.type is int:
            outputs[key] = 1
        elif "tuple" in hint:
            outputs[key] = []
        elif "str" in hint:
            value = _MADE_UP.get(field.name, f"bench-{field.name}")
            outputs[key] = pulumi.Output.secret(value) if "password" in field.name else value
    return outputs
