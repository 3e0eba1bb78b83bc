"""The engine gets its secrets where nobody else can read them, and only what it does not have."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pulumi import automation as auto
from rich.console import Console

from local import engine, servers, store, toolchain
from local.paths import DATA

SECRETS = {
    "agent-platform:vaultToken": "s.the-token",
    "agent-platform:gatewayKey": "-----BEGIN KEY-----\n1+2=\n-----END KEY-----\n",
    "agent-platform:redisPassword": "--flag'\"$(x)",
}


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, console: Console) -> Iterator[Path]:
    """Everything that the engine was called with, as a file; its servers are not needed for that."""
    toolchain.ensure(console, "pulumi")
    recorded, real = tmp_path / "commands", toolchain.tool("pulumi")
    wrapper = tmp_path / "pulumi"
    wrapper.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {recorded}\nexec {real} "$@"\n')
    wrapper.chmod(0o700)
    monkeypatch.setattr(toolchain, "tool", lambda _name: wrapper)
    monkeypatch.setattr(servers, "stack_settings", dict)
    monkeypatch.setattr(servers, "stack_secrets", lambda: SECRETS)
    engine.install_plugins(engine.LOCAL_STACK, official_only=False)
    yield recorded


def settings() -> str:
    return (DATA / "stacks/local/Pulumi.local.yaml").read_text()


def test_secrets_reach_the_engine_on_no_command_line_and_in_no_file(commands: Path) -> None:
    known = engine.stack(engine.LOCAL_STACK).get_all_config()

    assert {key: known[key].value for key in SECRETS} == SECRETS
    assert all(known[key].secret for key in SECRETS)
    assert "config set" in commands.read_text()
    for secret in SECRETS.values():
        assert secret.strip() not in commands.read_text() + settings()


def test_only_a_secret_that_changed_is_set_again(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.stack(engine.LOCAL_STACK)
    commands.unlink()
    changed = {**SECRETS, "agent-platform:vaultToken": "s.another"}
    monkeypatch.setattr(servers, "stack_secrets", lambda: changed)

    known = engine.stack(engine.LOCAL_STACK).get_all_config()

    assert {key: known[key].value for key in SECRETS} == changed
    called = [line for line in commands.read_text().splitlines() if "config set" in line]
    assert called == ["config set agent-platform:vaultToken --secret --raw --non-interactive"]


@pytest.mark.parametrize("torn", ["config: {", "config: {}\n"])
def test_a_file_that_was_not_written_whole_is_written_anew(commands: Path, torn: str) -> None:
    engine.stack(engine.LOCAL_STACK)
    (DATA / "stacks/local/Pulumi.local.yaml").write_text(torn)

    known = engine.stack(engine.LOCAL_STACK).get_all_config()

    assert {key: known[key].value for key in SECRETS} == SECRETS


def test_what_it_writes_is_its_owners_alone(commands: Path) -> None:
    engine.stack(engine.LOCAL_STACK)

    for folder in ("", "bin", "pulumi", "stacks", "stacks/local", "stacks/local/state"):
        assert (DATA / folder).stat().st_mode & 0o077 == 0, folder
    assert (DATA / "stacks/local/Pulumi.local.yaml").stat().st_mode & 0o077 == 0


def test_a_folder_is_private_with_all_that_had_to_be_made_above_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)

    store.private_folder(tmp_path / "a/b/c")

    assert [(tmp_path / made).stat().st_mode & 0o777 for made in ("", "a", "a/b", "a/b/c")] == [
        0o755,
        *3 * [0o700],
    ]


FAILED = "resource acme-tables [pulumi-python:dynamic/agent-platform:Migration] failed to register"
DISPLAY = f"""\
    pulumi:pulumi:Stack agent-platform-local running error: python inline source runtime error: {FAILED}
    pulumi:pulumi:Stack agent-platform-local **failed** 2 errors
Diagnostics:
  pulumi:pulumi:Stack (agent-platform-local):
    \x1b[31merror: \x1b[0mpython inline source runtime error: {FAILED}
    Traceback (most recent call last):
      File "output.py", line 188, in future
        data = await self._data
               ^^^^^^^^^^^^^^^^
    pulumi.runtime.stack.ResourceRegistrationFailed: {FAILED}
    error: an unhandled error occurred: python inline source runtime error: {FAILED}
    Traceback (most recent call last):
      File "output.py", line 188, in future
        data = await self._data
    pulumi.runtime.stack.ResourceRegistrationFailed: {FAILED}

  pulumi-python:dynamic/agent-platform:Migration (acme-tables):
    error: Exception calling application: schema tenant_acme should be on revision 0001
    Traceback (most recent call last):
      File "a_fault_of_the_program.py", line 1"""


def test_of_a_resource_that_failed_the_reason_is_displayed_and_not_where_the_program_heard_of_it() -> None:
    echoed = engine._Echo()

    assert [line.strip() for line in DISPLAY.splitlines() if not echoed(line)] == [
        "pulumi:pulumi:Stack agent-platform-local **failed** 2 errors",
        "Diagnostics:",
        "pulumi:pulumi:Stack (agent-platform-local):",
        "",
        "pulumi-python:dynamic/agent-platform:Migration (acme-tables):",
        "error: Exception calling application: schema tenant_acme should be on revision 0001",
        "Traceback (most recent call last):",
        'File "a_fault_of_the_program.py", line 1',
    ]


@pytest.mark.parametrize(
    ("told", "reasons"),
    [
        (DISPLAY, ["error: schema tenant_acme should be on revision 0001"]),
        (f"\nerror: an unhandled error occurred: {FAILED}", [f"error: {FAILED}"]),
    ],
)
def test_the_reasons_of_a_failure_are_told_once_each(told: str, reasons: list[str]) -> None:
    plain = engine._COLOR.sub("", told)
    assert engine._reasons(auto.CommandError(auto.CommandResult(plain, "", 255))) == reasons
