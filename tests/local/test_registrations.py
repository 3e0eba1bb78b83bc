"""An update that goes on past a failure deletes nothing that it could not register: with the real engine."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pulumi
import pytest
from pulumi.dynamic import CreateResult, Resource, ResourceProvider, UpdateResult
from rich.console import Console

from infra.registrations import all_registered
from local import engine, toolchain


class PartProvider(ResourceProvider):
    """Makes nothing, and refuses an update to what it is told to refuse."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult("part", props)

    def update(self, _id: str, _olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        if news["refused"]:
            raise RuntimeError("refused")
        return UpdateResult(news)


class Part(Resource, module="test", name="Part"):
    """A part of something, which may depend on another."""

    refused: pulumi.Output[bool]

    def __init__(
        self, name: str, *, refused: pulumi.Input[bool] = False, after: "Part | None" = None
    ) -> None:
        options = pulumi.ResourceOptions(depends_on=[after] if after else None)
        super().__init__(PartProvider(), name, {"refused": refused}, options)


def declaring(declare: Callable[[], None]) -> Callable[[], None]:
    """A program that ends as ours does."""

    async def main() -> None:
        declare()
        await asyncio.sleep(0)
        await all_registered()

    return lambda: pulumi.run(main)


def names(selected: Any) -> set[str]:
    deployment = selected.export_stack().deployment
    return {
        each["urn"].rpartition("::")[2] for each in deployment["resources"] if "test:Part" in each["type"]
    }


def test_what_depends_on_a_failure_stays_and_others_are_made(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.test.yaml").write_text("config: {}\n")
    toolchain.ensure(Console(stderr=True))
    engine.install_plugins("test", official_only=False)

    def before() -> None:
        first = Part("first")
        Part("named", after=first)
        Part("taken", refused=first.refused)
        Part("left")

    def after() -> None:
        first = Part("first", refused=True)
        Part("named", after=first)
        Part("taken", refused=first.refused)
        Part("newcomer")

    running = [declaring(before)]
    selected = engine.stack("test", program=lambda: running[0](), tree=tmp_path)
    engine.up(selected, output=lambda _line: None)
    running[0] = declaring(after)

    with pytest.raises(engine.UpdateError, match="refused") as told:
        engine.up(selected, output=lambda _line: None)

    assert names(selected) == {"first", "named", "taken", "left", "newcomer"}
    assert "Traceback" not in str(told.value)
    running[0] = declaring(lambda: None)
    engine.up(selected, output=lambda _line: None)
    assert names(selected) == set()
