"""One preview of many examples, with the policy pack, through the real engine and its plugins."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pulumi import automation as auto

from local import engine
from local.paths import ROOT
from tests.policy.examples import Example
from tests.policy.scene import Scene, Stage


@dataclass(frozen=True)
class Told:
    """What the engine told of a resource, in the name of a rule."""

    rule: str
    name: str
    level: str
    message: str


@dataclass(frozen=True)
class Run:
    """What came of a preview."""

    told: Sequence[Told]
    types: dict[str, str]
    """Of each resource that was registered, by its name."""
    scenes: dict[str, Scene]
    """By the example's name."""

    def of(self, example: Example) -> list[Told]:
        """What was told of an example's resources in the name of its own rule."""
        names = self.scenes[example.name].names
        return [told for told in self.told if told.rule == example.rule and told.name in names]


def preview(examples: Sequence[Example], folder: Path) -> Run:
    """Preview all examples as one program; each has only its own resources, told apart by their names."""
    scenes: dict[str, Scene] = {}

    def program() -> None:
        stage = Stage()
        for number, example in enumerate(examples):
            scenes[example.name] = scene = Scene(example.name, f"tenant{number}", stage)
            example.declare(scene)

    configuration = folder / "config.json"
    configuration.write_text(json.dumps(_configuration(examples)), encoding="utf-8")
    told: list[Told] = []
    types: dict[str, str] = {}

    def watch(event: auto.EngineEvent) -> None:
        if event.resource_pre_event:
            step = event.resource_pre_event.metadata
            types[step.urn.rpartition("::")[2]] = step.type
        if event.policy_event:
            finding = event.policy_event
            name = (finding.resource_urn or "").rpartition("::")[2]
            told.append(Told(finding.policy_name, name, finding.enforcement_level, finding.message.strip()))

    stack = engine.stack("prod", program=program)
    try:
        stack.preview(
            policy_packs=[str(ROOT / "policy")],
            policy_pack_configs=[str(configuration)],
            on_event=watch,
        )
    except auto.CommandError as error:
        if not any(each.level == "mandatory" for each in told):
            raise AssertionError(f"The examples themselves are wrong: {error}") from None
    return Run(told, types, scenes)


def _configuration(examples: Sequence[Example]) -> dict[str, dict[str, object]]:
    """Every example's own settings, which must not contradict each other."""
    merged: dict[str, dict[str, object]] = {}
    for example in examples:
        merged.setdefault(example.rule, {}).update(example.settings)
    return merged
