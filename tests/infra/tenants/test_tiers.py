"""The table of tiers, and that the component follows it and nothing else, from one tier to another, too."""

from collections.abc import Mapping
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.tenants.tiers import NEVER_CLAIMED, TIERS, TierName
from tests.infra.recording import Recorder, Registered
from tests.infra.tenants.test_tenant import of, registered

ORDER: tuple[TierName, ...] = ("starter", "professional", "enterprise", "private-cloud")
DATA = {
    *("newton-role", "newton-schema", "newton-tables", "newton-holdings", "newton-object-storage"),
    *("newton-prefix", "newton-storage-role", "newton-storage-key", "newton-policy", "newton-logins"),
}
"""What holds a tenant's data, or opens it."""


def entry(**fields: Any) -> dict[str, Any]:
    return {"id": "newton", "name": "N", "owner": "a@b.example", **fields}


def declared(folder: Path, **fields: Any) -> dict[str, Registered]:
    """What one tenant is made of."""
    return of(record(folder, **fields), "newton")


def record(folder: Path, **fields: Any) -> Recorder:
    path = folder / "tenants.yaml"
    path.write_text(yaml.safe_dump({"tenants": [entry(**fields)]}))
    return registered(path)


@pytest.fixture(scope="module")
def by_tier(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, dict[str, Registered]]:
    return {tier: declared(tmp_path_factory.mktemp(tier), tier=tier) for tier in ORDER}


def test_the_tiers_are_those_of_the_guide_at_its_prices() -> None:
    assert tuple(TIERS) == ORDER
    assert [tier.monthly_usd for tier in TIERS.values()] == [99, 299, 999, None]


def test_agents_of_each_tier_run_in_exactly_one_kind_of_place() -> None:
    for tier in TIERS.values():
        assert tier.shared_runtime + tier.dedicated_agent + tier.machine == 1
        assert tier.namespace == (tier.dedicated_agent or tier.machine)
        # Nobody pays for a volume that is not there; what is larger than the default can be had for it.
        assert (tier.default.workspace_gib > 0) == (tier.maximum.workspace_gib > 0) == tier.machine
        assert all(
            getattr(tier.default, part) <= getattr(tier.maximum, part)
            for part in ("cpu", "memory_gib", "workspace_gib")
        )


def test_nothing_of_a_tenants_runs_where_others_are_served() -> None:
    assert [tier.commands for tier in TIERS.values()] == [not tier.shared_runtime for tier in TIERS.values()]


def test_a_tier_has_all_that_a_lesser_one_may_claim() -> None:
    claims = [set(tier.claims) for tier in TIERS.values()]

    assert all(less < more for less, more in pairwise(claims))


def test_what_may_be_claimed_is_the_guides_list() -> None:
    def may(claim: str) -> list[str]:
        return [name for name, tier in TIERS.items() if tier.may_claim(claim)]

    assert may("Swiss-hosted infrastructure") == may("Banking-grade security standards") == list(ORDER)
    assert may("enterprise-grade  ISOLATION") == list(ORDER[1:])
    assert may("Dedicated virtual infrastructure") == may("Private environment") == list(ORDER[2:])
    assert may("Private cloud") == may("single-tenant") == ["private-cloud"]
    for claim in (*NEVER_CLAIMED, "Quantum-safe"):
        assert may(claim) == []


@pytest.mark.parametrize("tier", ORDER)
def test_agents_log_in_to_vault_from_where_they_run(
    by_tier: Mapping[str, dict[str, Registered]], tier: TierName
) -> None:
    found = by_tier[tier]["newton-login"]
    login = found.inputs

    assert login["tokenPolicies"] == ["tenant-newton"]
    if TIERS[tier].shared_runtime:
        assert found.type == "vault:jwt/authBackendRole:AuthBackendRole"
        assert (login["boundAudiences"], login["boundClaims"]) == (["vault"], {"tenant": "newton"})
        assert (login["roleType"], login["boundClaimsType"]) == ("jwt", "string")
        # Two tenants' people may have one name, and must not have one identity.
        assert login["userClaim"] == "tenant"
        assert login["tokenExplicitMaxTtl"] == 900
        return
    assert login["boundServiceAccountNames"] == ["agent"]
    assert login["boundServiceAccountNamespaces"] == ["tenant-newton"]
    # A machine has its account's ordinary token.
    assert login.get("audience") == (None if TIERS[tier].machine else "vault")


