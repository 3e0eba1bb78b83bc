"""What the workflows may do: least rights, pinned actions, nobody's code beside the right to write."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from local import __main__ as command
from local.paths import ROOT
from review.markdown import LIMIT, MARKER

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
ACTIONS = sorted((ROOT / ".github" / "actions").rglob("action.yaml"))


def load(path: Path) -> dict[Any, Any]:
    document: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return document


def workflow(name: str) -> dict[Any, Any]:
    return load(ROOT / ".github" / "workflows" / f"{name}.yaml")


def steps(document: dict[Any, Any]) -> Iterator[dict[str, Any]]:
    for job in document.get("jobs", {"action": document.get("runs")}).values():
        yield from job["steps"]


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=lambda path: path.name)
def test_actions_are_pinned_by_commit_with_their_release_beside_it(path: Path) -> None:
    used = re.findall(r"uses: (\S+)(.*)", path.read_text(encoding="utf-8"))
    assert used
    for action, comment in used:
        if not action.startswith("./"):
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", action), action
            assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), action


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_workflow_may_write_but_the_one_that_comments(path: Path) -> None:
    document = load(path)
    rights = [document["permissions"], *(job.get("permissions", {}) for job in document["jobs"].values())]
    writing = {right for given in rights for right, level in given.items() if level == "write"}
    assert writing == ({"pull-requests"} if path.stem == "comment" else set())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_secrets_reach_only_the_step_that_needs_them(path: Path) -> None:
    document = load(path)
    with_secrets = [step for step in steps(document) if "secrets." in yaml.safe_dump(step)]
    for job in document["jobs"].values():
        job.pop("steps")
    assert "secrets." not in yaml.safe_dump(document)
    assert len(with_secrets) == {"comment": 0, "up": 2}.get(path.stem, 1)
    assert all("uses" not in step for step in with_secrets)


def test_whatever_became_of_a_drill_its_outcome_is_told_by_an_account_of_its_own() -> None:
    (tell,) = [step for step in steps(workflow("drill")) if "secrets." in yaml.safe_dump(step)]
    assert tell["if"] == "always()"
    assert tell["env"] == {"DRILL_KUBECONFIG": "${{ secrets.DRILL_KUBECONFIG }}"}


def test_whatever_became_of_an_update_a_copy_of_the_state_is_kept_without_the_passphrase() -> None:
    (copy,) = [step for step in steps(workflow("up")) if "restore.state keep" in step.get("run", "")]
    assert copy["if"] == "always()"
    assert "PASSPHRASE" not in yaml.safe_dump(copy)
    assert "--show-secrets" not in copy["run"]
    zone = yaml.safe_load((ROOT / "Pulumi.prod.yaml").read_text())["config"]["agent-platform:cluster"]["zone"]
    assert (copy["env"]["AWS_ENDPOINT_URL"], copy["env"]["AWS_REGION"]) == (
        f"https://sos-{zone}.exo.io",
        zone,
    )


def test_the_workflow_that_comments_runs_nothing_of_the_pull_request() -> None:
    document = workflow("comment")
    assert set(document[True]) == {"workflow_run"}  # YAML 1.1 takes `on` for true
    used = [step["uses"].partition("@")[0] for step in steps(document)]
    assert used == ["actions/download-artifact", "actions/github-script"]
    assert (
        "${{"
        not in next(step for step in steps(document) if "github-script" in step["uses"])["with"]["script"]
    )


def test_the_comment_is_found_by_the_line_that_the_review_begins_with() -> None:
    script = (ROOT / ".github/workflows/comment.yaml").read_text(encoding="utf-8")
    assert f"const marker = '{MARKER}';" in script
    assert LIMIT < 65_000


def test_what_runs_a_pull_requests_code_holds_no_credential_of_the_repository() -> None:
    document = workflow("preview")
    assert set(document[True]) == {"pull_request"}
    assert document["permissions"] == {"contents": "read"}
    checkout = next(step for step in steps(document) if step.get("uses", "").startswith("actions/checkout"))
    assert checkout["with"] == {"fetch-depth": 0, "persist-credentials": False}


def test_up_and_drift_never_meet_and_up_is_for_main_alone() -> None:
    up, drift = workflow("up"), workflow("drift")
    assert up["concurrency"] == drift["concurrency"] == {"group": "production", "cancel-in-progress": False}
    assert up[True] == {"push": {"branches": ["main"]}}
    assert up["jobs"]["up"]["environment"] == "production"
    assert "--expect-no-changes" in list(steps(drift))[-1]["run"]


def test_actionlint_agrees() -> None:
    assert command.main(["actionlint"]) == 0


def test_actionlint_tells_a_mistake_in_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".github/workflows").mkdir(parents=True)
    (tmp_path / ".github/workflows/up.yaml").write_text("on: pus\njobs: {}\n")
    monkeypatch.setattr(command, "ROOT", tmp_path)
    assert command.main(["actionlint"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: The workflows have mistakes")
    assert 'unknown Webhook event "pus"' in told
