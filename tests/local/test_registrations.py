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
        self,
        name: str,
        *,
        refused: pulumi.Input[bool] = False,
        after: "Part | None" = None,
        parent: pulumi.Resource | None = None,
    ) -> None:
        options = pulumi.ResourceOptions(depends_on=[after] if after else None, parent=parent)
        super().__init__(PartProvider(), name, {"refused": refused}, options)


class Tenant(pulumi.ComponentResource):
    """A tenant with two parts, the second after the first."""

    def __init__(self, tenant: str, *, refused: bool = False) -> None:
        super().__init__("agent-platform:tenants:Tenant", tenant)
        first = Part(f"{tenant}-first", refused=refused, parent=self)
        Part(f"{tenant}-second", after=first, parent=self)


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
        each["urn"].rpartition("::")[2]
        for each in deployment.get("resources", ())
        if "test:Part" in each["type"]
    }


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the settings of a stack `test` and a roster."""
    (tmp_path / "Pulumi.test.yaml").write_text("config: {}\n")
    (tmp_path / "tenants.yaml").write_text("tenants: []\n")
    toolchain.ensure(Console(stderr=True))
    engine.install_plugins("test", official_only=False)
    return tmp_path


def test_what_depends_on_a_failure_stays_and_others_are_made(checkout: Path) -> None:
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
    selected = engine.stack("test", program=lambda: running[0](), tree=checkout)
    engine.up(selected, output=lambda _line: None)
    running[0] = declaring(after)

    with pytest.raises(engine.UpdateError, match="refused") as told:
        engine.up(selected, output=lambda _line: None)

    assert names(selected) == {"first", "named", "taken", "left", "newcomer"}
    assert "Traceback" not in str(told.value)
    running[0] = declaring(lambda: None)
    engine.up(selected, output=lambda _line: None)
    assert names(selected) == set()


@pytest.fixture
def unjudged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the policies, which want whole tenants."""
    monkeypatch.setattr(
        engine, "_guard_rails", lambda _stack, _refusals, on_event=None: {"on_event": on_event}
    )


@pytest.mark.usefixtures("unjudged")
def test_a_retired_tenant_is_removed_though_the_update_failed_for_another(checkout: Path) -> None:
    def before() -> None:
        for tenant in ("acme", "agent", "leaver", "dropped"):
            Tenant(tenant)

    def after() -> None:
        Tenant("acme", refused=True)
        Tenant("agent")

    running = [declaring(before)]
    selected = engine.stack("test", program=lambda: running[0](), tree=checkout)
    engine.up(selected, output=lambda _line: None)
    running[0] = declaring(after)
    (checkout / "tenants.yaml").write_text("tenants: []\nretired: [leaver, gone]\n")

    with pytest.raises(engine.UpdateError, match="refused") as told:
        engine.up(selected, output=lambda _line: None)

    stay = {"acme-first", "acme-second", "agent-first", "agent-second", "dropped-first", "dropped-second"}
    assert names(selected) == stay
    assert told.value.tenants == {"acme"}
    assert "leaver: has left, and is removed all the same" in str(told.value)
