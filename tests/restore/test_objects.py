"""Objects come back from their versions: nothing else is touched, and nothing is lost by it."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from restore.errors import RestoreError
from restore.objects import Objects
from tests.restore.conftest import BUCKET, client, second

numbers = itertools.count()


@pytest.fixture
def s3(servers: None) -> Any:
    return client()


@pytest.fixture
def prefix() -> str:
    """One that no other test has."""
    return f"tenant_t{next(numbers)}/"


def put(s3: Any, key: str, body: bytes) -> None:
    s3.put_object(Bucket=BUCKET, Key=key, Body=body)


def contents(s3: Any, prefix: str) -> dict[str, bytes]:
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return {
        item["Key"].removeprefix(prefix): s3.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read()
        for item in listed
    }


def restored(s3: Any, prefix: str, at: datetime) -> list[str]:
    objects = Objects(s3, BUCKET, prefix, at)
    objects.apply(objects.plan())
    return objects.differences()


def test_what_was_changed_deleted_and_added_since_is_undone(s3: Any, prefix: str) -> None:
    for name, body in (("changed", b"one"), ("deleted", b"two"), ("same", b"three")):
        put(s3, prefix + name, body)
    before, at = contents(s3, prefix), second()
    put(s3, prefix + "changed", b"other")
    put(s3, prefix + "added", b"new")
    s3.delete_object(Bucket=BUCKET, Key=prefix + "deleted")

    plan = Objects(s3, BUCKET, prefix, at).plan()

    assert [(change.what, change.then.partition(" of ")[0]) for change in plan.changes] == [
        ("added", "nothing"),
        ("changed", "3 bytes"),
        ("deleted", "3 bytes"),
    ]
    assert plan.same == 1
    assert restored(s3, prefix, at) == []
    assert contents(s3, prefix) == before


def test_a_restore_can_be_undone_by_a_restore(s3: Any, prefix: str) -> None:
    put(s3, prefix + "a", b"old")
    at = second()
    put(s3, prefix + "a", b"new")
    put(s3, prefix + "b", b"new")
    latest = contents(s3, prefix)
    # At once: what the plan tells as the way back is enough.
    told = Objects(s3, BUCKET, prefix, at).plan().way_back
    undo = datetime.fromisoformat(told.rpartition(" ")[2].rstrip("."))
    assert restored(s3, prefix, at) == []
    assert contents(s3, prefix) == {"a": b"old"}
    assert restored(s3, prefix, undo) == []
    assert contents(s3, prefix) == latest


def test_a_neighbour_whose_name_begins_alike_is_left_alone(s3: Any, prefix: str) -> None:
    neighbour = prefix.rstrip("/") + "0/"
    for each in (prefix, neighbour):
        put(s3, each + "a", b"old")
    at = second()
    for each in (prefix, neighbour):
        put(s3, each + "a", b"new")
    restored(s3, prefix, at)
    assert contents(s3, neighbour) == {"a": b"new"}


def test_nothing_to_bring_back_is_no_plan(s3: Any, prefix: str) -> None:
    put(s3, prefix + "a", b"one")
    plan = Objects(s3, BUCKET, prefix, second()).plan()
    assert (list(plan.changes), plan.same) == ([], 1)


def test_a_time_before_the_first_version_is_refused(s3: Any, prefix: str) -> None:
    put(s3, prefix + "a", b"one")
    with pytest.raises(RestoreError, match=r"has no version from before .*; choose a later time"):
        Objects(s3, BUCKET, prefix, datetime.now(UTC) - timedelta(days=1)).plan()
    assert contents(s3, prefix) == {"a": b"one"}


def test_a_prefix_with_nothing_below_it_is_refused(s3: Any, prefix: str) -> None:
    with pytest.raises(RestoreError, match="holds nothing, not even older versions"):
        Objects(s3, BUCKET, prefix, datetime.now(UTC)).plan()


def test_a_difference_is_found(s3: Any, prefix: str) -> None:
    put(s3, prefix + "a", b"old")
    at = second()
    put(s3, prefix + "a", b"new")
    (found,) = Objects(s3, BUCKET, prefix, at).differences()
    assert found.startswith(f"{prefix}a: 3 bytes of ")


def test_what_was_written_and_deleted_within_a_second_counts_as_there(s3: Any, prefix: str) -> None:
    second()
    put(s3, prefix + "a", b"one")
    s3.delete_object(Bucket=BUCKET, Key=prefix + "a")
    at = second()
    put(s3, prefix + "a", b"other")
    assert restored(s3, prefix, at) == []
    assert contents(s3, prefix) == {"a": b"one"}


steps = st.lists(
    st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.binary(min_size=1, max_size=3))),
    max_size=3,
    unique_by=lambda step: step[0],
)


@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
    phases=[Phase.generate],
)
@given(before=steps, after=steps)
def test_whatever_has_happened_the_time_before_comes_back(
    s3: Any, before: list[tuple[str, bytes | None]], after: list[tuple[str, bytes | None]]
) -> None:
    prefix = f"tenant_t{next(numbers)}/"
    put(s3, prefix + "first", b"there is one")

    def do(changes: list[tuple[str, bytes | None]]) -> None:
        for name, body in changes:
            if body is None:
                s3.delete_object(Bucket=BUCKET, Key=prefix + name)
            else:
                put(s3, prefix + name, body)

    do(before)
    expected, at = contents(s3, prefix), second()
    do(after)
    assert restored(s3, prefix, at) == []
    assert contents(s3, prefix) == expected
