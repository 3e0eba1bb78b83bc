"""The review as one Markdown comment.

What others wrote (names, owners, values, messages) stands in code spans only: there it can neither format,
link, mention nor end a table. The engine masks secrets before they come here.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal

from review.changes import Change
from review.isolation import Circle, Move, Sharing
from review.model import Finding
from review.report import Review, TenantReview

MARKER = "<!-- agent-platform-review -->"
"""By this the comment is found again, to be edited in place."""
LIMIT = 60_000
"""Characters; a comment on GitHub holds 65,536."""
_ROWS = 50
"""Of one list; the rest is counted."""
_ICONS = {"create": "➕", "update": "✏️", "replace": "♻️", "delete": "🗑️"}  # noqa: RUF001 — plus sign
_FATES = {
    "added": "added",
    "removed": "**removed**",
    "moved": "moved",
    "offboarding": "**offboarding**",
    "suspended": "suspended",
    "changed": "changed",
}


def code(text: object) -> str:
    """`text` as a code span: shown as it is, whatever it holds."""
    shown = "".join(" " if character.isspace() else character for character in str(text))
    shown = "".join(
        "\ufffd" if unicodedata.category(one) in ("Cc", "Cf", "Cs", "Co") else one for one in shown
    )
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    padding = " " if shown.startswith("`") or shown.endswith("`") or not shown.strip() else ""
    return f"{fence}{padding}{shown}{padding}{fence}"


def block(text: str) -> str:
    """`text` of several lines, as it is."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def render(review: Review) -> str:
    """The comment; where it would be too long, the lists of resources stay in the JSON."""
    whole = _page(review, details=True)
    return whole if len(whole) <= LIMIT else _page(review, details=False)


def refusal(message: str) -> str:
    """The comment where nothing could be reviewed."""
    return f"{MARKER}\n\n## ⛔ No review\n\n{block(message)}\n"


def _page(review: Review, *, details: bool) -> str:
    sections = [
        MARKER,
        "## " + ("⛔ Must not be merged" if review.problems else "✅ May be merged once approved"),
        _scope(review),
        *_problems(review),
    ]
    if review.cost:
        sections += [
            _summary(review),
            *_losses(review.losses),
            *_approvals(review),
            *_tenants(review.tenants, details=details),
            *_shared(review, details=details),
            *_cost(review),
            *_circles(review.circles),
            *_findings(review.findings),
            *_pending(review),
        ]
        if not details:
            sections.append("The lists of resources are too long for a comment: they are in `review.json`.")
    return "\n\n".join(sections) + "\n"


def _scope(review: Review) -> str:
    scope = review.scope
    start = "what runs now" if scope.from_state else "nothing (no backend was given)"
    return (
        f"Stack {code(scope.stack)}: this checkout ({code(scope.head_commit[:12])}) merged with "
        f"{code(scope.base)} ({code(scope.base_commit[:12])}). Planned from {start}."
    )


def _problems(review: Review) -> Iterable[str]:
    if review.problems:
        yield "\n".join(
            f"- {code(problem)}" if "\n" not in problem else block(problem) for problem in review.problems
        )


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


def _losses(losses: Sequence[Change]) -> Iterable[str]:
    if not losses:
        return
    yield f"### 🚨 Data goes with {len(losses)} {'resource' if len(losses) == 1 else 'resources'}"
    rows = [
        [code(change.owner), f"**{change.operation.upper()}**", code(change.name), change.lost, _why(change)]
        for change in losses
    ]
    yield _table(["whose", "step", "resource", "what is gone", "because of"], rows)


def _why(change: Change) -> str:
    causes = [code(item.path) for item in change.properties if item.replaces]
    return ", ".join(causes) or ("its removal" if change.operation == "delete" else "its replacement")


def _approvals(review: Review) -> Iterable[str]:
    yield "### Who must approve"
    if not review.approvals:
        yield "Nobody in particular."
        return
    rows = [
        [
            approval.approver + (f" {code(approval.person)}" if approval.person else ""),
            "; ".join(f"{reason.because}: {_names(reason.causes)}" for reason in approval.reasons),
        ]
        for approval in review.approvals
    ]
    yield _table(["who", "why"], rows)