@pytest.mark.parametrize("state", ["suspended", "offboarding"])
@pytest.mark.parametrize("tier", ORDER)
def test_nobody_logs_in_for_a_tenant_that_is_not_active(tmp_path: Path, tier: str, state: str) -> None:
    leaving = {"offboarding": {"backup": "waived", "reason": "none wanted"}} if state == "offboarding" else {}

    own = declared(tmp_path, tier=tier, state=state, **leaving)

    assert "newton-login" not in own
    for name, found in own.items():
        if name == "newton-deployment":
            assert found.inputs["spec"]["replicas"] == 0
        if name == "newton-machine":
            assert found.inputs["spec"]["runStrategy"] == "Halted"


@pytest.mark.parametrize(("before", "after"), list(permutations(ORDER, 2)))
def test_a_move_keeps_schema_secrets_and_prefix(
    by_tier: Mapping[str, dict[str, Registered]], before: str, after: str
) -> None:
    """The same resources with the same inputs, but for how many connections logins to come may hold."""
    old, new = by_tier[before], by_tier[after]

    for name in DATA:
        assert kept(new[name]) == kept(old[name])


def kept(resource: Registered) -> dict[str, Any]:
    return {key: value for key, value in resource.inputs.items() if key != "creationStatements"}


@pytest.mark.parametrize(
    ("before", "after"), [("enterprise", "private-cloud"), ("private-cloud", "enterprise")]
)
def test_a_move_between_tiers_with_machines_keeps_the_volume(
    tmp_path: Path, by_tier: Mapping[str, dict[str, Registered]], before: str, after: str
) -> None:
    size = by_tier[before]["newton-workspace"].inputs["spec"]["resources"]["requests"]["storage"]
    new = declared(tmp_path, tier=after, sizes={"workspaceGib": int(size.removesuffix("Gi"))})

    assert new["newton-workspace"].inputs["spec"] == by_tier[before]["newton-workspace"].inputs["spec"]


@pytest.mark.parametrize("tier", ["starter", "professional"])
def test_a_volume_is_kept_by_a_tier_without_a_machine_if_the_roster_says_so(
    tmp_path: Path, by_tier: Mapping[str, dict[str, Registered]], tier: str
) -> None:
    old = by_tier["enterprise"]
    new = declared(tmp_path, tier=tier, keep=["workspace"], sizes={"workspaceGib": 50})

    for name in ("newton-workspace", "newton-workspace-encryption"):
        kept = dict(new[name].inputs)
        labels = kept.pop("metadata").pop("labels")
        assert kept == {key: value for key, value in old[name].inputs.items() if key != "metadata"}
        assert labels["tier"] == tier
        assert new[name].protect
    assert new["newton-workspace-key"].inputs == old["newton-workspace-key"].inputs
    hard = new["newton-quota"].inputs["spec"]["hard"]
    assert (hard["persistentvolumeclaims"], hard["requests.storage"]) == ("1", "50Gi")
    if tier == "starter":
        # Nothing runs beside the volume, and nothing could.
        assert hard["pods"] == "0"
        assert {item["type"] for item in new["newton-limits"].inputs["spec"]["limits"]} == {
            "Container",
            "PersistentVolumeClaim",
        }
        policies = [name for name in new if name.startswith(("newton-to-", "newton-from-"))]
        assert "newton-default-deny" in new
        assert policies == []
        assert "newton-agent" not in new


def test_a_machine_leaves_nodes_before_they_go(by_tier: Mapping[str, dict[str, Registered]]) -> None:
    own = by_tier["private-cloud"]["newton-machine"].inputs["spec"]["template"]["spec"]
    shared = by_tier["enterprise"]["newton-machine"].inputs["spec"]["template"]["spec"]

    assert own["nodeSelector"] == {"tenant-id": "newton"}
    # An empty one would be refused when it takes the place of another.
    assert "nodeSelector" not in shared


def test_a_pod_of_its_own_keeps_to_the_restricted_standard(
    by_tier: Mapping[str, dict[str, Registered]],
) -> None:
    own = by_tier["professional"]
    spec = own["newton-deployment"].inputs["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]

    level = own["newton-namespace"].inputs["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert level == "restricted"
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert {key: container["resources"]["limits"][key] for key in ("cpu", "memory")} == {
        "cpu": "2",
        "memory": "4Gi",
    }
    assert "@sha256:" in container["image"]
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
    (token,) = next(volume for volume in pod["volumes"] if "projected" in volume)["projected"]["sources"]
    assert token["serviceAccountToken"]["audience"] == "vault"
