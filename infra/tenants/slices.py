"""Which part of the roster a stack owns, where one stack for all tenants would be too large.

A tenant is in the bucket that its id hashes to, for life, and the roster gives each bucket to one slice. So a
tenant changes its slice only when somebody changes the roster's `slices`, never because others come or go.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import pulumi

BUCKETS = 4096
"""Many more than there will be slices, so that one can be cut without cutting it anew for everybody."""

Slices = Mapping[str, Sequence[str]]
"""The buckets of each slice, as ranges such as `0-2047`."""


MANY = 500
"""Tenants in one stack, from which on its updates take long: their time grows with the square of its size."""


def advise(tenants: int) -> None:
    """Say so when a stack has become large; how long is too long is for those who wait to decide."""
    if tenants > MANY:
        pulumi.log.warn(
            f"This stack has {tenants} tenants, and an update's time grows with the square of them. Give the "
            "roster `slices` and each slice a stack of its own: docs/runbooks/cut-the-roster-into-slices.md."
        )


def bucket(tenant: str) -> int:
    """The bucket of a tenant's id, from 0 to `BUCKETS` - 1."""
    return int.from_bytes(hashlib.sha256(tenant.encode()).digest()[:2]) % BUCKETS


def buckets(ranges: Sequence[str]) -> frozenset[int]:
    """The buckets in such ranges, both ends included."""
    return frozenset(number for written in ranges for number in _range(written))


def not_a_partition(slices: Slices, tenants: Sequence[str]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Where the slices leave a bucket out or have one twice, and what becomes of which tenants."""
    if not slices:
        return
    owner: dict[int, str] = {}
    for name, ranges in slices.items():
        for index, written in enumerate(ranges):
            first, last = _ends(written)
            if first > last or last >= BUCKETS:
                yield (
                    (name, index),
                    f"{written} is no range of buckets, so {name} would get others than were meant; write "
                    f"the lower one first, from 0 to {BUCKETS - 1}",
                )
                return
            for other in sorted({owner[number] for number in _range(written) if number in owner}):
                both = [number for number in _range(written) if owner.get(number) == other]
                yield (
                    (name, index),
                    f"{_told(both)} in {other} already, so {_tenants_in(both, tenants)} would be declared by "
                    f"two stacks; leave them to {other} or to {name}",
                )
            owner |= dict.fromkeys(_range(written), name)
    if missing := [number for number in range(BUCKETS) if number not in owner]:
        yield (
            (),
            f"{_told(missing)} in no slice, so {_tenants_in(missing, tenants)} would be in no stack, and "
            "deleted where they were in one; give them to a slice",
        )


def _ends(written: str) -> tuple[int, int]:
    first, _, last = written.partition("-")
    return int(first), int(last)


def _range(written: str) -> range:
    first, last = _ends(written)
    return range(first, min(last, BUCKETS - 1) + 1)


def _told(numbers: Sequence[int]) -> str:
    """Buckets in ascending order as ranges, such as `buckets 3 and 7-9 are`."""
    present = frozenset(numbers)
    starts = [number for number in numbers if number - 1 not in present]
    ends = [number for number in numbers if number + 1 not in present]
    parts = [str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]
    shown = parts[:5] + (["…"] if len(parts) > 5 else [])
    return f"bucket {shown[0]} is" if len(numbers) == 1 else f"buckets {', '.join(shown)} are"


def _tenants_in(numbers: Sequence[int], tenants: Sequence[str]) -> str:
    """Who is in such buckets, now or one day."""
    inside = frozenset(numbers)
    found = [tenant for tenant in tenants if bucket(tenant) in inside]
    if not found:
        return "tenants to come"
    return f"{', '.join(found[:3])}{f' and {len(found) - 3} more' if len(found) > 3 else ''}"