def _tenants(tenants: Sequence[TenantReview], *, details: bool) -> Iterable[str]:
    if not tenants:
        return
    yield "### Tenants"
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
    heads = [
        "tenant",
        "name",
        "change",
        "what",
        "create",
        "update",
        "replace",
        "delete",
        "CHF\u00a0a\u00a0month",
    ]
    yield _table(heads, rows)
    if details:
        for tenant in tenants[:_ROWS]:
            yield _folded(
                f"{tenant.id}: what it shares, and its resources",
                [_isolation(tenant), _steps(tenant.changes)],
            )


def _isolation(tenant: TenantReview) -> str:
    if not tenant.moves:
        return "What it shares, and with whom, stays as it is."
    rows = [[_warned(move), _shares(move.before), _shares(move.after)] for move in tenant.moves]
    return _table(["isolation", "before", "after"], rows)


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


def _shared(review: Review, *, details: bool) -> Iterable[str]:
    for title, made in (("Cluster", review.cluster), ("Platform", review.platform)):
        if made:
            yield f"### {title}: {_counted(made)}"
            if details:
                yield _steps(made)


def _steps(made: Sequence[Change]) -> str:
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
    return _table(["step", "resource", "kind", "what differs"], rows)


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


def _cost(review: Review) -> Iterable[str]:
    assert review.cost is not None, "only a whole review has its cost"  # noqa: S101
    cost = review.cost
    yield "### Cost in CHF a month"
    rows = [_amounts("**the whole bill**", cost.before, cost.after)]
    rows += [_amounts(code(one.id), one.cost_before, one.cost_after) for one in review.tenants]
    if cost.others:
        others = f"{cost.others} other {'tenant' if cost.others == 1 else 'tenants'}"
        rows.insert(1, _amounts(others, cost.others_before, cost.others_after))
    yield _table(["", "before", "after", "difference"], rows)
    yield (
        f"Sold and awake: {_percent(cost.compute_used_before)} of the shared nodes before, "
        f"{_percent(cost.compute_used_after)} after. Prices and assumptions: `review/prices.yaml`; no "
        f"source could be read for: {', '.join(cost.unverified)}."
    )
    if cost.compute_used_after > 1:
        yield "⚠️ More is sold and awake than the shared nodes hold: add nodes to a pool."


def _amounts(whose: str, before: Decimal, after: Decimal) -> list[str]:
    return [whose, _chf(before), _chf(after), _delta(before, after)]


def _circles(circles: Sequence[Circle]) -> Iterable[str]:
    if not circles:
        return
    yield "### Who shares what"
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
    yield _table(["layer", "shared", "tenants before", "after", "joining", "leaving"], rows)


def _names_or_none(names: Sequence[str]) -> str:
    return _names(names) if names else "-"


def _findings(findings: Sequence[Finding]) -> Iterable[str]:
    yield "### Policy findings"
    if not findings:
        yield "None."
        return
    rows = [
        [finding.level, code(finding.policy), code(finding.urn.rpartition("::")[2]), code(finding.message)]
        for finding in findings
    ]
    yield _table(["level", "policy", "resource", "what"], rows)


def _pending(review: Review) -> Iterable[str]:
    for title, made in (
        ("Not from this change, yet part of the next update", review.pending),
        ("Pending before this change, and not after it", review.settled),
    ):
        if made:
            yield _folded(f"{title}: {len(made)}", [_steps(made)])


def _folded(summary: str, parts: Sequence[str]) -> str:
    body = "\n\n".join(parts)
    return f"<details><summary>{summary}</summary>\n\n{body}\n\n</details>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of as many rows as are read."""
    shown = [heads, ["---"] * len(heads), *rows[:_ROWS]]
    lines = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in shown)
    table = "\n".join(f"| {line} |" for line in lines)
    more = len(rows) - _ROWS
    return table + (f"\n\n… and {more} more, in `review.json`." if more > 0 else "")


def _chf(amount: Decimal) -> str:
    return f"{amount:,.2f}".replace(",", "'")


def _delta(before: Decimal, after: Decimal) -> str:
    difference = round(after - before, 2)
    return "±0.00" if not difference else f"{'+' if difference > 0 else '−'}{_chf(abs(difference))}"  # noqa: RUF001


def _percent(share: Decimal) -> str:
    return f"{share * 100:.0f} %"
