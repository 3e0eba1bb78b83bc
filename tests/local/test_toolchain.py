import io
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
from rich.console import Console

from local import toolchain
from local.errors import LocalError
from local.paths import LOGS, ROOT
from local.toolchain import golang, manifests

MAIN = 'package main\n\nimport "os"\n\nfunc main() { os.Stdout.WriteString("one\\n") }\n'
needs_go = pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")

Make = Callable[[Path, IO[bytes]], None]


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tool chain of one tiny program, with a cache of its own."""
    folder = tmp_path / "sources" / "tiny"
    folder.mkdir(parents=True)
    (folder / "go.mod").write_text("module example.com/tiny\n\ngo 1.26\n")
    (folder / "go.sum").touch()
    (folder / "main.go").write_text(MAIN)
    monkeypatch.setattr(toolchain, "_SOURCES", tmp_path / "sources")
    monkeypatch.setattr(toolchain, "_HOME", tmp_path / "cache")
    monkeypatch.setattr(toolchain, "_VERSION_IN", {"tiny": []})
    monkeypatch.setattr(toolchain, "_FREE_DISK", 0)
    toolchain._digest.cache_clear()
    plan(monkeypatch, toolchain._compile("tiny", "."))
    return folder


@pytest.fixture(autouse=True)
def _forget() -> None:
    toolchain._digest.cache_clear()


def plan(monkeypatch: pytest.MonkeyPatch, make: Make) -> None:
    monkeypatch.setattr(toolchain, "_ARTEFACTS", (toolchain._Artefact("tiny", "tiny", 60, make),))


def without_go(console: Console) -> None: ...


def touch(path: Path, log: IO[bytes]) -> None:
    path.touch()


def ensure() -> str:
    """Build what is missing; returns what a user without a terminal reads."""
    written = io.StringIO()
    toolchain._digest.cache_clear()
    toolchain.ensure(Console(file=written, width=80))
    return written.getvalue()


def drafts() -> list[Path]:
    return list(toolchain._HOME.rglob("*.draft"))


@needs_go
def test_a_program_is_built_once_and_again_when_its_source_changes(sources: Path) -> None:
    told = ensure()
    assert "Building 1 tools" in told
    assert "tiny: building, about" in told
    assert "tiny: built in" in told
    assert "\x1b" not in told
    first = toolchain.tool("tiny")
    assert subprocess.check_output([first]) == b"one\n"

    assert ensure() == ""
    (sources / "main.go").write_text(MAIN.replace("one", "two"))
    assert "tiny: built in" in ensure()
    assert subprocess.check_output([toolchain.tool("tiny")]) == b"two\n"
    assert subprocess.check_output([first]) == b"one\n"


@needs_go
def test_what_the_compiler_says_reaches_the_user(sources: Path) -> None:
    (sources / "main.go").write_text("package main\n\nfunc main() { undefined() }\n")
    with pytest.raises(LocalError) as failure:
        ensure()
    assert "main.go:3:15: undefined: undefined" in str(failure.value)
    assert str(LOGS / "build-tiny.log") in str(failure.value)
    assert not drafts()
    (sources / "main.go").write_text(MAIN)
    assert "tiny: built in" in ensure()


@needs_go
def test_a_users_go_settings_change_nothing(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOFLAGS", "-mod=vendor -tags=other")
    monkeypatch.setenv("GOWORK", "/nowhere/go.work")
    ensure()
    assert subprocess.check_output([toolchain.tool("tiny")]) == b"one\n"


def test_an_interrupted_build_leaves_nothing_in_the_way(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, log: IO[bytes]) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(golang, "ensure", without_go)
    plan(monkeypatch, interrupted)
    with pytest.raises(KeyboardInterrupt):
        ensure()
    assert not drafts()
    assert not toolchain.tool("tiny").exists()


def test_what_a_killed_build_left_is_removed(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golang, "ensure", without_go)
    plan(monkeypatch, touch)
    folder = toolchain.tool("tiny").parent
    folder.mkdir(parents=True)
    (folder / ".tiny.1.draft").write_bytes(b"half")
    ensure()
    assert [path.name for path in folder.iterdir()] == ["tiny"]


def test_two_at_once_build_once(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builds = []

    def make(path: Path, log: IO[bytes]) -> None:
        builds.append(path)
        time.sleep(0.3)
        path.touch()

    monkeypatch.setattr(golang, "ensure", without_go)
    plan(monkeypatch, make)
    told: list[str] = []
    both = [threading.Thread(target=lambda: told.append(ensure())) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert len(builds) == 1
    assert "Another process is building the tool chain" in min(told, key=len)


def test_a_full_disk_is_told_before_anything_is_built(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1

    def usage(path: Path) -> Usage:
        return Usage()

    monkeypatch.setattr(shutil, "disk_usage", usage)
    monkeypatch.setattr(toolchain, "_FREE_DISK", 2**30)
    with pytest.raises(LocalError, match=r"0\.0 GiB are free, .* so nothing was built"):
        ensure()


@pytest.mark.parametrize(("version", "wins"), [("v3.300.1", True), ("v3.1.0", False), ("nonsense", False)])
def test_an_official_pulumi_wins_unless_it_is_too_old(
    version: str, wins: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    official = executable(tmp_path / "pulumi", f"echo {version}")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(toolchain, "_missing", list)
    written = io.StringIO()
    toolchain.ensure(Console(file=written))
    assert (toolchain.tool("pulumi") == official) is wins
    assert (written.getvalue() == "") is wins
    if not wins:
        assert "older than v3." in written.getvalue()


def test_an_official_plugin_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = executable(tmp_path / "pulumi-resource-vault", "exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert toolchain.official("pulumi-resource-vault") == plugin
    assert toolchain.official("pulumi-resource-exoscale") is None


def executable(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_every_pin_is_found_and_none_follows_a_branch() -> None:
    for module in toolchain._MODULES:
        assert toolchain._pinned(module).startswith("v")


@pytest.mark.integration
def test_the_real_tool_chain_says_what_it_is(console: Console) -> None:
    toolchain.ensure(console)
    pinned = toolchain._pinned("pulumi")
    assert (
        subprocess.check_output([toolchain._artefact("pulumi").path, "version"], text=True).strip() == pinned
    )
    kinds = {item["kind"] for item in toolchain.objects("kubevirt")}
    assert {"ClusterRole", "ValidatingWebhookConfiguration", "VirtualMachineClusterInstancetype"} <= kinds
    names = {item["metadata"]["name"] for item in toolchain.objects("longhorn")}
    assert {"recurringjobs.longhorn.io", "settings.longhorn.io", "backuptargets.longhorn.io"} <= names
    assert "{{" not in json.dumps(toolchain.objects("longhorn"))


@pytest.mark.integration
def test_the_committed_manifest_is_what_the_pinned_module_says(
    console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toolchain.ensure(console)
    monkeypatch.setattr(manifests, "_FOLDER", tmp_path)
    made = manifests.regenerate()
    assert made.read_text() == (ROOT / "infra/platform/manifests" / made.name).read_text()
