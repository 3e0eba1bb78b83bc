"""What the engine is told to protect, and in which order it may delete, by a tenant's state."""

import json
from pathlib import Path

import pytest

from tests.infra.recording import Registered
from tests.infra.tenants.test_tiers import declared

WAIVED = {"backup": "waived", "reason": "none wanted"}
ALWAYS = {
    "newton-registration",
    "newton-role",
    "newton-schema",
    "newton-tables",
    "newton-holdings",
    "newton-prefix",
}
VOLUME = {
    "newton-namespace",
    "newton-workspace",
    "newton-workspace-key",
    "newton-workspace-encryption",
}


def names(own: dict[str, Registered]) -> set[str]:
    """Of what is protected."""
    return {name for name, found in own.items() if found.protect}


def is_leaving(own: dict[str, Registered]) -> bool:
    """Return True if the machine is told to hand its workspace over."""
    data = own["newton-cloud-init"].inputs["stringData"]
    told = json.loads(data.get("value", data)["userdata"].partition("\n")[2])
    leaving: bool = json.loads(told["write_files"][0]["content"])["leaving"]
    return leaving


@pytest.mark.parametrize("state", ["active", "suspended"])
@pytest.mark.parametrize(
    ("tier", "kept"),
    [
        ("starter", ALWAYS),
        ("professional", ALWAYS),
        ("enterprise", ALWAYS | VOLUME),
        ("private-cloud", ALWAYS | VOLUME),
    ],
)
def test_what_holds_data_is_protected_as_long_as_the_tenant_stays(
    tmp_path: Path, tier: str, kept: set[str], state: str
) -> None:
    assert names(declared(tmp_path, tier=tier, state=state)) == kept


@pytest.mark.parametrize("tier", ["starter", "professional", "enterprise", "private-cloud"])
def test_nothing_of_a_leaving_tenant_is_protected(tmp_path: Path, tier: str) -> None:
    assert names(declared(tmp_path, tier=tier, state="offboarding", offboarding=WAIVED)) == set()


def test_what_may_be_discarded_is_not_protected_and_really_goes(tmp_path: Path) -> None:
    own = declared(tmp_path, tier="enterprise", discard=["workspace"])

    assert names(own) == ALWAYS
    assert not own["newton-workspace"].retain_on_delete
    assert names(declared(tmp_path, tier="enterprise", discard=["database"])) == (ALWAYS | VOLUME) - {
        "newton-schema",
        "newton-tables",
    }


def test_the_volume_of_a_moving_tenant_may_go_and_all_else_stays(tmp_path: Path) -> None:
    own = declared(tmp_path, tier="enterprise", state="moving")

    assert names(own) == ALWAYS
    assert not own["newton-workspace"].retain_on_delete
    assert not own["newton-workspace-encryption"].retain_on_delete


def test_a_moving_tenants_machine_runs_for_its_handover_and_for_nobody_else(tmp_path: Path) -> None:
    own = declared(tmp_path, tier="enterprise", state="moving")

    assert own["newton-machine"].inputs["spec"]["runStrategy"] == "Manual"
    assert is_leaving(own)
    assert "newton-login" in own, "without a login it cannot reach the prefix"
    assert "newton-route" in own["newton-machine"].depends_on, "or the gateway would start it"
    assert {"newton-machine", "newton-route"} <= set(own["newton-handover"].depends_on)


def test_a_machine_is_told_which_of_its_tenants_it_is(tmp_path: Path) -> None:
    own = declared(tmp_path, tier="enterprise")

    assert own["newton-generation"].type.endswith("Generation")
    assert "newton-generation" not in declared(
        tmp_path, tier="professional", keep=["workspace"], sizes={"workspaceGib": 50}
    )


@pytest.mark.parametrize("state", ["active", "suspended"])
def test_nobody_else_is_told_to_leave(tmp_path: Path, state: str) -> None:
    own = declared(tmp_path, tier="enterprise", state=state)

    assert "newton-handover" not in own
    assert not is_leaving(own)


def test_a_database_of_its_own_is_protected_as_the_schema_in_it(tmp_path: Path) -> None:
    own = declared(tmp_path, tier="private-cloud", ownDatabase=True)

    assert {"newton-database", "newton-own-schema", "newton-role"} <= names(own)


@pytest.mark.parametrize("tier", ["starter", "professional", "enterprise", "private-cloud"])
def test_everything_comes_after_the_registration_and_so_goes_before_it(tmp_path: Path, tier: str) -> None:
    own = declared(tmp_path, tier=tier)

    for name, found in own.items():
        if name not in ("newton", "newton-registration"):
            assert "newton-registration" in found.depends_on, name


def test_a_final_backup_is_taken_once_everything_is_off(tmp_path: Path) -> None:
    own = declared(tmp_path, tier="enterprise", state="offboarding", offboarding={"backup": "final"})

    assert "newton-machine" in own["newton-final-backup"].depends_on
    assert own["newton-machine"].inputs["spec"]["runStrategy"] == "Halted"


@pytest.mark.parametrize(
    "fields", [{}, {"state": "suspended"}, {"state": "offboarding", "offboarding": WAIVED}]
)
def test_no_backup_is_taken_of_whoever_stays_or_wants_none(tmp_path: Path, fields: dict[str, object]) -> None:
    assert "newton-final-backup" not in declared(tmp_path, tier="enterprise", **fields)
