"""The engine's refusals to delete what is protected, as it words them, become what to write."""

from pathlib import Path

import pytest

from infra.tenants.slices import bucket
from local import losses

REFUSED = """\
error: resource "urn:pulumi:x::x::agent-platform:tenants:Tenant${type}::{name}" cannot be {verb}
because it is protected. To unprotect the resource, either remove the `protect` flag from the resource in your
"""


def refused(*names: str, verb: str = "deleted") -> str:
    types = "pulumi-python:dynamic/agent-platform:Prefix"
    return "".join(REFUSED.format(type=types, name=name, verb=verb) for name in names)


@pytest.fixture
def roster(tmp_path: Path) -> Path:
    path = tmp_path / "tenants.yaml"
    path.write_text("tenants:\n  - {id: acme, name: A, tier: enterprise, owner: a@b.example}\n")
    return path


def test_dropped_entries_are_told_together(roster: Path) -> None:
    (told,) = losses.reasons(refused("bluebird-prefix", "bluebird-schema", "corvus-holdings"), roster)

    assert told.startswith("error: bluebird, corvus: no longer in the roster")
    assert "state: offboarding" in told


def test_one_dropped_entry_is_told_in_the_singular(roster: Path) -> None:
    (told,) = losses.reasons(refused("bluebird-prefix"), roster)

    assert "all that it has would be deleted" in told
    assert "Put the entry back" in told


@pytest.mark.parametrize("verb", ["deleted", "replaced"])
def test_a_part_of_a_tenant_that_stays_is_named(roster: Path, verb: str) -> None:
    (told,) = losses.reasons(refused("acme-workspace", "acme-namespace", verb=verb), roster)

    assert told.startswith("error: acme: namespace, workspace would be deleted")
    assert "discard: [workspace]" in told


def test_another_failure_is_none_of_its_business(roster: Path) -> None:
    assert not list(losses.reasons("error: something else", roster))


def test_a_tenant_of_another_slice_is_told_to_be_moved(tmp_path: Path) -> None:
    roster = tmp_path / "tenants.yaml"
    number = bucket("acme")
    roster.write_text(
        "tenants:\n  - {id: acme, name: A, tier: starter, owner: a@b.example}\n"
        f"slices: {{left: [0-{number - 1}], right: [{number}-4095]}}\n"
    )

    (told,) = losses.reasons(refused("acme-schema"), roster, "left")

    assert told.startswith("error: acme: no longer in slice left, so this stack would delete")
    assert "would be deleted, and the data with it" in next(
        losses.reasons(refused("acme-schema"), roster, "right")
    )
