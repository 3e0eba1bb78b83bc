"""The soak's results, and the findings that make it fail."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypedDict

from local.soak import witness

Window = tuple[float, float]
"""A begin and an end, in seconds since the epoch."""


class Ended(TypedDict):
    """An update by its name, and how it failed, if so."""

    name: str
    failure: str


class Work(TypedDict):
    """One kind of the witnesses' work: p95 in seconds, without and with harm; how many pieces, and failed."""

    quiet: float
    loud: float
    pieces: int
    failed: int
    failure: str
    """The first."""


class Soaked(TypedDict):
    """All that came of it."""

    updates: list[Ended]
    receipts: dict[str, str]
    """Of each tenant that was removed, what is wrong with its receipt; empty where it is as it should be."""
    attempts: int
    denied: int
    leaked: int
    findings: list[str]
    """A line for each attack or harm that was not denied to everybody."""
    left: str
    """The changes that a preview still shows; empty if there are none."""
    work: dict[str, Work]
    """By kind."""


def without(windows: Iterable[Window], breaks: Iterable[Window]) -> list[Window]:
    """Return what is left of the windows without the breaks, which are in order."""
    left: list[Window] = []
    for began, ended in windows:
        for paused, resumed in breaks:
            if began < resumed and paused < ended:
                left.append((began, max(began, paused)))
                began = min(resumed, ended)
        left.append((began, ended))
    return [(began, ended) for began, ended in left if began < ended]


def work(pieces: Iterable[witness.Piece], quiet: Sequence[Window], loud: Sequence[Window]) -> dict[str, Work]:
    """Sum up the witnesses' work in the windows, by kind: in those without harm, and in those with it.

    A piece belongs to the window in which it began; what failed counts whenever it was.
    """
    done = list(pieces)
    return {kind: _of([each for each in done if each["kind"] == kind], quiet, loud) for kind in witness.KINDS}


def _of(pieces: Sequence[witness.Piece], quiet: Sequence[Window], loud: Sequence[Window]) -> Work:
    failures = [f"{each['tenant']}: {each['failure']}" for each in pieces if each["failure"]]
    return {
        "quiet": percentile(_within(pieces, quiet)),
        "loud": percentile(_within(pieces, loud)),
        "pieces": len(pieces),
        "failed": len(failures),
        "failure": failures[0] if failures else "",
    }


def _within(pieces: Iterable[witness.Piece], windows: Sequence[Window]) -> list[float]:
    return [
        each["seconds"] for each in pieces if any(began <= each["at"] <= ended for began, ended in windows)
    ]


def percentile(seconds: Sequence[float]) -> float:
    """The 95th; not a number where there are too few to tell."""
    return statistics.quantiles(seconds, n=20)[18] if len(seconds) > 1 else float("nan")


def findings(found: Soaked) -> Iterator[str]:
    """A line for everything that is not as it must be, the latencies apart."""
    for update in found["updates"]:
        if update["failure"]:
            yield f"update {update['name']} failed: {update['failure']}"
    for tenant, wrong in found["receipts"].items():
        if wrong:
            yield f"the receipt of {tenant}: {wrong}"
    yield from found["findings"]
    for kind, done in found["work"].items():
        if done["failed"]:
            yield f"{done['failed']} of {done['pieces']} pieces of work ({kind}) failed; {done['failure']}"
    if found["left"]:
        yield f"an update would still change something: {found['left']}"


def counts(found: Soaked) -> Mapping[str, tuple[int, int]]:
    """Return the counts that must be zero, by name, each with its total."""
    done = found["work"].values()
    return {
        "updates that failed": (
            sum(bool(each["failure"]) for each in found["updates"]),
            len(found["updates"]),
        ),
        "removals without a clean receipt": (
            sum(map(bool, found["receipts"].values())),
            len(found["receipts"]),
        ),
        "attempts that were not denied": (found["attempts"] - found["denied"], found["attempts"]),
        "pieces of others' work that failed": (
            sum(each["failed"] for each in done),
            sum(each["pieces"] for each in done),
        ),
    }
