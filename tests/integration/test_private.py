"""Nobody else on the machine can read a secret of the platform: on no command line, and in no file."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import Platform

pytestmark = pytest.mark.integration


def secrets(platform: Platform) -> list[bytes]:
    """The passwords, keys and tokens of its servers."""
    kept: dict[str, str] = json.loads((platform.root / ".local/credentials.json").read_text(encoding="utf-8"))
    return [value.encode() for value in kept.values()]


def command_lines() -> Iterator[bytes]:
    """Those of all processes; of one that just ended, none."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                yield (process / "cmdline").read_bytes()
            except OSError:
                continue


def test_while_it_comes_up_no_command_line_shows_a_secret(platform: Platform) -> None:
    hidden, shown = secrets(platform), set()
    running, told = platform.start("up"), ""
    while running.returncode is None:
        try:
            told, _ = running.communicate(timeout=0.02)
        except subprocess.TimeoutExpired:
            shown |= {line for line in command_lines() if any(secret in line for secret in hidden)}

    assert running.returncode == 0, told
    assert not shown


def test_the_data_folder_is_closed_and_whatever_holds_a_secret_is_private(platform: Platform) -> None:
    data = platform.root / ".local"
    holding = [
        path
        for path in data.rglob("*")
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 2**20
        if any(secret in path.read_bytes() for secret in secrets(platform))
    ]

    assert data.stat().st_mode & 0o077 == 0
    assert data / "credentials.json" in holding
    assert [path for path in holding if path.stat().st_mode & 0o077] == []
