"""The program itself, planned from nothing with everything a roster can ask for."""

from pathlib import Path

import pytest
from pulumi import automation as auto

from local import engine
from local.errors import LocalError

_ROSTER = """\
tenants:
  - {id: alder, name: Alder, tier: starter, owner: it@alder.example, claims: [Secure Multi-Tenant Platform]}
  - {id: birch, name: Birch, tier: starter, owner: it@birch.example, state: suspended}
  - {id: cedar, name: Cedar, tier: professional, owner: it@cedar.example, sizes: {cpu: 4, memoryGib: 8}}
  - {id: dogwood, name: Dogwood, tier: professional, owner: it@dogwood.example,
     keep: [workspace], sizes: {workspaceGib: 50}}
  - {id: elm, name: Elm, tier: enterprise, owner: it@elm.example, claims: [Private environment],
     vpn: {peers: [{name: laptop, publicKey: "KIkhHTBKcbtOVTLFcSN4+B4HcUmsJvHrR8pCHqDVSAA="}]}}
  - {id: fir, name: Fir, tier: enterprise, owner: it@fir.example,
     state: offboarding, offboarding: {backup: final}}
  - {id: ginkgo, name: Ginkgo, tier: private-cloud, owner: it@ginkgo.example,
     ownDatabase: true, claims: [Private cloud, Single-tenant]}
"""


def test_a_plan_from_nothing_keeps_every_rule_and_says_what_it_cannot_judge(
    engine_ready: None, tmp_path: Path
) -> None:
    roster = tmp_path / "tenants.yaml"
    roster.write_text(_ROSTER, encoding="utf-8")
    told: set[tuple[str, str]] = set()

    def watch(event: auto.EngineEvent) -> None:
        if finding := event.policy_event:
            assert "cannot be judged at preview" in finding.message
            told.add((finding.policy_name, (finding.resource_urn or "").rpartition("::")[2]))

    stack = engine.stack("prod", settings={"agent-platform:roster": str(roster)})
    planned = engine.preview(stack, output=lambda _line: None, on_event=watch)

    assert planned["create"] > 200
    assert told == {
        # The address of a load balancer that does not exist yet.
        ("network-tls", "platform-vault-provider"),
        ("network-tls", "ginkgo-database-connection"),
        # A database that does not, and a role.
        ("data-schema-backed-up", "ginkgo-own-schema"),
        ("access-no-public", "ginkgo-database-issuer"),
        # A password that is yet to be drawn.
        ("data-no-plaintext-secret", "platform-vault-database-connection"),
        ("data-no-plaintext-secret", "ginkgo-database-connection"),
        # These search everything there is; told once for the whole stack.
        ("data-no-plaintext-secret", "agent-platform-prod"),
        ("honesty-words", "agent-platform-prod"),
    }


@pytest.mark.parametrize(
    ("claim", "rule"),
    [("Private cloud", "honesty-claim-of-tier"), ("Dedicated cloud", "honesty-never-claimed")],
)
def test_a_claim_beyond_the_tier_is_refused(
    engine_ready: None, tmp_path: Path, claim: str, rule: str
) -> None:
    roster = tmp_path / "tenants.yaml"
    roster.write_text(
        f"tenants:\n  - {{id: elm, name: Elm, tier: enterprise, owner: it@elm.example, claims: [{claim}]}}\n",
        encoding="utf-8",
    )

    with pytest.raises(LocalError, match=rf"(?s)Nothing was changed.*{rule} tenant elm"):
        engine.preview(
            engine.stack("prod", settings={"agent-platform:roster": str(roster)}), output=lambda _line: None
        )
