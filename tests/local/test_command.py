"""The command tells every trouble in one message, and shows what others wrote as they wrote it."""

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from local import __main__ as command
from local import consoles, roster_tool
from local.errors import LocalError
from local.paths import ROOT

AWKWARD = "Acme [/eu] [legacy] [link=x]y[/link] :smile: [bold]Zürich 東[/bold]"
"""To rich an error, a style that goes without a trace, a link and an emoji, if it takes it for markup."""


@pytest.fixture
def roster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(roster_tool, "ROOT", tmp_path)
    entry = f"tenants:\n  - id: acme\n    name: '{AWKWARD}'\n    tier: starter\n    owner: o@acme.example\n"
    (tmp_path / "tenants.yaml").write_text(entry, encoding="utf-8")
    return tmp_path


def test_a_name_is_shown_as_it_is_in_every_table(roster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["tenant", "list"]) == 0
    tenant = {"id": "acme", "name": AWKWARD}
    command._print_tenants(command._table_console(), ("id", "name"), [tenant])

    assert capsys.readouterr().out.count(AWKWARD) == 2


@pytest.mark.parametrize("failure", [LocalError(AWKWARD), OSError(AWKWARD)])
def test_a_message_is_shown_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failure: Exception
) -> None:
    def fail(_options: object) -> None:
        raise failure

    monkeypatch.setattr(roster_tool, "_list", fail)

    assert command.main(["tenant", "list"]) == 1
    assert AWKWARD in capsys.readouterr().err


def test_no_console_is_made_that_takes_text_for_markup() -> None:
    made = [
        path.relative_to(ROOT)
        for folder in ("local", "review", "images", "policy")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"\bConsole\(", path.read_text(encoding="utf-8"))
    ]
    assert made == [Path(consoles.__file__).relative_to(ROOT)]


def test_what_the_terminal_cannot_write_is_written_otherwise(
    roster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))

    assert command.main(["tenant", "list"]) == 0
    assert r"Z\xfcrich \u6771" in written.getvalue().decode("ascii")


def test_an_answer_that_nobody_reads_to_its_end_is_no_failure_to_tell(roster: Path) -> None:
    script = (
        "from pathlib import Path; from local import __main__, roster_tool; "
        f"roster_tool.ROOT = Path({str(roster)!r}); raise SystemExit(__main__.main(['tenant', 'list']))"
    )
    reader = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    reader.wait()
    writer = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, stdout=reader.stdin, stderr=subprocess.PIPE, text=True
    )
    assert writer.stderr == ""


@pytest.mark.parametrize("arguments", [["env"], ["status"], ["down"]])
def test_a_full_disk_before_the_first_run_is_told(arguments: list[str], tmp_path: Path) -> None:
    full = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mounted = f"mount -t tmpfs -o size=4k,nr_inodes=1 none {tmp_path}"
    if subprocess.run([*full, mounted], capture_output=True).returncode:
        pytest.skip("no mounts of one's own on this machine")

    done = subprocess.run(
        [*full, f'{mounted} && exec "$@"', "sh", sys.executable, "-m", "local", *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin:/usr/sbin", "AGENT_PLATFORM_DATA": f"{tmp_path}/data"},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {tmp_path}/data")
    assert (
        "No space left on device, so the command did not come to its end; make room on the disk"
        in done.stderr
    )
    assert "Traceback" not in done.stderr


def test_a_data_folder_that_cannot_be_made_is_told() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "local", "down"],
        cwd=ROOT,
        env={"AGENT_PLATFORM_DATA": "/dev/null/data"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: /dev/null/data")
    assert "Not a directory" in done.stderr
    assert "Traceback" not in done.stderr
