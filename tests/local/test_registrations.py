"""An update that goes on past a failure deletes nothing that it could not register: with the real engine."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Seen:
    """An update that failed for one part: its error, what there is then, and once nothing is declared."""

    error: engine.UpdateError
    after: set[str]
    at_last: set[str]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    checkout = tmp_path_factory.mktemp("checkout")
    (checkout / "Pulumi.test.yaml").write_text("config: {}\n")
    (checkout / "tenants.yaml").write_text("tenants: []\nretired: [leaver, gone]\n")
    toolchain.ensure(Console(stderr=True))
    engine.install_plugins("test", official_only=False)

    def before() -> None:
        first = Part("first")
        Part("named", after=first)
        Part("taken", refused=first.refused)
        Part("left")
        for tenant in ("agent", "leaver", "dropped"):
            Tenant(tenant)

    def after() -> None:
        first = Part("first", refused=True)
        Part("named", after=first)
        Part("taken", refused=first.refused)
        Part("newcomer")
        Tenant("agent", refused=True)

    running = [declaring(before)]
    with pytest.MonkeyPatch.context() as patched:
        # The policies want whole tenants.
        patched.setattr(
            engine, "_guard_rails", lambda _stack, _refusals, on_event=None: {"on_event": on_event}
        )
        selected = engine.stack("test", program=lambda: running[0](), tree=checkout)
        engine.up(selected, output=lambda _line: None)
        running[0] = declaring(after)
        with pytest.raises(engine.UpdateError, match="refused") as told:
            engine.up(selected, output=lambda _line: None)
        found = names(selected)
        running[0] = declaring(lambda: None)
        engine.up(selected, output=lambda _line: None)
        return Seen(told.value, found, names(selected))


def test_what_depends_on_a_failure_stays_and_others_are_made(seen: Seen) -> None:
    of_tenants = {"agent-first", "agent-second", "dropped-first", "dropped-second"}
    assert seen.after == {"first", "named", "taken", "left", "newcomer"} | of_tenants
    assert seen.error.tenants == {"agent"}
    assert "Traceback" not in str(seen.error)
    assert seen.at_last == set()


def test_a_retired_tenant_is_removed_though_the_update_failed_for_another(seen: Seen) -> None:
    assert not {"leaver-first", "leaver-second"} & seen.after
    assert {"dropped-first", "dropped-second"} <= seen.after
    assert "leaver: has left, and is removed all the same" in str(seen.error)
