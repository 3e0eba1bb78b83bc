"""The review as one Markdown comment.

What others wrote (names, owners, values, messages) stands in code spans only: there it can neither format,
link, mention nor end a table. The engine masks secrets before they come here.

The comment is bounded whatever is reviewed. Sections stand in the order of their importance; where they do
not all fit, resource lists go first, then rows of each table, then the last sections. The page names what
was cut, and `review.json` has it.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from review.changes import Change
from review.isolation import Circle, Move, Sharing
from review.model import Finding
from review.report import Review, TenantReview

MARKER = "<!-- agent-platform-review -->"
"""By this the comment is found again, to be edited in place."""
LIMIT = 60_000
"""Characters; a comment on GitHub holds 65,536."""
_TEXT = 240
"""Characters of one text in a table."""
_PROBLEM = 600
"""Characters of one reason why it must not be merged."""
_BLOCK = 20_000
"""Characters of a text of several lines."""
_ICONS = {"create": "➕", "update": "✏️", "replace": "♻️", "delete": "🗑️"}  # noqa: RUF001 — plus sign
_FATES = {
    "added": "added",
    "removed": "**removed**",
    "moved": "moved",
    "offboarding": "**offboarding**",
    "suspended": "suspended",
    "moving": "about to move",
    "changed": "changed",
}


@dataclass(frozen=True)
class _Size:
    """The number of entries written of each list."""

    rows: int
    """Of one list; the rest is counted."""
    resources: bool
    """Each tenant's and each layer's resources, one by one."""


_SIZES = (_Size(50, True), _Size(50, False), _Size(10, False))
"""From the largest; the first that fits is taken."""


def code(text: object, limit: int = _TEXT) -> str:
    """`text` as a code span: shown as it is, whatever it holds, up to `limit` characters."""
    shown = "".join(" " if character.isspace() else character for character in _shortened(str(text), limit))
    shown = "".join(
        "\ufffd" if unicodedata.category(one) in ("Cc", "Cf", "Cs", "Co") else one for one in shown
    )
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    padding = " " if shown.startswith("`") or shown.endswith("`") or not shown.strip() else ""
    return f"{fence}{padding}{shown}{padding}{fence}"


def _shortened(text: str, limit: int) -> str:
    """Cut a text in its middle, where its end says as much as its beginning."""
    if len(text) <= limit:
        return text
    head = limit * 2 // 3
    return f"{text[:head]} … {text[head - limit :]}"


def block(text: str) -> str:
    """`text` of several lines, as it is, up to where it would be too long for a comment."""
    if len(text) > _BLOCK:
        shown = text[:_BLOCK].rsplit("\n", 1)[0] if "\n" in text[:_BLOCK] else text[:_BLOCK]
        lines = text.count("\n") - shown.count("\n")
        text = f"{shown}\n… and {lines} more {'line' if lines == 1 else 'lines'}, in review.json"
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def render(review: Review) -> str:
    """Write the comment, of at most `LIMIT` characters."""
    for size in _SIZES:
        page = "\n\n".join(_sections(review, size)) + "\n"
        if len(page) <= LIMIT:
            return page
    return _cut(_sections(review, _SIZES[-1]))


def _cut(sections: Iterable[str]) -> str:
    """Join the sections that fit, the most important first, and say which do not."""
    kept: list[str] = []
    missing: list[str] = []
    room = LIMIT - 1_000
    for section in sections:
        if len(section) + 2 <= room:
            kept.append(section)
            room -= len(section) + 2
        else:
            missing.append(_title(section))
    if missing:
        kept.append(f"**Too long for a comment, in `review.json`:** {', '.join(map(code, missing[:8]))}.")
    return "\n\n".join(kept) + "\n"


def _title(section: str) -> str:
    """Name a section by its heading; only a problem of several lines has none."""
    first = section.split("\n", 1)[0]
    return "a problem" if first.startswith("`") else re.sub(r"<[^>]*>|#", "", first).strip()


def refusal(message: str) -> str:
    """The comment where nothing could be reviewed."""
    return f"{MARKER}\n\n## ⛔ No review\n\n{block(message)}\n"


def _sections(review: Review, size: _Size) -> Iterator[str]:
    yield MARKER
    yield "## " + ("⛔ Must not be merged" if review.problems else "✅ May be merged once approved")
    yield _scope(review)
    yield from _problems(review, size)
    if not review.cost:
        return
    blocked = any(finding.level == "mandatory" for finding in review.findings)
    yield _summary(review)
    yield from _losses(review.losses, size)
    if blocked:
        yield _findings(review.findings, size)
    yield _approvals(review, size)
    yield from _tenants(review.tenants, size)
    yield from _shared(review, size)
    yield _cost(review, size)
    yield from _circles(review.circles, size)
    if not blocked:
        yield _findings(review.findings, size)
    yield from _pending(review, size)
    if not size.resources:
        yield "The lists of resources are too long for a comment: they are in `review.json`."


def _scope(review: Review) -> str:
    scope = review.scope
    start = "what runs now" if scope.from_state else "nothing (no backend was given)"
    return (
        f"Stack {code(scope.stack)}: this checkout ({code(scope.head_commit[:12])}) merged with "
        f"{code(scope.base)} ({code(scope.base_commit[:12])}). Planned from {start}."
    )


def _problems(review: Review, size: _Size) -> Iterator[str]:
    lines = [problem for problem in review.problems if "\n" not in problem]
    if lines:
        yield "\n".join(f"- {code(line, _PROBLEM)}" for line in lines[: size.rows]) + _more(lines, size)
    yield from (block(problem) for problem in review.problems if "\n" in problem)


def _summary(review: Review) -> str:
    assert review.cost is not None, "only a whole review has a summary"  # noqa: S101
    fates = Counter(tenant.fate for tenant in review.tenants)
    told = [f"{count} {fate}" for fate, count in fates.items()]
    tenants = f"Tenants: {', '.join(told)}." if told else "No tenant changes."
    shared = f"Cluster: {_counted(review.cluster)}. Platform: {_counted(review.platform)}."
    cost = f"Monthly cost: **CHF {_chf(review.cost.before)} → {_chf(review.cost.after)}**"
    return f"{tenants} {shared} {cost} ({_delta(review.cost.before, review.cost.after)})."


def _counted(made: Sequence[Change]) -> str:
    counts = Counter(change.operation for change in made)
    return ", ".join(f"{count} {operation}" for operation, count in counts.items()) or "unchanged"


def _losses(losses: Sequence[Change], size: _Size) -> Iterator[str]:
    if not losses:
        return
    title = f"### 🚨 Data goes with {len(losses)} {'resource' if len(losses) == 1 else 'resources'}"
    rows = [
        [code(change.owner), f"**{change.operation.upper()}**", code(change.name), change.lost, _why(change)]
        for change in losses
    ]
    heads = ["whose", "step", "resource", "what is gone", "because of"]
    yield _under(title, _table(heads, rows, size))


def _why(change: Change) -> str:
    causes = [item.path for item in change.properties if item.replaces]
    return (
        _names(causes) if causes else ("its removal" if change.operation == "delete" else "its replacement")
    )


def _approvals(review: Review, size: _Size) -> str:
    title = "### Who must approve"
    if not review.approvals:
        return _under(title, "Nobody in particular.")
    rows = [
        [
            approval.approver + (f" {code(approval.person)}" if approval.person else ""),
            "; ".join(f"{reason.because}: {_names(reason.causes)}" for reason in approval.reasons),
        ]
        for approval in review.approvals
    ]
    return _under(title, _table(["who", "why"], rows, size))


def _tenants(tenants: Sequence[TenantReview], size: _Size) -> Iterator[str]:
    if not tenants:
        return
    rows = [
        [
            code(tenant.id),
            code(tenant.name),
            _FATES[tenant.fate],
            tenant.detail,
            *(str(tenant.counts.get(step, 0) or "") for step in ("create", "update", "replace", "delete")),
            f"{_chf(tenant.cost_before)}\u00a0→\u00a0{_chf(tenant.cost_after)}",
        ]
        for tenant in tenants
    ]
    steps = ["create", "update", "replace", "delete"]
    heads = ["tenant", "name", "change", "what", *steps, "CHF\u00a0a\u00a0month"]
    yield _under("### Tenants", _table(heads, rows, size))
    if size.resources:
        for tenant in tenants[: size.rows]:
            yield _folded(
                f"{tenant.id}: what it shares, and its resources",
                [_isolation(tenant, size), _steps(tenant.changes, size)],
            )


def _isolation(tenant: TenantReview, size: _Size) -> str:
    if not tenant.moves:
        return "What it shares, and with whom, stays as it is."
    rows = [[_warned(move), _shares(move.before), _shares(move.after)] for move in tenant.moves]
    return _table(["isolation", "before", "after"], rows, size)


def _warned(move: Move) -> str:
    return f"⚠️ {move.layer}" if move.weaker else move.layer


def _shares(sharing: Sharing | None) -> str:
    if sharing is None:
        return "-"
    if sharing.own:
        return f"🔒 its own: {sharing.what}"
    return f"{sharing.what}, with {_names(sharing.others)}"


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(code(name) for name in names[:5])
    more = len(names) - 5
    return (shown or "nobody so far") + (f" and {more} more" if more > 0 else "")


def _shared(review: Review, size: _Size) -> Iterator[str]:
    for layer, made in (("Cluster", review.cluster), ("Platform", review.platform)):
        if made:
            title = f"### {layer}: {_counted(made)}"
            yield _under(title, _steps(made, size)) if size.resources else title


def _steps(made: Sequence[Change], size: _Size) -> str:
    if not made:
        return "No resource of its own changes."
    rows = [
        [
            f"{_ICONS[change.operation]} {change.operation}",
            code(change.name),
            code(_kind(change.type)),
            _properties(change),
        ]
        for change in made
    ]
    return _table(["step", "resource", "kind", "what differs"], rows, size)


def _kind(token: str) -> str:
    return token.rpartition(":")[2]


def _properties(change: Change) -> str:
    shown = [
        f"{code(item.path)} {code(item.before)} → {code(item.after)}"
        if item.before is not None and item.after is not None
        else code(item.path)
        for item in change.properties[:4]
    ]
    more = len(change.properties) - 4
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _cost(review: Review, size: _Size) -> str:
    assert review.cost is not None, "only a whole review has its cost"  # noqa: S101
    cost = review.cost
    rows = [_amounts("**the whole bill**", cost.before, cost.after)]
    if cost.others:
        others = f"{cost.others} other {'tenant' if cost.others == 1 else 'tenants'}"
        rows.append(_amounts(others, cost.others_before, cost.others_after))
    rows += [_amounts(code(one.id), one.cost_before, one.cost_after) for one in review.tenants]
    parts = [
        _table(["", "before", "after", "difference"], rows, size),
        f"Sold and awake: {_percent(cost.compute_used_before)} of the shared nodes before, "
        f"{_percent(cost.compute_used_after)} after. Prices and assumptions: `review/prices.yaml`; no "
        f"source could be read for: {', '.join(cost.unverified)}.",
    ]
    if cost.compute_used_after > 1:
        parts.append("⚠️ More is sold and awake than the shared nodes hold: add nodes to a pool.")
    return _under("### Cost in CHF a month", *parts)


def _amounts(whose: str, before: Decimal, after: Decimal) -> list[str]:
    return [whose, _chf(before), _chf(after), _delta(before, after)]


def _circles(circles: Sequence[Circle], size: _Size) -> Iterator[str]:
    if not circles:
        return
    rows = [
        [
            circle.layer,
            circle.what,
            str(circle.before),
            str(circle.after),
            _names_or_none(circle.joined),
            _names_or_none(circle.left),
        ]
        for circle in circles
    ]
    heads = ["layer", "shared", "tenants before", "after", "joining", "leaving"]
    yield _under("### Who shares what", _table(heads, rows, size))


def _names_or_none(names: Sequence[str]) -> str:
    return _names(names) if names else "-"


def _findings(findings: Sequence[Finding], size: _Size) -> str:
    title = "### Policy findings"
    if not findings:
        return _under(title, "None.")
    # Those that keep it from being merged come first.
    ordered = sorted(findings, key=lambda finding: finding.level != "mandatory")
    rows = [
        [finding.level, code(finding.policy), code(finding.urn.rpartition("::")[2]), code(finding.message)]
        for finding in ordered
    ]
    return _under(title, _table(["level", "policy", "resource", "what"], rows, size))


def _pending(review: Review, size: _Size) -> Iterator[str]:
    for title, made in (
        ("From this change, and running already", review.running),
        ("Not from this change, yet part of the next update", review.pending),
        ("Pending before this change, and not after it", review.settled),
    ):
        if made:
            yield _folded(f"{title}: {len(made)}", [_steps(made, size)])


def _under(title: str, *parts: str) -> str:
    return "\n\n".join([title, *parts])


def _folded(summary: str, parts: Sequence[str]) -> str:
    body = "\n\n".join(parts)
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], size: _Size) -> str:
    """A table of as many rows as are read."""
    shown = [heads, ["---"] * len(heads), *rows[: size.rows]]
    lines = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in shown)
    return "\n".join(f"| {line} |" for line in lines) + _more(rows, size)


def _more(rows: Sequence[object], size: _Size) -> str:
    more = len(rows) - size.rows
    return f"\n\n… and {more} more, in `review.json`." if more > 0 else ""


def _chf(amount: Decimal) -> str:
    return f"{amount:,.2f}".replace(",", "'")


def _delta(before: Decimal, after: Decimal) -> str:
    difference = round(after - before, 2)
    return "±0.00" if not difference else f"{'+' if difference > 0 else '−'}{_chf(abs(difference))}"  # noqa: RUF001


def _percent(share: Decimal) -> str:
    return f"{share * 100:.0f} %"
