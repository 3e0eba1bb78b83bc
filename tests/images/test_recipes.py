"""An image has all that its program imports."""

import ast
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from images import wheels
from images.build import _offer_interface
from images.recipes import RECIPES, sources
from local.paths import ROOT


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports when it runs, each with the names that may be modules, too."""
    tree = ast.parse(path.read_text())
    types = [node for node in ast.walk(tree) if isinstance(node, ast.If) and _of_types(node.test)]
    skipped = {each for node in types for statement in node.body for each in ast.walk(statement)}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def _of_types(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def file_of(module: str) -> Path | None:
    path = ROOT / Path(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@pytest.mark.parametrize("name", RECIPES)
def test_it_has_every_module_of_ours_that_is_imported(name: str) -> None:
    there = sources(RECIPES[name])
    ours = {
        file
        for path in there
        if path.suffix == ".py"
        for module in imported(path)
        if (file := file_of(module))
    }

    assert ours, "nothing of ours was found"
    assert {str(path.relative_to(ROOT)) for path in ours - set(there)} == set()


@pytest.mark.parametrize("name", ["agent-machine", "agent-runtime"])
def test_a_tenants_own_program_finds_the_platforms_interface(name: str, tmp_path: Path) -> None:
    library = tmp_path / "usr/lib/agent-platform"
    library.mkdir(parents=True)
    _offer_interface(tmp_path)
    offered = library / "agent_platform.py"
    needed = {file for module in imported(offered) if (file := file_of(module))}

    assert needed
    assert needed <= set(sources(RECIPES[name]))
    listed = (tmp_path / "usr/lib/python3/dist-packages/agent-platform.pth").read_text().split()
    assert listed == ["/usr/lib/agent-platform", "/usr/lib/agent-platform/packages"]


@pytest.mark.parametrize("name", RECIPES)
def test_it_has_every_package_that_is_imported(name: str) -> None:
    """What is needed only because something else needs it counts: the lock decides about both."""
    known = packages_distributions()
    locked = wheels.needed(wheels.LOCK.read_text(), RECIPES[name].wheels)
    there = {line.partition("==")[0] for line in locked.splitlines() if "==" in line}
    imports = {
        module.partition(".")[0]
        for path in sources(RECIPES[name])
        if path.suffix == ".py"
        for module in imported(path)
    }
    third = {top for top in imports if top != "services" and top not in sys.stdlib_module_names}

    missing = {
        top: known.get(top)
        for top in third
        if not {distribution.lower().replace("_", "-") for distribution in known.get(top, ())} & there
    }
    assert third, "nothing was found that could be missing"
    assert missing == {}
