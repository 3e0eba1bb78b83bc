"""`python -m local tenant …` edits one entry and leaves everybody else's lines alone, to the byte."""

import json
import multiprocessing
import shutil
import string
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ConfigurationError
from infra.tenants.roster import load_roster
from local import roster_tool
from local.__main__ import _parser
from local.errors import LocalError
from local.paths import ROOT

ROSTER = """\
# The roster.
tenants:
  # Banks
  - id: acme
    name:   "Acme"   # their own spelling
    tier: enterprise
    owner: ops@acme.example
    sizes: {cpu: 6, workspaceGib: 60}
    overrides: {image: 'r.ch/a:1@sha256:0000000000000000000000000000000000000000000000000000000000000000'}

  # Travel
  - {id: corvus, name: Corvus, tier: starter, owner: it@corvus.example} # small

  -
    id: dufour
    tier: private-cloud # the largest
    name: Dufour
    owner: it@dufour.example
    ownDatabase: true
    claims: [Single-tenant]
# The end.
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(roster_tool, "ROOT", tmp_path)
    (tmp_path / "tenants.yaml").write_text(ROSTER)
    return tmp_path / "tenants.yaml"


def tenant(*arguments: str) -> None:
    options = _parser().parse_args(["tenant", *arguments])
    options.command(options)


def changed(path: Path, *arguments: str) -> tuple[list[str], list[str]]:
    """The lines that went and the lines that came."""
    before = path.read_text().splitlines()
    tenant(*arguments)
    after = path.read_text().splitlines()
    return [line for line in before if line not in after], [line for line in after if line not in before]


def refused(path: Path, *arguments: str) -> str:
    before = path.read_bytes()
    with pytest.raises((LocalError, ConfigurationError)) as told:
        tenant(*arguments)
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    message = str(told.value)
    assert "nothing was changed" in message
    return message


UMBRELLA = ("add", "umbrella", "--name", "Umbrella", "--owner", "u@umbrella.example", "--tier", "starter")


def test_a_new_tenant_stands_in_the_order_of_ids(path: Path) -> None:
    came = changed(path, "add", "bluebird", *UMBRELLA[2:6], "--tier", "professional", "--cpu", "3")
    assert came == (
        [],
        [
            "  - id: bluebird",
            "    name: Umbrella",
            "    tier: professional",
            "    owner: u@umbrella.example",
            "    sizes:",
            "      cpu: 3",
        ],
    )
    tenant("add", "aaa", *UMBRELLA[2:])
    tenant(*UMBRELLA)
    ids = [entry.id for entry in load_roster(path).tenants]
    assert ids == ["aaa", "acme", "bluebird", "corvus", "dufour", "umbrella"]


def test_a_new_tenant_goes_to_the_end_of_a_roster_in_another_order(path: Path) -> None:
    path.write_text(ROSTER.replace("acme", "zebra", 1))
    tenant(*UMBRELLA)
    assert [entry.id for entry in load_roster(path).tenants][-1] == "umbrella"


@pytest.mark.parametrize("empty", ["tenants: []\n", "tenants: [ ] # nobody yet\n", "tenants: []"])
def test_the_first_tenant_is_added_and_the_last_one_leaves(path: Path, empty: str) -> None:
    path.write_text(empty)
    tenant(*UMBRELLA)
    assert [entry.id for entry in load_roster(path).tenants] == ["umbrella"]
    tenant("offboard", "umbrella", "--backup", "final")
    tenant("retire", "umbrella")
    roster = load_roster(path)
    assert (roster.tenants, roster.retired) == ((), ("umbrella",))


@pytest.mark.parametrize("name", ["yes", "1.5", "null", "a: b", "# no", "'quoted'", "Zürich", "2026-01-01"])
def test_a_name_is_written_so_that_it_is_read_as_it_was_given(path: Path, name: str) -> None:
    tenant(*UMBRELLA[:3], name, *UMBRELLA[4:])
    assert next(entry.name for entry in load_roster(path).tenants if entry.id == "umbrella") == name


def test_what_is_missing_is_asked_for_in_one_message(path: Path) -> None:
    assert "--name and --owner are missing" in refused(path, "add", "umbrella", "--tier", "enterprise")
    assert "--tier is missing" in refused(path, *UMBRELLA[:6])


def test_a_new_id_is_neither_taken_nor_retired_nor_out_of_form(path: Path) -> None:
    path.write_text(ROSTER + "retired: [umbrella]\n")
    assert "would have a mistake" in refused(path, *UMBRELLA)
    assert "line 4 already" in refused(path, "add", "acme", *UMBRELLA[2:])
    assert "3 to 31" in refused(path, "add", "a-b", *UMBRELLA[2:])


def test_a_state_comes_and_goes_without_a_trace(path: Path) -> None:
    for identifier in ("acme", "corvus", "dufour"):
        tenant("suspend", identifier)
        assert "suspended" in refused(path, "suspend", identifier)
        tenant("offboard", identifier, "--backup", "waived", "--reason", "a trial: over")
        tenant("resume", identifier)
    # A changed entry is written in one style, comments and all; its spaces may differ.
    assert path.read_text().split() == ROSTER.split()


def test_a_tenant_leaves_in_two_steps_and_its_id_stays(path: Path) -> None:
    assert 'make tenant ARGS="offboard acme' in refused(path, "retire", "acme")
    assert "--backup final" in refused(path, "offboard", "acme")
    assert "--reason" in refused(path, "offboard", "acme", "--backup", "waived")
    _, came = changed(path, "offboard", "acme", "--backup", "final")
    assert came[-3:] == ["    state: offboarding", "    offboarding:", "      backup: final"]
    tenant("retire", "acme")
    text = path.read_text()
    assert "acme" not in text.replace("  - acme\n", "")
    assert text.endswith("# The end.\n\nretired:\n  - acme\n")
    assert "# Banks" not in text
    assert "# Travel" in text


@pytest.mark.parametrize(
    "retired", ["retired: [wayne] # gone\n", "retired:\n  - wayne # gone\n", "retired: []\n"]
)
@pytest.mark.parametrize("first", [True, False])
def test_a_retired_id_joins_those_that_are_there(path: Path, retired: str, first: bool) -> None:
    path.write_text(retired + ROSTER if first else ROSTER + retired)
    before = load_roster(path).retired
    tenant("offboard", "corvus", "--backup", "final")
    tenant("retire", "corvus")
    roster = load_roster(path)
    assert [entry.id for entry in roster.tenants] == ["acme", "dufour"]
    assert roster.retired == (*before, "corvus")
    assert ("# gone" in path.read_text()) == ("# gone" in retired)
    tenant("offboard", "acme", "--backup", "final")
    tenant("retire", "acme")
    assert load_roster(path).retired == (*before, "corvus", "acme")


def entry(path: Path, identifier: str) -> dict[str, object]:
    found = next(entry for entry in load_roster(path).tenants if entry.id == identifier)
    return found.model_dump(by_alias=True, exclude_defaults=True, exclude={"id", "name", "owner"})


def test_a_tenant_that_loses_its_machine_says_what_becomes_of_the_workspace(path: Path) -> None:
    tenant("move", "acme", "--tier", "professional", "--keep", "workspace")
    assert entry(path, "acme") == {
        "tier": "professional",
        "sizes": {"workspaceGib": 60},  # 6 CPUs are above the tier
        "keep": ("workspace",),
    }
    tenant("move", "acme", "--tier", "starter")
    assert entry(path, "acme")["keep"] == ("workspace",)
    tenant("move", "acme", "--tier", "private-cloud")
    assert entry(path, "acme") == {"tier": "private-cloud"}  # 60 GiB grow to the tier's 100
    tenant("move", "acme", "--tier", "enterprise")
    assert entry(path, "acme") == {"tier": "enterprise", "sizes": {"workspaceGib": 100}}
    sizes = {"sizes": {"workspaceGib": 100}}
    tenant("move", "acme", "--tier", "starter", "--discard", "workspace")
    assert entry(path, "acme") == {"tier": "enterprise", **sizes, "discard": ("workspace",)}
    tenant("move", "acme", "--tier", "starter", "--discard", "workspace")
    assert entry(path, "acme") == {"tier": "starter", "discard": ("workspace",)}
    tenant("move", "acme", "--tier", "enterprise")
    assert entry(path, "acme") == {"tier": "enterprise"}


def test_a_tenant_that_loses_its_machine_has_its_workspace_handed_over_first(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = entry(path, "acme")
    tenant("move", "acme", "--tier", "professional")
    assert entry(path, "acme") == {**before, "state": "moving"}
    told = capsys.readouterr().err
    assert "The first of two steps." in told
    assert "brings its workspace to the prefix; then give the same command again" in told
    assert "--keep workspace parks the volume, --discard workspace has it deleted" in told
    tenant("move", "acme", "--tier", "professional")
    assert entry(path, "acme") == {"tier": "professional"}


def test_a_suspended_tenant_is_not_served_again_by_a_move(path: Path) -> None:
    tenant("suspend", "acme")
    assert "acme is suspended" in refused(path, "move", "acme", "--tier", "professional")


def test_a_move_that_has_begun_can_be_taken_back(path: Path) -> None:
    before = entry(path, "acme")
    tenant("move", "acme", "--tier", "professional")
    tenant("resume", "acme")
    assert entry(path, "acme") == before


def test_what_a_tier_has_no_use_for_goes_and_is_told(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text(ROSTER.replace("    overrides:", "    idleSeconds: 3600\n    overrides:"))
    tenant("move", "acme", "--tier", "professional", "--keep", "workspace")
    told = capsys.readouterr().err
    assert "sizes.cpu 6 is gone: tier professional has at most 4" in told
    assert "idleSeconds is gone: only a machine sleeps" in told
    assert "overrides.image is gone" in told
    assert "image" not in path.read_text()


def test_a_database_of_its_own_is_given_up_by_name(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--discard database" in refused(path, "move", "dufour", "--tier", "enterprise")
    tenant("move", "dufour", "--tier", "enterprise", "--discard", "database")
    assert "two steps" in capsys.readouterr().err
    tenant("move", "dufour", "--tier", "enterprise", "--discard", "database")
    assert entry(path, "dufour") == {
        "tier": "enterprise",
        "sizes": {"workspaceGib": 100},
        "discard": ("database",),
        "claims": ("Single-tenant",),
    }
    assert "does not bear out: Single-tenant" in capsys.readouterr().err


def test_what_a_move_cannot_do_is_refused(path: Path) -> None:
    assert "already" in refused(path, "move", "acme", "--tier", "enterprise")
    assert "nothing to keep" in refused(path, "move", "corvus", "--tier", "enterprise", "--keep", "workspace")
    assert "Did you mean acme?" in refused(path, "move", "acm", "--tier", "starter")
    path.write_text(
        ROSTER.replace("workspaceGib: 60", "workspaceGib: 60").replace(
            "ownDatabase: true", "sizes: {workspaceGib: 700}"
        )
    )
    assert "workspaceGib 700 is above the 500" in refused(path, "move", "dufour", "--tier", "enterprise")


def test_a_roster_that_is_wrong_already_is_told_and_left_alone(path: Path) -> None:
    path.write_text(ROSTER.replace("enterprise", "gold"))
    assert "gold" in refused(path, "suspend", "corvus")


def test_entries_on_one_line_are_not_edited(path: Path) -> None:
    one = "{id: %s, name: A, tier: starter, owner: a@b.example}"
    path.write_text(f"tenants: [{one % 'acme'}, {one % 'corvus'}]\n")
    assert "share a line" in refused(path, "suspend", "corvus")
    path.write_text(f"tenants:\n  [{one % 'acme'},\n   {one % 'corvus'}]\n")
    assert "share a line" in refused(path, "suspend", "corvus")


def test_the_change_is_shown_as_a_diff_and_what_comes_next_is_told(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant("suspend", "corvus")
    shown = capsys.readouterr()
    assert shown.out.startswith("--- a/tenants.yaml\n+++ b/tenants.yaml\n@@")
    assert "make preview" in shown.err


def test_the_list_is_for_people_and_for_scripts(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tenant("list")
    assert "Dufour" in capsys.readouterr().out
    tenant("list", "--json")
    listed = json.loads(capsys.readouterr().out)
    assert [one["state"] for one in listed["tenants"]] == ["active"] * 3


def test_line_ends_and_the_files_mode_stay(path: Path) -> None:
    path.write_bytes(ROSTER.replace("\n", "\r\n").encode())
    path.chmod(0o640)
    tenant("suspend", "corvus")
    tenant(*UMBRELLA)
    content = path.read_bytes()
    assert content.count(b"\r\n") == content.count(b"\n")
    assert path.stat().st_mode & 0o777 == 0o640


def test_edits_that_come_at_once_are_all_kept(path: Path) -> None:
    processes = multiprocessing.get_context("fork")
    together = processes.Barrier(6)

    def add(number: int) -> None:
        together.wait()
        tenant("add", f"umbrella{number}", *UMBRELLA[2:])

    path.chmod(0o640)
    adding = [processes.Process(target=add, args=(number,)) for number in range(6)]
    for process in adding:
        process.start()
    for process in adding:
        process.join()

    assert [process.exitcode for process in adding] == [0] * 6
    ids = [entry.id for entry in load_roster(path).tenants]
    assert ids == ["acme", "corvus", "dufour", *(f"umbrella{number}" for number in range(6))]
    assert path.stat().st_mode & 0o777 == 0o640
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_the_committed_roster_is_edited_without_changing_another_line(path: Path) -> None:
    shutil.copyfile(ROOT / "tenants.yaml", path)
    before = path.read_text()
    for one in load_roster(path).tenants:
        tenant("suspend", one.id)
        tenant("resume", one.id)
        assert path.read_text() == before


FILLER = st.sampled_from(["", "\n", "  # a word\n", "\n  # two\n\n", "# at the margin\n"])
WRITTEN = st.sampled_from(
    [
        "  - id: {id}\n    name: A\n    tier: starter\n    owner: a@b.example\n",
        "  - id: {id} # new\n    tier: 'starter'\n    # who\n    owner: a@b.example\n    name:  \"A\"\n",
        "  - {{id: {id}, name: A, tier: starter, owner: a@b.example}}\n",
        "  -  name: A\n     id: {id}\n     tier: starter\n     owner: a@b.example\n     claims: [a]\n",
    ]
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(FILLER, WRITTEN), min_size=1, max_size=5), st.data())
def test_no_other_tenants_lines_change_whatever_they_look_like(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[str, str]], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("roster") / "tenants.yaml"
    ids = [f"{letter}aa" for letter in string.ascii_lowercase[: len(parts)]]
    blocks = [filler + written.format(id=one) for one, (filler, written) in zip(ids, parts, strict=True)]
    path.write_text("tenants:\n" + "".join(blocks))
    chosen = data.draw(st.integers(0, len(ids) - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roster_tool, "ROOT", path.parent)
        tenant("offboard", ids[chosen], "--backup", "final")
        others = [block for index, block in enumerate(blocks) if index != chosen]
        assert all(block in path.read_text() for block in others)
        tenant("retire", ids[chosen])
        for index, (_, written) in enumerate(parts):
            assert (written.format(id=ids[index]) in path.read_text()) == (index != chosen)


def test_a_long_roster_is_edited_in_time_in_proportion(path: Path) -> None:
    def seconds(count: int) -> float:
        one = "  - id: t{:05}\n    name: A\n    tier: starter\n    owner: a@b.example\n\n"
        path.write_text("tenants:\n" + "".join(one.format(number) for number in range(count)))
        start = time.process_time()
        tenant("suspend", f"t{count // 2:05}")
        return time.process_time() - start

    seconds(10)  # the first use of a module is not what is measured
    assert seconds(4000) < 3 * 4 * seconds(1000)
