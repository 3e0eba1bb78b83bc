"""Who must approve what."""

import subprocess

import pytest
import yaml

from local.paths import ROOT
from review.approvals import RULES, Affected, Approval, approvals
from review.changes import Changes, compare
from tests.review.examples import CLAIM, POLICY, plan, step, tenant_urn

NOTHING = Changes(made=(), pending=(), settled=())


def who(found: tuple[Approval, ...]) -> dict[str, str]:
    return {
        approval.person or approval.approver: "; ".join(
            f"{reason.because}: {', '.join(reason.causes)}" for reason in approval.reasons
        )
        for approval in found
    }


def affected(fate: str) -> tuple[Affected, ...]:
    return (Affected(id="acme", owner="it@acme.example", fate=fate),)


@pytest.mark.parametrize("fate", ["moved", "changed", "suspended"])
def test_the_owner_approves_what_changes_his_tenant(fate: str) -> None:
    assert who(approvals(NOTHING, affected(fate), (), ())) == {
        "it@acme.example": f"the tenant changes: acme ({fate})"
    }


def test_a_new_tenant_is_the_platforms_to_approve() -> None:
    assert list(who(approvals(NOTHING, affected("added"), (), ()))) == ["the platform team"]


@pytest.mark.parametrize("fate", ["offboarding", "removed"])
def test_a_leaving_tenant_takes_its_owner_and_the_platform(fate: str) -> None:
    assert list(who(approvals(NOTHING, affected(fate), (), ()))) == ["it@acme.example", "the platform team"]


def test_lost_data_takes_the_platform() -> None:
    lost = compare(plan(), plan(step(CLAIM, "w", "delete", parent=tenant_urn("acme"))), from_state=True)
    assert who(approvals(lost, (), (), ())) == {"the platform team": "data would be deleted: acme: w"}


def test_weaker_isolation_takes_security() -> None:
    assert list(who(approvals(NOTHING, (), ("acme",), ()))) == ["the security team"]


def test_access_takes_security_where_it_is_everybodys_not_where_it_is_a_tenants() -> None:
    shared = compare(plan(), plan(step(POLICY, "operators", "update")), from_state=True)
    own = compare(plan(), plan(step(POLICY, "p", "create", parent=tenant_urn("acme"))), from_state=True)
    assert who(approvals(shared, (), (), ())) == {
        "the security team": "the network or somebody's access changes: operators"
    }
    assert approvals(own, (), (), ()) == ()


@pytest.mark.parametrize(
    ("path", "teams"),
    [
        ("tenants.yaml", []),
        ("docs/operations.md", ["the platform team"]),
        ("images/machine.py", ["the platform team"]),
        (".ci/run", ["the platform team"]),
        ("tests/policy/test_judge.py", ["the platform team"]),
        ("pyproject.toml", ["the platform team"]),
        ("a-folder-of-tomorrow/file", ["the platform team"]),
        ("infra/tenants/tiers.py", ["the platform team"]),
        ("Pulumi.prod.yaml", ["the platform team"]),
        ("policy/pods.py", ["the security team"]),
        (".github/workflows/up.yaml", ["the security team"]),
        ("infra/cluster/network.py", ["the platform team", "the security team"]),
    ],
)
def test_files_have_their_teams(path: str, teams: list[str]) -> None:
    assert list(who(approvals(NOTHING, (), (), (path,)))) == teams


def test_code_owners_name_the_same_teams_for_the_same_files() -> None:
    """GitHub asks whom CODEOWNERS names; it must be whom the review names."""
    lines = (ROOT / ".github/CODEOWNERS").read_text(encoding="utf-8").splitlines()
    owned = [line.split() for line in lines if line and not line.startswith("#")]
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")[:-1]
    assert "tenants.yaml" in tracked
    for name in [*tracked, "a-folder-of-tomorrow/file", "a-file-of-tomorrow"]:
        (owners,) = [owners for path, *owners in owned if owns(path, name)][-1:]
        teams = {team.rpartition("/")[2] for team in owners}
        named = {approval.approver.split()[1] for approval in approvals(NOTHING, (), (), (name,))}
        assert teams == named, name


def owns(pattern: str, name: str) -> bool:
    """Return whether a line of CODEOWNERS fits a file, for the kinds of lines that ours has."""
    if pattern == "*":
        return True
    assert pattern.startswith("/"), pattern
    return name.startswith(pattern[1:]) if pattern.endswith("/") else name == pattern[1:]


def test_every_rule_names_a_known_approver_and_a_known_condition() -> None:
    document = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    for rule in document["rules"]:
        assert rule["approver"] in document["approvers"]
        assert rule["when"].keys() <= {"tenants", "losses", "weaker", "types", "paths", "unnamed"}
