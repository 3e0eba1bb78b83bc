"""The editors' schema says what the program says of an entry, and is up to date."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from infra.errors import ConfigurationError
from infra.tenants.roster import load_roster
from infra.tenants.tiers import TIERS
from local import roster_schema
from local.paths import ROOT

KEYS = ("xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=")
DIGEST = f"@sha256:{'0' * 64}"
IMAGE_TAILS = ("", ":1", ":latest", DIGEST, f":1{DIGEST}", f":1{DIGEST}0")
VALIDATOR = Draft7Validator(roster_schema.schema())


def test_the_file_is_up_to_date() -> None:
    assert roster_schema.PATH.read_text() == roster_schema.text(), "stale; run: python -m local schema"


def test_it_is_a_schema_and_the_roster_names_it_in_its_first_line() -> None:
    Draft7Validator.check_schema(roster_schema.schema())
    first, *_ = (ROOT / "tenants.yaml").read_text().splitlines()
    assert first == f"# yaml-language-server: $schema={roster_schema.PATH.name}"
    assert roster_schema.PATH.parent == ROOT


def test_every_key_is_described() -> None:
    for name, section in roster_schema.schema()["$defs"].items():
        for key, field in section["properties"].items():
            assert field.get("description"), f"{name}.{key}"


@pytest.mark.parametrize(
    ("more", "accepted"),
    [
        ({"retired": ["umbrella"], "slices": {"a": ["0-4095"], "b": []}}, True),
        ({"retired": ["Umbrella"]}, False),
        ({"retired": "umbrella"}, False),
        ({"slices": {"A": ["0-4095"]}}, False),
        ({"slices": {"a": ["0-04095"]}}, False),
        ({"slices": {"a": [4095]}}, False),
        ({"slices": {"a": "0-4095"}}, False),
        ({"other": 1}, False),
    ],
)
def test_it_accepts_what_stands_beside_the_tenants_when_the_program_does(
    tmp_path: Path, more: dict[str, Any], accepted: bool
) -> None:
    path = tmp_path / "tenants.yaml"
    path.write_text(json.dumps({"tenants": [], **more}))

    assert VALIDATOR.is_valid({"tenants": [], **more}) == accepted
    if accepted:
        load_roster(path)
    else:
        with pytest.raises(ConfigurationError):
            load_roster(path)


def _maybe(values: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=values)


junk = st.sampled_from([None, "", "x y", 0, -1, True, 2.5, [], ["x"], {}, {"x": 1}])
size = st.sampled_from([1, 2, 3, 5, 9, 21, 101, 501, 2001]) | junk
peer = st.fixed_dictionaries(
    {"name": st.sampled_from(["office", "a-b", "-a", "A"]), "publicKey": st.sampled_from([*KEYS, "A" * 44])}
)
entries = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["acme", "vault", "a-b", "Acme", "a" * 31, "a" * 32]) | junk,
        "name": st.sampled_from(["Acme AG", " x", "x" * 81, "A\u202ecme", "\u200b"]) | junk,
        "tier": st.sampled_from([*TIERS, "gold"]) | junk,
        "owner": st.sampled_from(["ops@acme.example", "nobody"]) | junk,
    }
) | st.fixed_dictionaries(
    # Right in all but what follows, so that the rules between keys get their turn.
    {
        "id": st.just("acme"),
        "name": st.just("Acme"),
        "tier": st.sampled_from([*TIERS]),
        "owner": st.just("ops@acme.example"),
    },
    optional={
        "state": st.sampled_from(["active", "suspended", "offboarding"]),
        "sizes": _maybe({"cpu": size, "memoryGib": size, "workspaceGib": size}) | junk,
        "idleSeconds": st.sampled_from([59, 60, 900, 86400, 86401]) | junk,
        "overrides": _maybe(
            {"image": st.sampled_from([*(f"r.example/a{tail}" for tail in IMAGE_TAILS)]) | junk}
        ),
        "keep": st.lists(st.sampled_from(["workspace", "database"]), max_size=2) | junk,
        "discard": st.lists(st.sampled_from(["workspace", "database"]), max_size=2) | junk,
        "vpn": _maybe({"peers": st.lists(peer, max_size=1) | junk}) | junk,
        "ownDatabase": st.booleans() | junk,
        "claims": st.lists(st.sampled_from(["Private cloud", "", " x"]), max_size=2) | junk,
        "offboarding": _maybe({"backup": st.sampled_from(["final", "waived"]), "reason": st.just("a trial")})
        | junk,
        "other": junk,
    },
)


@settings(deadline=None)
@given(entries)
def test_it_accepts_an_entry_exactly_when_the_program_does(
    tmp_path_factory: pytest.TempPathFactory, entry: dict[str, Any]
) -> None:
    roster = {"tenants": [entry]}
    path: Path = tmp_path_factory.getbasetemp() / "tenants.yaml"
    path.write_text(json.dumps(roster))  # which is YAML, and has no anchors
    try:
        load_roster(path)
        told = ""
    except ConfigurationError as error:
        told = str(error)

    refused = [error.message for error in VALIDATOR.iter_errors(roster)]

    assert bool(refused) == bool(told), json.dumps([roster, refused, told], indent=1)
