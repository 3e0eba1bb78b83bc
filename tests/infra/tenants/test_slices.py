"""The slices partition the roster, and a tenant's bucket is for life."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigurationError
from infra.tenants.roster import Roster, load_roster
from infra.tenants.slices import BUCKETS, bucket, buckets, not_a_partition

TENANTS = "tenants:\n" + "".join(
    f"  - {{id: t{number:03}, name: A, tier: starter, owner: a@b.example}}\n" for number in range(50)
)


def load(folder: Path, slices: str) -> Roster:
    path = folder / "tenants.yaml"
    path.write_text(f"{TENANTS}slices:\n{slices}\n")
    return load_roster(path)


def mistake(folder: Path, slices: str) -> str:
    with pytest.raises(ConfigurationError) as told:
        load(folder, slices)
    first, line = str(told.value).splitlines()
    assert first == "The roster has a mistake; nothing was changed."
    return line


# Written down: another hash would move every tenant of every environment to another stack.
@pytest.mark.parametrize(("tenant", "number"), [("acme", 555), ("bluebird", 1325), ("corvus", 1704)])
def test_a_bucket_is_for_life(tenant: str, number: int) -> None:
    assert bucket(tenant) == number


@given(st.from_regex(r"[a-z][a-z0-9]{2,30}", fullmatch=True))
def test_every_tenant_has_a_bucket(tenant: str) -> None:
    assert 0 <= bucket(tenant) < BUCKETS


def test_tenants_spread_evenly() -> None:
    share = sum(bucket(f"tenant{number}") < BUCKETS // 16 for number in range(16_000))
    assert 850 < share < 1150


def test_each_tenant_is_in_one_slice(tmp_path: Path) -> None:
    roster = load(tmp_path, "  a: [0-99, 3000-4095]\n  b: [100-2999]\n  new: []")
    shares = [roster.in_slice(name) for name in roster.slices]
    assert [len(share) > 0 for share in shares] == [True, True, False]
    assert sorted(entry.id for share in shares for entry in share) == [entry.id for entry in roster.tenants]


def test_a_new_slice_takes_from_the_one_that_is_cut_and_from_no_other(tmp_path: Path) -> None:
    before = load(tmp_path, "  a: [0-2047]\n  b: [2048-4095]")
    after = load(tmp_path, "  a: [0-2047]\n  b: [2048-3071]\n  c: [3072-4095]")
    assert after.in_slice("a") == before.in_slice("a")
    assert {*after.in_slice("b"), *after.in_slice("c")} == {*before.in_slice("b")}


@pytest.mark.parametrize(
    ("slices", "line", "told"),
    [
        ("  a: [0-2047]\n  b: [2049-4095]", 52, "bucket 2048 is in no slice, so tenants to come would be"),
        ("  a: [0-99]\n  b: [200-4000]", 52, "buckets 100-199, 4001-4095 are in no slice, so "),
        ("  a: [0-99]", 52, " and 44 more would be in no stack, and deleted where they were in one"),
        ("  a: [0-2047]\n  b: [2047-4095]", 54, "bucket 2047 is in a already"),
        ("  a: [0-4095]\n  b:\n    - 5-6", 55, "buckets 5-6 are in a already"),
        ("  a: [0-2047, 9-4]\n  b: [2048-4095]", 53, "9-4 is no range of buckets"),
        ("  a: [0-4096]", 53, "0-4096 is no range of buckets"),
        ("  a: 5", 53, "`slices.a`: 5 does not fit"),
        ("  a: ['05-4095']", 53, '`slices.a[0]`: "05-4095" does not fit'),
        ("  A: [0-4095]", 53, '`slices.A`: "A" does not fit'),
        ("  a: [0-4095]\n  a: []", 54, "`a` stands in line 53 already"),
    ],
)
def test_a_map_with_a_hole_or_an_overlap_is_refused(
    tmp_path: Path, slices: str, line: int, told: str
) -> None:
    message = mistake(tmp_path, slices)
    assert message.startswith(f"  - tenants.yaml:{line}: ")
    assert told in message


def test_whose_tenants_are_at_stake_is_told(tmp_path: Path) -> None:
    number = bucket("t007")
    message = mistake(tmp_path, f"  a: [0-{number}]\n  b: [{number}-4095]")
    assert f"bucket {number} is in a already, so t007 would be declared by two stacks" in message


ranges = st.lists(st.integers(0, BUCKETS), unique=True, max_size=6).map(
    lambda cuts: [
        f"{first}-{last - 1}"
        for first, last in zip([0, *sorted(cuts)], [*sorted(cuts), BUCKETS], strict=True)
        if first < last
    ]
)


@given(ranges, st.data())
def test_any_way_to_cut_is_a_partition_and_without_a_piece_it_is_none(
    pieces: list[str], data: st.DataObject
) -> None:
    slices = {f"s{index}": [piece] for index, piece in enumerate(pieces)}
    assert not list(not_a_partition(slices, []))
    assert len({number for ranges in slices.values() for number in buckets(ranges)}) == BUCKETS
    lost = data.draw(st.sampled_from(sorted(slices)))
    assert len(list(not_a_partition({**slices, lost: []}, []))) == 1
    assert len(list(not_a_partition({**slices, "twice": slices[lost]}, []))) == 1
