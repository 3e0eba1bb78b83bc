"""A policy configuration that does not say what somebody meant stops everything, with one message."""

import json
import shutil
from pathlib import Path

import pytest

from local import engine
from local.errors import LocalError
from local.paths import ROOT
from policy.configuration import PolicyConfigurationError, check_file
from policy.families import all_rules


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The folder of a pack whose configuration a test writes."""
    shutil.copytree(ROOT / "policy", tmp_path / "policy", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "policy"


@pytest.mark.parametrize("stack", ["local", "prod"])
def test_the_committed_configurations_are_sound(stack: str) -> None:
    check_file(ROOT / "policy" / f"config.{stack}.json", all_rules())


@pytest.mark.parametrize(
    ("configuration", "told"),
    [
        (
            '{"pods-no-privilegd": "advisory"}',
            "pods-no-privilegd: is no rule.* did you mean pods-no-privileged",
        ),
        ('{"nothing": {}}', "nothing: is no rule.* docs/policies.md lists them"),
        ('{"all": "off"}', "all: 'off' is no level.* mandatory, advisory, disabled"),
        ('{"pods-seccomp": "remediate"}', "pods-seccomp: 'remediate' is no level"),
        ('{"pods-seccomp": ["advisory"]}', "pods-seccomp: is neither a level nor a mapping"),
        ('{"pods-seccomp": {"alowed": {}}}', "pods-seccomp.alowed: is no setting.* it has allowed"),
        ("[]", "no mapping of rules"),
        ("{", "is no JSON"),
    ],
)
def test_a_mistake_is_told(tmp_path: Path, configuration: str, told: str) -> None:
    file = tmp_path / "config.prod.json"
    file.write_text(configuration, encoding="utf-8")

    with pytest.raises(PolicyConfigurationError, match=rf"(?s)^config\.prod\.json .*{told}") as refused:
        check_file(file, all_rules())

    assert "nothing was changed" in str(refused.value)


def test_an_unknown_rule_stops_a_preview_before_the_program_runs(
    engine_ready: None, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (written / "config.prod.json").write_text('{"pods-no-privilegd": "advisory"}', encoding="utf-8")
    monkeypatch.setattr(engine, "_PACK", written)
    stack = engine.stack("prod", program=lambda: pytest.fail("the program ran"))

    with pytest.raises(LocalError) as refused:
        engine.preview(stack, output=lambda _line: None)

    assert str(refused.value).count("is no rule") == 1
    assert "Traceback" not in str(refused.value)


def test_the_pack_itself_refuses_an_unknown_rule(engine_ready: None, tmp_path: Path) -> None:
    """Whoever runs `pulumi --policy-pack-config` past our commands is told as well."""
    configuration = tmp_path / "config.json"
    configuration.write_text(json.dumps({"pods-no-privilegd": "advisory"}), encoding="utf-8")
    stack = engine.stack("prod", program=lambda: pytest.fail("the program ran"))

    with pytest.raises(Exception, match="pods-no-privilegd: is no rule"):
        stack.preview(policy_packs=[str(ROOT / "policy")], policy_pack_configs=[str(configuration)])


def test_a_value_of_the_wrong_shape_stops_a_preview(
    engine_ready: None, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = {"images-from-trusted": {"trusted": ["quay.io"]}}
    (written / "config.prod.json").write_text(json.dumps(configuration), encoding="utf-8")
    monkeypatch.setattr(engine, "_PACK", written)
    stack = engine.stack("prod", program=lambda: pytest.fail("the program ran"))

    with pytest.raises(LocalError, match=r"(?s)Nothing was changed.*images-from-trusted: trusted\.0"):
        engine.preview(stack, output=lambda _line: None)
