"""Every bad input is told in one message, the exit status is not 0, and nothing is changed."""

import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
import yaml

from tests.integration.conftest import Platform

pytestmark = pytest.mark.integration


@pytest.fixture
def unchanged(platform: Platform) -> Iterator[None]:
    """Restores roster and settings, and asserts that the test has left the state as it was."""
    settings = platform.root / "Pulumi.local.yaml"
    files = {path: path.read_text(encoding="utf-8") for path in (platform.roster, settings)}
    before = platform.state()
    yield
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    assert platform.state() == before


def assert_told(done: subprocess.CompletedProcess[str], *expected: str) -> None:
    """It failed, said each of `expected`, and showed no traceback."""
    told = done.stdout + done.stderr
    assert done.returncode == 1, told
    assert "Traceback" not in told
    for pattern in expected:
        assert re.search(pattern, told), f"{pattern!r} is not in:\n{told}"


def test_mistakes_in_the_roster_are_told_before_anything_is_touched(
    platform: Platform, unchanged: None
) -> None:
    document = yaml.safe_load(platform.roster.read_text(encoding="utf-8"))
    wrong = {"id": "a-b", "name": "X", "tier": "gold", "owner": "o@x.example", "colour": "red"}
    platform.write_roster({**document, "tenants": [*document["tenants"], wrong]})
    assert_told(platform.run("up"), r"tenants\.yaml:\d+", "a-b", "gold", "colour")


@pytest.mark.parametrize(
    ("find", "replace", "expected"),
    [
        ("agent-platform:domain:", "agent-platform:domian:", "agent-platform:domian"),
        ("zone: ch-gva-2", "zone: de-fra-1", "allowZonesOutsideSwitzerland"),
    ],
)
def test_mistakes_in_the_stack_configuration_name_the_key(
    platform: Platform, unchanged: None, find: str, replace: str, expected: str
) -> None:
    settings = platform.root / "Pulumi.local.yaml"
    text = settings.read_text(encoding="utf-8")
    assert find in text
    settings.write_text(text.replace(find, replace, 1), encoding="utf-8")

    assert_told(platform.run("up"), expected)


def test_a_stack_that_does_not_exist_is_told(platform: Platform, unchanged: None) -> None:
    assert_told(platform.run("preview", "--stack", "staging"), r"Pulumi\.staging\.yaml")


def test_official_plugins_only_refuses_a_stand_in(platform: Platform, unchanged: None) -> None:
    if all(_on_path(f"pulumi-resource-{name}") for name in ("kubernetes", "exoscale", "postgresql", "vault")):
        pytest.skip("every official plugin is on PATH")
    assert_told(platform.run("up", "--plugins", "official"), "PLUGINS=official", "pulumi-resource-")


def _on_path(name: str) -> bool:
    return shutil.which(name) is not None
